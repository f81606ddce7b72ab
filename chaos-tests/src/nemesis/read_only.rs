//! File systems that take no more writes.

use anyhow::Result;

use super::{Fault, Target};
use crate::{fleet::Fleet, seeded::Words};

/// A volume turns read-only with files open, as after an error of the disk;
/// healed by a new mount and a start.
pub struct ReadOnly {
    words: Words,
    victim: Option<usize>,
}

impl ReadOnly {
    /// One whose victim follows from the seed.
    pub fn new(seed: u64) -> ReadOnly {
        ReadOnly {
            words: Words::new(seed),
            victim: None,
        }
    }
}

impl Fault for ReadOnly {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let victim = Target::Any.pick_one(fleet, &mut self.words)?;
        self.victim = Some(victim);
        fleet.read_only(victim)
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
