//! A zone that is lost as a whole and comes back.

use anyhow::Result;

use super::{Fault, Target};
use crate::{fleet::Fleet, seeded::Words};

/// Zones that are drawn until one differs from the last; there may be only one.
const DRAWS: usize = 32;

/// All nodes of a zone end in one instant: by a power cut where they have
/// volumes of their own, else by `kill -9`. After a power cut it is another
/// zone's turn.
pub struct ZoneLoss {
    words: Words,
    victims: Vec<usize>,
}

impl ZoneLoss {
    /// One whose zone follows from the seed.
    pub fn new(seed: u64) -> ZoneLoss {
        ZoneLoss {
            words: Words::new(seed),
            victims: Vec::new(),
        }
    }
}

impl Fault for ZoneLoss {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let zone = |number: usize| fleet.node(number).zone.clone();
        let last = fleet.cuts().last().map(|cut| zone(cut.node));
        for _ in 0..DRAWS {
            self.victims = Target::Zone.pick(fleet, &mut self.words)?;
            if self.victims.first().map(|victim| zone(*victim)) != last {
                break;
            }
        }
        if fleet.has_world() {
            return fleet.power_cut(&self.victims, None);
        }
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
