//! Volumes without space.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Fault, NOT_ALONE, Target};
use crate::{fleet::Fleet, seeded::Words, wait::until};

/// From the moment there is space again until a node takes part again.
const ALONE_LIMIT: Duration = Duration::from_secs(20);

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

    fn victims(&self) -> &[usize] {
        self.victim.as_slice()
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        if let Some(victim) = self.victim.take() {
            fleet.relieve(victim)?;
            let name = fleet.node(victim).name.clone();
            let takes_part = |status: Value| {
                let rows = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
                let own = rows.iter().find(|row| row["name"] == *name);
                let uses_it = own.is_some_and(|row| row["volume"] == "ok");
                !status["leader"].is_null() && uses_it
            };
            let alone = until("a node to use its volume again", ALONE_LIMIT, || {
                let is_back =
                    fleet.has_ended(victim)? || fleet.status(victim).is_ok_and(takes_part);
                Ok(is_back.then_some(()))
            });
            if alone.is_err() {
                let detail = json!({"node": fleet.node(victim).name, "fault": if self.inodes { "inodes-full" } else { "disk-full" }});
                fleet.events().enter(NOT_ALONE, detail);
            }
            // What a node does when it cannot write may be to end.
            if alone.is_err() || fleet.has_ended(victim)? {
                fleet.kill(victim);
                fleet.start_node(victim)?;
            }
        }
        Ok(())
    }
}
