//! Nodes that are told to end, and do so in good order.

use anyhow::Result;

use super::{Fault, Target};
use crate::{fleet::Fleet, seeded::Words};

/// SIGTERM; healed by a start.
pub struct Stop {
    words: Words,
    target: Target,
    victims: Vec<usize>,
}

impl Stop {
    /// One whose victims follow from the seed.
    pub fn new(seed: u64, target: Target) -> Stop {
        Stop {
            words: Words::new(seed),
            target,
            victims: Vec::new(),
        }
    }
}

impl Fault for Stop {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        self.victims = self.target.pick(fleet, &mut self.words)?;
        for number in &self.victims {
            fleet.stop(*number)?;
        }
        Ok(())
    }

    fn victims(&self) -> &[usize] {
        &self.victims
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        for number in self.victims.drain(..) {
            fleet.revive(number)?;
        }
        Ok(())
    }
}
