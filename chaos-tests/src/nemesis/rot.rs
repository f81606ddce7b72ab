//! Bits that change on disk.

use std::path::Path;

use anyhow::Result;

use super::{Fault, Target};
use crate::{fleet::Fleet, seeded::Words};

/// Where blobs are, in a volume.
pub(super) const BLOBS: [&str; 2] = ["data/blobs/segments", "data/blobs/files"];

/// Places that rot in one step, and bytes of each at most.
const PLACES: usize = 4;
const BYTES_MAX: usize = 64;

/// Bytes of stored blobs are inverted under a running node. There is nothing
/// to heal: the node finds them when they are read or scrubbed, and repair
/// makes new copies.
pub struct Rot {
    words: Words,
}

impl Rot {
    /// One whose places follow from the seed.
    pub fn new(seed: u64) -> Rot {
        Rot {
            words: Words::new(seed),
        }
    }
}

impl Fault for Rot {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let victim = Target::Any.pick_one(fleet, &mut self.words)?;
        let volume = fleet.node(victim).volume()?;
        let mut files = Vec::new();
        for dir in BLOBS {
            files.extend(volume.files(Path::new(dir))?);
        }
        files.retain(|(_, length)| *length > 0);
        for _ in 0..PLACES {
            let Some((path, length)) = files.get(self.words.below(files.len().max(1))) else {
                break;
            };
            let offset = self.words.below(*length as usize);
            let count = (1 + self.words.below(BYTES_MAX)).min(*length as usize - offset);
            fleet.rot(victim, path, offset as u64, count)?;
        }
        Ok(())
    }

    fn heal(&mut self, _fleet: &mut Fleet) -> Result<()> {
        Ok(())
    }
}
