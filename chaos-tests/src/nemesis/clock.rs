//! Wall clocks that are wrong.

use anyhow::Result;

use super::{Fault, Target};
use crate::{fleet::Fleet, seeded::Words};

/// Steps in seconds: ten minutes and a day, in either direction.
const STEPS: [i64; 4] = [-86_400, -600, 600, 86_400];

/// The wall clocks of its victims step, each its own way; healed by a step
/// back.
pub struct Clock {
    words: Words,
    target: Target,
    victims: Vec<usize>,
}

impl Clock {
    /// One whose victims and steps follow from the seed.
    pub fn new(seed: u64, target: Target) -> Clock {
        Clock {
            words: Words::new(seed),
            target,
            victims: Vec::new(),
        }
    }
}

impl Fault for Clock {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        self.victims = self.target.pick(fleet, &mut self.words)?;
        for number in &self.victims {
            fleet.step_clock(*number, STEPS[self.words.below(STEPS.len())])?;
        }
        Ok(())
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        for number in self.victims.drain(..) {
            fleet.step_clock(number, 0)?;
        }
        Ok(())
    }
}
