//! Machines that lose what they had not synced, or a part of it.

use std::time::Duration;

use anyhow::Result;

use super::{Fault, Target};
use crate::{
    fleet::Fleet,
    rig::faultdisk::{Keep, Slow},
    seeded::Words,
    wait::until,
};

/// Until a disk holds something that a cut can tear; a node that is idle
/// writes now and then.
const UNSYNCED_LIMIT: Duration = Duration::from_secs(3);

/// How long flushes take meanwhile: the longer, the more a cut finds.
const SYNC_MS: std::ops::Range<u64> = 30..60;

/// A power cut of volume and process in one instant; healed by a start, one
/// node after the other.
pub struct PowerCut {
    words: Words,
    target: Target,
    is_torn: bool,
    victims: Vec<usize>,
}

impl PowerCut {
    /// One whose victims follow from the seed, and that leaves nothing that
    /// was not synced.
    pub fn new(seed: u64, target: Target) -> PowerCut {
        PowerCut {
            words: Words::new(seed),
            target,
            is_torn: false,
            victims: Vec::new(),
        }
    }

    /// One that leaves a part of the writes that were not synced, or of their
    /// blocks.
    pub fn torn(seed: u64, target: Target) -> PowerCut {
        PowerCut {
            is_torn: true,
            ..PowerCut::new(seed, target)
        }
    }
}

impl Fault for PowerCut {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        self.victims = self.target.pick(fleet, &mut self.words)?;
        if !self.is_torn {
            return fleet.power_cut(&self.victims, None);
        }
        let keep = [Keep::Some, Keep::Torn][self.words.below(2)];
        let seed = self.words.next().unwrap_or_default();
        for number in &self.victims {
            let slow = Slow {
                sync_ms: SYNC_MS,
                ..Slow::default()
            };
            fleet.slow_disk(*number, slow)?;
        }
        let volume = fleet.node(self.victims[0]).volume()?;
        // Fine without: then there is nothing to lose just now.
        let _ = until("writes that are not synced", UNSYNCED_LIMIT, || {
            Ok((volume.told()?.unsynced_bytes > 0).then_some(()))
        });
        let cut = fleet.power_cut(&self.victims, Some((keep, seed)));
        let lifted = self.victims.iter().map(|number| fleet.lift_disk(*number));
        cut.and(lifted.collect())
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
