//! Machines that lose what they had not synced.

use anyhow::Result;

use super::{Fault, Target};
use crate::{fleet::Fleet, seeded::Words};

/// A power cut of volume and process in one instant; healed by a start, one
/// node after the other.
pub struct PowerCut {
    words: Words,
    target: Target,
    victims: Vec<usize>,
}

impl PowerCut {
    /// One whose victims follow from the seed.
    pub fn new(seed: u64, target: Target) -> PowerCut {
        PowerCut {
            words: Words::new(seed),
            target,
            victims: Vec::new(),
        }
    }
}

impl Fault for PowerCut {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        self.victims = self.target.pick(fleet, &mut self.words)?;
        fleet.power_cut(&self.victims)
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
