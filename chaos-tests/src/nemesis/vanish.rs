//! Volumes that are gone.

use anyhow::Result;

use super::{Fault, Target};
use crate::{fleet::Fleet, seeded::Words};

/// A volume is taken away under a running node, which must not begin anew on
/// the empty folder below; healed by a mount and a start.
pub struct Vanish {
    words: Words,
    victim: Option<usize>,
}

impl Vanish {
    /// One whose victim follows from the seed.
    pub fn new(seed: u64) -> Vanish {
        Vanish {
            words: Words::new(seed),
            victim: None,
        }
    }
}

impl Fault for Vanish {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let victim = Target::Any.pick_one(fleet, &mut self.words)?;
        self.victim = Some(victim);
        fleet.vanish(victim)
    }

    fn victims(&self) -> &[usize] {
        self.victim.as_slice()
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        if let Some(victim) = self.victim.take() {
            fleet.recover_volume(victim)?;
            fleet.start_node(victim)?;
        }
        Ok(())
    }
}
