//! Volumes without space.

use anyhow::Result;

use super::{Fault, Target};
use crate::{fleet::Fleet, seeded::Words};

/// Something else takes all space of a volume, or all its inodes; healed by
/// giving it back, without a restart: a node must notice by itself.
pub struct DiskFull {
    words: Words,
    inodes: bool,
    victim: Option<usize>,
}

impl DiskFull {
    /// All bytes but a few, which follow from the seed.
    pub fn bytes(seed: u64) -> DiskFull {
        DiskFull {
            words: Words::new(seed),
            inodes: false,
            victim: None,
        }
    }

    /// All inodes.
    pub fn inodes(seed: u64) -> DiskFull {
        DiskFull {
            inodes: true,
            ..DiskFull::bytes(seed)
        }
    }
}

impl Fault for DiskFull {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let victim = Target::Any.pick_one(fleet, &mut self.words)?;
        self.victim = Some(victim);
        // None at all, or so little that it is gone within a moment.
        let spare = [0, 1 << 20][self.words.below(2)];
        let spare = (!self.inodes).then_some(spare);
        fleet.fill(victim, spare)
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        if let Some(victim) = self.victim.take() {
            fleet.relieve(victim)?;
            // What a node does when it cannot write may be to end.
            if fleet.has_ended(victim)? {
                fleet.kill(victim);
                fleet.start_node(victim)?;
            }
        }
        Ok(())
    }
}
