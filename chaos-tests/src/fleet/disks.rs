//! Disks below volumes, which fail as ordered.

use anyhow::Result;
use serde_json::json;

use super::Fleet;
use crate::rig::faultdisk::{Failure, Slow};

impl Fleet {
    /// The disk of a running node refuses what these say, until
    /// [`lift_disk`](Self::lift_disk).
    pub fn fail_disk(&mut self, number: usize, failures: &[Failure]) -> Result<()> {
        let node = &self.nodes[number];
        let detail = json!({"node": node.name, "failures": failures});
        self.events.enter("disk fails", detail);
        node.volume()?.fail(failures)
    }

    /// The disk of a running node takes longer, until
    /// [`lift_disk`](Self::lift_disk).
    pub fn slow_disk(&mut self, number: usize, slow: Slow) -> Result<()> {
        let node = &self.nodes[number];
        let detail = json!({"node": node.name, "slow": slow});
        self.events.enter("disk is slow", detail);
        node.volume()?.slow(slow)
    }

    /// The disk is a good one again; a volume that has met a failed write is
    /// still to be [recovered](Self::recover_volume).
    pub fn lift_disk(&mut self, number: usize) -> Result<()> {
        let node = &self.nodes[number];
        let volume = node.volume()?;
        let told = volume.told()?;
        volume.lift()?;
        let detail = json!({"node": node.name, "was_asked": told});
        self.events.enter("disk is good", detail);
        Ok(())
    }
}
