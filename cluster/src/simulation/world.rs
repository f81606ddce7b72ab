//! What happened in a run, and what must hold at every moment of it.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use super::{Outcome, history::History};
use crate::{Digest, raft::Applied};

/// How much happened, to see that a run was worth it.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counts {
    pub(crate) messages: u64,
    pub(crate) faults: u64,
    pub(crate) changes: u64,
    pub(crate) answers: u64,
    /// Answers about refs, in the end those of each node too, all of them judged.
    pub(crate) refs: u64,
    pub(crate) doubts: u64,
}

/// The record of a run. Clones are the same.
#[derive(Clone)]
pub(super) struct World {
    begun: Instant,
    // A std mutex: held for short synchronous sections.
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
pub(super) struct Record {
    trace: String,
    violations: Vec<String>,
    pub(super) counts: Counts,
    pub(super) history: History,
    /// Blobs that were acknowledged.
    pub(super) blobs: Vec<Digest>,
    /// Who led in a term.
    leaders: BTreeMap<u64, usize>,
    /// Checksum of what was applied up to an index, and who said so first.
    applied: BTreeMap<u64, (u32, usize)>,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            record: Arc::default(),
        }
    }

    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line to the trace.
    pub(super) fn trace(&self, line: std::fmt::Arguments<'_>) {
        let at = self.begun.elapsed().as_millis();
        let trace = &mut self.record().trace;
        // Writing to a string does not fail.
        let _ = writeln!(trace, "{at} {line}");
    }

    pub(super) fn violation(&self, what: String) {
        let line = format!("violation: {what}");
        self.record().violations.push(what);
        self.trace(format_args!("{line}"));
    }

    pub(super) fn is_good(&self) -> bool {
        self.record().violations.is_empty()
    }

    /// A term has one leader.
    pub(super) fn leads(&self, node: usize, term: u64) {
        let known = self.record().leaders.get(&term).copied();
        match known {
            None => {
                self.record().leaders.insert(term, node);
                self.trace(format_args!("node {node} leads in term {term}"));
            }
            Some(other) if other != node => {
                self.violation(format!("nodes {other} and {node} both lead in term {term}"));
            }
            Some(_) => {}
        }
    }

    /// Whoever has applied the same entries holds the same; an older epoch ends
    /// only when all owners of the current one have what they own.
    pub(super) fn applied(&self, node: usize, applied: &Applied) {
        let index = applied.index();
        let mut text = String::new();
        let _ = write!(text, "{:?}{:?}", applied.state, applied.refs);
        let sum = crc32c::crc32c(text.as_bytes());
        let known = self.record().applied.get(&index).copied();
        match known {
            None => {
                self.record().applied.insert(index, (sum, node));
                self.trace(format_args!("node {node} applied {index}: {sum:08x}"));
            }
            Some((other, first)) if other != sum => self.violation(format!(
                "nodes {first} and {node} differ in what they applied up to entry {index}"
            )),
            Some(_) => {}
        }
        let state = &applied.state;
        if let [only] = &*state.epochs
            && only.epoch.0 > 1
        {
            let mut owners = only
                .nodes
                .keys()
                .filter(|id| state.members.contains_key(id));
            if let Some(open) = owners.find(|id| !only.handed_off.contains(id)) {
                let epoch = only.epoch;
                self.violation(format!(
                    "epochs before {epoch} have ended, and owner {open} has not what it owns"
                ));
            }
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        let found = self.record().history.violations();
        for what in found {
            self.violation(what);
        }
        let mut record = self.record();
        record.counts.refs = record.history.calls();
        Outcome {
            trace: record.trace.clone(),
            violations: record.violations.clone(),
            simulated: self.begun.elapsed(),
            counts: record.counts,
        }
    }
}
