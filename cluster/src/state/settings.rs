//! Settings that must be the same on all nodes; kept in Raft, not in node.toml.

mod text;

use serde::{Deserialize, Serialize};

pub use text::SettingError;

/// Most copies of a blob. Beyond it a write costs more than any loss it guards against.
pub const MAX_REPLICAS: u32 = 9;

/// Most nodes that the first placement may wait for: a number that is never
/// reached would leave the cluster without owners for ever.
pub const MAX_INITIAL_NODES: u32 = 50;

/// Longest wait for a leader that may be set: past it a client has given up.
pub const MAX_REF_PATIENCE_MS: u32 = 60_000;

/// Removing costs a move of all that a node held; a reboot must not.
pub const MIN_AUTO_REMOVE_SECONDS: u32 = 600;
/// Slower than this, repair would never end.
pub const MIN_REPAIR_RATE: u64 = 1 << 20;
/// More often than this, a disk would do little else.
pub const MIN_SCRUB_SECONDS: u32 = 3_600;

/// Cluster settings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Copies wanted of each blob (R).
    pub replicas: u32,
    /// Copies that are durable before an upload is answered (W).
    pub write_quorum: u32,
    /// Seconds for which FindMissing, uploads and reads keep a blob from eviction.
    pub lease_seconds: u32,
    pub ref_reads: ReadMode,
    /// Milliseconds a ref call waits for a leader before it answers UNAVAILABLE.
    pub ref_patience_ms: u32,
    /// Nodes that the first placement waits for, so that a cluster that begins
    /// with several nodes does not begin by moving blobs between them.
    pub initial_nodes: u32,
    /// Seconds after which a member that is down is removed; 0 for never.
    pub auto_remove_seconds: u32,
    /// Bytes a second that repair moves to each node at most; 0 for no limit.
    pub repair_bytes_per_second: u64,
    /// Seconds within which every copy at rest is verified once.
    pub scrub_seconds: u32,
}

/// How ref reads are answered (promise P4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadMode {
    /// A hit from applied state, a miss only after a read barrier.
    #[default]
    Available,
    /// Every read after a read barrier.
    Linearizable,
}

impl ReadMode {
    /// As it is written in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Linearizable => "linearizable",
        }
    }
}

impl Settings {
    /// Refuses settings that do not fit together, with what was expected.
    pub fn check(&self) -> Result<(), String> {
        let (r, w) = (self.replicas, self.write_quorum);
        if !(1..=MAX_REPLICAS).contains(&r) {
            return Err(format!("replicas is {r}, expected 1 to {MAX_REPLICAS}"));
        }
        if !(1..=r).contains(&w) {
            return Err(format!("write_quorum is {w}, expected 1 to replicas ({r})"));
        }
        if self.lease_seconds == 0 {
            return Err(
                "lease_seconds is 0; what is reported present could be evicted at once".into(),
            );
        }
        let initial = self.initial_nodes;
        if !(1..=MAX_INITIAL_NODES).contains(&initial) {
            return Err(format!(
                "initial_nodes is {initial}, expected 1 to {MAX_INITIAL_NODES}"
            ));
        }
        let remove = self.auto_remove_seconds;
        if remove != 0 && remove < MIN_AUTO_REMOVE_SECONDS {
            return Err(format!(
                "auto_remove_seconds is {remove}, expected 0 or at least {MIN_AUTO_REMOVE_SECONDS}"
            ));
        }
        let rate = self.repair_bytes_per_second;
        if rate != 0 && rate < MIN_REPAIR_RATE {
            return Err(format!(
                "repair_bytes_per_second is {rate}, expected 0 or at least {MIN_REPAIR_RATE}"
            ));
        }
        if self.scrub_seconds < MIN_SCRUB_SECONDS {
            return Err(format!(
                "scrub_seconds is {}, expected at least {MIN_SCRUB_SECONDS}",
                self.scrub_seconds
            ));
        }
        let patience = self.ref_patience_ms;
        if patience > MAX_REF_PATIENCE_MS {
            return Err(format!(
                "ref_patience_ms is {patience}, expected at most {MAX_REF_PATIENCE_MS}"
            ));
        }
        Ok(())
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: 3,
            write_quorum: 2,
            lease_seconds: 3 * 60 * 60,
            ref_reads: ReadMode::Available,
            ref_patience_ms: 5_000,
            initial_nodes: 1,
            auto_remove_seconds: 0,
            repair_bytes_per_second: 0,
            scrub_seconds: 14 * 86_400,
        }
    }
}
