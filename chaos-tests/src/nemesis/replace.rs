//! Machines that come back under their old name with nothing on them.

use anyhow::Result;

use super::{Fault, Target};
use crate::{fleet::Fleet, seeded::Words};

/// The disk is lost; healed by a new one under the same name, which takes the
/// place of the old node.
pub struct Replace {
    words: Words,
    victim: Option<usize>,
}

impl Replace {
    /// One whose victim follows from the seed.
    pub fn new(seed: u64) -> Replace {
        Replace {
            words: Words::new(seed),
            victim: None,
        }
    }
}

impl Fault for Replace {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let victim = Target::Any.pick_one(fleet, &mut self.words)?;
        self.victim = Some(victim);
        fleet.kill(victim);
        fleet.erase(victim)
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        if let Some(victim) = self.victim.take() {
            // What began to be made there is no node.
            fleet.kill(victim);
            fleet.erase(victim)?;
            fleet.join(victim)?;
            fleet.start_node(victim)?;
        }
        Ok(())
    }
}
