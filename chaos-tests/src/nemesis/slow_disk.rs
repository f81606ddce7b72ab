//! Disks that take their time.

use anyhow::Result;

use super::{Fault, Target};
use crate::{fleet::Fleet, rig::faultdisk::Slow, seeded::Words};

/// Milliseconds of a flush.
const SYNC_MS: std::ops::Range<u64> = 10..300;

/// The disk of one node is slow to flush; healed by lifting that, without a
/// restart.
pub struct SlowDisk {
    words: Words,
    target: Target,
    victim: Option<usize>,
}

impl SlowDisk {
    /// One whose victim and delays follow from the seed.
    pub fn new(seed: u64, target: Target) -> SlowDisk {
        SlowDisk {
            words: Words::new(seed),
            target,
            victim: None,
        }
    }
}

impl Fault for SlowDisk {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let victim = self.target.pick_one(fleet, &mut self.words)?;
        self.victim = Some(victim);
        let slow = Slow {
            sync_ms: SYNC_MS,
            access_ms: 0..0,
            seed: self.words.next().unwrap_or_default(),
        };
        fleet.slow_disk(victim, slow)
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        match self.victim.take() {
            Some(victim) => fleet.lift_disk(victim),
            None => Ok(()),
        }
    }
}
