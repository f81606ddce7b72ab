//! Settings that must be the same on all nodes; kept in Raft, not in node.toml.

use serde::{Deserialize, Serialize};

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

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: 3,
            write_quorum: 2,
            lease_seconds: 3 * 60 * 60,
            ref_reads: ReadMode::Available,
            ref_patience_ms: 5_000,
        }
    }
}
