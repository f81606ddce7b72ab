//! Nodes that are removed while they run and hear nothing of it.

use anyhow::Result;

use super::{Fault, Target, lost_alone::cut_off, refusal::insist_refused};
use crate::{fleet::Fleet, rig::switch::Layer, seeded::Words};

/// A node is cut off and removed as dead, and then hears the others again: it
/// must be told, and end. Healed by a new node under the same name.
pub struct RemovedUnaware {
    words: Words,
    victim: Option<usize>,
    layer: Option<Layer>,
}

impl RemovedUnaware {
    /// One whose victim follows from the seed.
    pub fn new(seed: u64) -> RemovedUnaware {
        RemovedUnaware {
            words: Words::new(seed),
            victim: None,
            layer: None,
        }
    }
}

impl Fault for RemovedUnaware {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let victim = Target::Any.pick_one(fleet, &mut self.words)?;
        self.layer = Some(cut_off(fleet, &[victim])?);
        self.victim = Some(victim);
        fleet.remove_dead(victim)
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        if let Some(layer) = self.layer.take() {
            fleet.world()?.switch().lift(layer);
        }
        let Some(victim) = self.victim.take() else {
            return Ok(());
        };
        insist_refused(fleet, victim, "removed-unaware")?;
        fleet.replace(victim)
    }
}
