//! Nodes that were removed and do not know it.

use anyhow::Result;

use super::{Fault, Target, refusal::insist_refused};
use crate::{fleet::Fleet, seeded::Words};

/// A node is removed as dead, and comes back with all it had: it must be refused
/// and raise no term. Healed by a new node under the same name.
pub struct RemovedReturns {
    words: Words,
    victim: Option<usize>,
}

impl RemovedReturns {
    /// One whose victim follows from the seed.
    pub fn new(seed: u64) -> RemovedReturns {
        RemovedReturns {
            words: Words::new(seed),
            victim: None,
        }
    }
}

impl Fault for RemovedReturns {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let victim = Target::Any.pick_one(fleet, &mut self.words)?;
        self.victim = Some(victim);
        fleet.kill(victim);
        fleet.remove_dead(victim)?;
        // It may end by itself at once, and should say why.
        fleet.start_node(victim)
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        if let Some(victim) = self.victim.take() {
            insist_refused(fleet, victim, "removed-returns")?;
            fleet.replace(victim)?;
        }
        Ok(())
    }
}
