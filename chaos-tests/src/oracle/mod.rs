//! Judges of what clients were told, knowing nothing of how a cluster works.
//!
//! ```text
//!  history ──► linear      one register a key, as if there were one machine
//!          ──► available   the weaker promise of `refs.reads = "available"`
//!          ──► revisions   every write of a key raises its revision
//!          ──► blobs       what was acknowledged or called present is there
//!  cuts    ──► doubt       which answers are no evidence
//!  plan    ──► placement   which nodes should hold which slot
//! ```
//!
//! Each is a pure function, and is itself tested on histories that it must
//! refuse: a judge that finds nothing has shown nothing.

pub mod available;
pub mod blobs;
pub mod doubt;
mod frontier;
pub mod linear;
pub mod placement;
pub mod revisions;
#[cfg(test)]
mod simulated;
mod zones;

use std::fmt;

use anyhow::{Result, bail};

use crate::history::Operation;

/// Violations that a verdict lists; it counts all of them.
const LISTED: usize = 8;

/// Why a history is impossible.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The key that it is about.
    pub key: u32,
    /// The rule that is broken.
    pub rule: &'static str,
    /// The operation that cannot have been answered like this.
    pub impossible: Operation,
    /// The operations that make it impossible; as few as are needed.
    pub because: Vec<Operation>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "key {}: {}\n  impossible: {}",
            self.key, self.rule, self.impossible
        )?;
        for operation in &self.because {
            write!(f, "\n  because:    {operation}")?;
        }
        Ok(())
    }
}

/// What a judge found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Operations that were judged.
    pub operations: usize,
    /// Keys that were judged.
    pub keys: usize,
    /// At most one for each key, ascending.
    pub violations: Vec<Violation>,
    /// Keys whose history is too tangled to judge within bounds. They are
    /// neither good nor bad, and a run that has any has not passed.
    pub undecided: Vec<u32>,
}

impl Verdict {
    /// An error that explains the first violations, if there are any.
    pub fn insist(&self) -> Result<()> {
        if let Some(count) = Some(self.violations.len()).filter(|count| *count > 0) {
            let listed: Vec<_> = self
                .violations
                .iter()
                .take(LISTED)
                .map(ToString::to_string)
                .collect();
            bail!("{count} keys have a violation\n{}", listed.join("\n"));
        }
        if !self.undecided.is_empty() {
            bail!("keys {:?} could not be judged", self.undecided);
        }
        Ok(())
    }
}

/// Calls `judge` with the operations of each key, ascending by key.
fn per_key(history: &[Operation], mut judge: impl FnMut(u32, &mut [Operation])) {
    let mut sorted = history.to_vec();
    sorted.sort_unstable_by_key(|operation| (operation.key, operation.start, operation.end));
    for operations in sorted.chunk_by_mut(|a, b| a.key == b.key) {
        judge(operations[0].key, operations);
    }
}
