//! Disks that are put back as they were.

use std::path::PathBuf;

use anyhow::Result;

use super::{Fault, Target, refusal::insist_refused};
use crate::{fleet::Fleet, seeded::Words};

/// A copy of a volume is taken at first; half way through the node starts
/// on that copy, as from a backup, and has forgotten what it promised since.
/// It must be noticed, not believed. Healed by a new node in its place.
pub struct OldImage {
    words: Words,
    victim: Option<usize>,
    copy: Option<PathBuf>,
}

impl OldImage {
    /// One whose victim follows from the seed.
    pub fn new(seed: u64) -> OldImage {
        OldImage {
            words: Words::new(seed),
            victim: None,
            copy: None,
        }
    }
}

impl Fault for OldImage {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let victim = Target::Any.pick_one(fleet, &mut self.words)?;
        self.victim = Some(victim);
        let copy = fleet.world()?.dir().join("old-image");
        fleet.copy_volume(victim, &copy)?;
        self.copy = Some(copy);
        fleet.start_node(victim)?;
        fleet.wait_serving(victim)
    }

    fn tick(&mut self, fleet: &mut Fleet, passed: f64) -> Result<()> {
        if passed < 0.5 {
            return Ok(());
        }
        if let (Some(victim), Some(copy)) = (self.victim, self.copy.take()) {
            fleet.restore_volume(victim, &copy)?;
            std::fs::remove_file(copy)?;
            // It may end by itself at once, and should say why.
            fleet.start_node(victim)?;
        }
        Ok(())
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        let Some(victim) = self.victim.take() else {
            return Ok(());
        };
        // Else it still runs on what it has.
        if self.copy.is_none() {
            insist_refused(fleet, victim, "old-image")?;
        }
        fleet.replace(victim)
    }
}
