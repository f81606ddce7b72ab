//! Nodes that are there every other moment.

use anyhow::Result;

use super::{Fault, Target};
use crate::{fleet::Fleet, seeded::Words};

/// SIGSTOP and SIGCONT in turn, about once a second; healed by the latter.
pub struct Flap {
    words: Words,
    target: Target,
    victims: Vec<usize>,
    is_away: bool,
}

impl Flap {
    /// One whose victims follow from the seed.
    pub fn new(seed: u64, target: Target) -> Flap {
        Flap {
            words: Words::new(seed),
            target,
            victims: Vec::new(),
            is_away: false,
        }
    }
}

impl Fault for Flap {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        self.victims = self.target.pick(fleet, &mut self.words)?;
        Ok(())
    }

    fn tick(&mut self, fleet: &mut Fleet, _passed: f64) -> Result<()> {
        self.is_away = !self.is_away;
        for number in &self.victims {
            // Another fault may have ended it.
            match fleet.node(*number).pid() {
                Some(_) if self.is_away => fleet.pause(*number)?,
                _ => fleet.resume(*number)?,
            }
        }
        Ok(())
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        for number in self.victims.drain(..) {
            fleet.resume(number)?;
        }
        Ok(())
    }
}
