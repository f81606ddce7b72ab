//! Whom a fault hits.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{fleet::Fleet, seeded::Words, wait::until};

/// Long enough for an election.
const LEADER_LIMIT: Duration = Duration::from_secs(10);

/// A choice among the members that are well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One, drawn.
    Any,
    /// Whoever leads now; if nobody does, the first.
    Leader,
    /// All of a zone, which is drawn.
    Zone,
    /// All.
    All,
    /// These.
    Nodes(Vec<usize>),
}

impl Target {
    /// The victims, at least one.
    pub fn pick(&self, fleet: &Fleet, words: &mut Words) -> Result<Vec<usize>> {
        let mut healthy = fleet.healthy();
        ensure!(!healthy.is_empty(), "nobody is well");
        Ok(match self {
            Target::Any => vec![healthy[words.below(healthy.len())]],
            Target::Leader => {
                // Others may still take one for it that another fault has hit,
                // and there is none where the quorum went with it.
                let leader = until("a leader that is well", LEADER_LIMIT, || {
                    let leader = fleet.leader()?;
                    Ok(leader.filter(|number| healthy.contains(number)))
                });
                vec![leader.unwrap_or(healthy[0])]
            }
            Target::Zone => {
                let drawn = healthy[words.below(healthy.len())];
                let zone = &fleet.node(drawn).zone;
                healthy.retain(|number| fleet.node(*number).zone == *zone);
                healthy
            }
            Target::All => healthy,
            Target::Nodes(numbers) => numbers.clone(),
        })
    }

    /// One victim.
    pub fn pick_one(&self, fleet: &Fleet, words: &mut Words) -> Result<usize> {
        Ok(self.pick(fleet, words)?[0])
    }
}

/// In an order that follows from the words.
pub(super) fn shuffled(mut numbers: Vec<usize>, words: &mut Words) -> Vec<usize> {
    for last in (1..numbers.len()).rev() {
        numbers.swap(last, words.below(last + 1));
    }
    numbers
}
