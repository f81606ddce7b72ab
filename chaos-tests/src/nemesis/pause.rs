//! Nodes that do nothing for a while and know nothing of it.

use anyhow::Result;

use super::{Fault, Target};
use crate::{fleet::Fleet, seeded::Words};

/// SIGSTOP, healed by SIGCONT; connections stay.
pub struct Pause {
    words: Words,
    target: Target,
    victims: Vec<usize>,
}

impl Pause {
    /// One whose victims follow from the seed.
    pub fn new(seed: u64, target: Target) -> Pause {
        Pause {
            words: Words::new(seed),
            target,
            victims: Vec::new(),
        }
    }
}

impl Fault for Pause {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        self.victims = self.target.pick(fleet, &mut self.words)?;
        for number in &self.victims {
            fleet.pause(*number)?;
        }
        Ok(())
    }

    fn victims(&self) -> &[usize] {
        &self.victims
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        for number in self.victims.drain(..) {
            fleet.resume(number)?;
        }
        Ok(())
    }
}
