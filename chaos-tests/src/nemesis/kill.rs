//! Processes that are gone from one instant to the next.

use anyhow::Result;

use super::{Fault, Target};
use crate::{fleet::Fleet, seeded::Words};

/// `kill -9`; healed by a start on the same data.
pub struct Kill {
    words: Words,
    target: Target,
    victims: Vec<usize>,
}

impl Kill {
    /// One whose victims follow from the seed.
    pub fn new(seed: u64, target: Target) -> Kill {
        Kill {
            words: Words::new(seed),
            target,
            victims: Vec::new(),
        }
    }
}

impl Fault for Kill {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        self.victims = self.target.pick(fleet, &mut self.words)?;
        for number in &self.victims {
            fleet.kill(*number);
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
