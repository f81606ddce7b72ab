//! `[raft]` of `weir.toml`.

use serde::{Deserialize, Serialize};

use crate::planted::{self, Bug};

/// How this node takes part in Raft. Use the same values on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftConfig {
    /// Milliseconds between the leader's signs of life.
    pub heartbeat_ms: u64,
    /// Milliseconds of silence after which a node may call an election, at least
    /// and at most; each node draws its own between them. Shorter finds a dead
    /// leader sooner; too short, and a disk that stalls costs an election. At
    /// least three heartbeats, and ten times what an fsync takes here.
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    /// Log entries after which a snapshot is made and the log cut. Fewer make a
    /// restart quicker; more let a node that was away catch up without a
    /// snapshot.
    pub snapshot_entries: u64,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            heartbeat_ms: 100,
            election_min_ms: 300,
            election_max_ms: 600,
            snapshot_entries: 50_000,
        }
    }
}

impl RaftConfig {
    /// What does not hold, as key and message.
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, key, message: &str| {
            if !holds {
                faults.push((key, message.to_owned()));
            }
        };
        let heartbeat = self.heartbeat_ms;
        expect(
            (10..=10_000).contains(&heartbeat),
            "raft.heartbeat_ms",
            "expected 10 to 10000",
        );
        expect(
            self.election_min_ms >= 3 * heartbeat,
            "raft.election_min_ms",
            "expected at least three times raft.heartbeat_ms",
        );
        expect(
            self.election_max_ms > self.election_min_ms && self.election_max_ms <= 60_000,
            "raft.election_max_ms",
            "expected more than raft.election_min_ms and at most 60000",
        );
        expect(
            (10..=10_000_000).contains(&self.snapshot_entries),
            "raft.snapshot_entries",
            "expected 10 to 10000000",
        );
        faults
    }

    pub(super) fn to_openraft(&self) -> openraft::Config {
        openraft::Config {
            cluster_name: "weir".into(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            // Enough for a node that was away for a moment.
            max_in_snapshot_log_to_keep: self.snapshot_entries / 10,
            // A node that comes back must not unseat a leader that others hear.
            enable_pre_vote: Some(true),
            // A leader that others hear and that hears no majority would keep
            // them from electing another: it falls silent for as long as a lease
            // and an election take, now and then.
            quorum_loss_probe_interval: Some(2 * self.election_max_ms),
            // A log that has become shorter passes the check-in only where no
            // leader knew better. Then the leader sends it again what it lacks;
            // the alternative, to stop the leader, harms the others too.
            allow_log_reversion: Some(true),
            // A leader that starts again may have lost entries that others hold:
            // it would give their places in its old term to other entries.
            enable_leader_restore: Some(planted::is(Bug::LeaderResumed)),
            // Our own deadlines bound it (`super::network`).
            install_snapshot_timeout: 600_000,
            max_payload_entries: 1_024,
            ..openraft::Config::default()
        }
    }
}
