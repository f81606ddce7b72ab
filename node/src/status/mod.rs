//! The cluster as one node sees it: the document behind `weir status`.
//!
//! Keys are only ever added, and one that a node does not know yet reads as
//! nothing, so that nodes and commands of two versions understand each other.

mod plan;
mod text;

use serde::{Deserialize, Serialize};
use weir_cluster::placement::loss::ZoneLoss;

pub use plan::{Plan, PlanNode};
pub use text::{bytes_text, duration_text, table};

/// The whole document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Cluster id.
    pub cluster: String,
    /// Name of the node that answers.
    pub seen_by: String,
    /// Name of the node that leads; none while there is no quorum.
    pub leader: Option<String>,
    /// The term that the node which answers is in: it grows with every
    /// election.
    #[serde(default)]
    pub term: u64,
    /// Number of the current placement; 0 before the first.
    pub epoch: u64,
    /// Older placements that reads still fall back to.
    pub older_epochs: u64,
    pub replicas: u32,
    pub write_quorum: u32,
    /// Slots (of 16,384) that have fewer owners up than copies are wanted.
    pub under_replicated: u64,
    /// Each promise that is weaker than configured, and why.
    pub weaker: Vec<String>,
    pub nodes: Vec<NodeStatus>,
    /// As `weaker`, with since when and until what.
    #[serde(default)]
    pub promises: Vec<Weakness>,
    /// Placements alive, the current one first.
    #[serde(default)]
    pub epochs: Vec<EpochStatus>,
    /// Bytes that owners still have to fetch, as far as they know.
    #[serde(default)]
    pub bytes_left: u64,
    /// Bytes a second that they fetch together.
    #[serde(default)]
    pub bytes_per_second: u64,
    /// When that will be done at this rate.
    #[serde(default)]
    pub eta_seconds: Option<u64>,
    /// What the loss of each zone would cost.
    #[serde(default)]
    pub zones: Vec<ZoneStatus>,
    #[serde(default)]
    pub settings: Vec<Setting>,
}

/// One row of the node table, with the node's own account of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub name: String,
    /// Node id.
    pub id: String,
    pub zone: String,
    pub host: String,
    /// `joining`, `active` or `draining`; `down` if it did not answer.
    pub state: String,
    /// `leader`, `voter`, `learner` or `none`, in Raft.
    pub role: String,
    pub blobs: u64,
    pub bytes: u64,
    pub capacity_bytes: u64,
    /// `ok`, `full`, why the volume is out of use, or why the node is down.
    pub volume: String,
    pub version: String,
    pub client: String,
    pub peer: String,
    pub admin: String,
    #[serde(default)]
    pub weight: u32,
    /// `joining`, `active` or `draining`, also while it is down.
    #[serde(default)]
    pub status: String,
    /// Slots that it owns in the current epoch.
    #[serde(default)]
    pub slots: u64,
    /// Epochs alive in which it owns blobs.
    #[serde(default)]
    pub epochs: Vec<u64>,
    #[serde(default)]
    pub repair: RepairStatus,
    #[serde(default)]
    pub scrub: ScrubStatus,
}

/// What repair on a node has before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairStatus {
    /// Blobs that it owns and lacks, as far as known.
    pub lacking_blobs: u64,
    pub lacking_bytes: u64,
    /// Blobs that it holds for others.
    pub surplus_blobs: u64,
    pub surplus_bytes: u64,
    /// Since its start.
    pub fetched_blobs: u64,
    pub fetched_bytes: u64,
    /// Of late.
    pub bytes_per_second: u64,
    /// Whether its last look reached every member and found nothing to do.
    pub settled: bool,
    pub settled_epoch: u64,
    /// Why the last look did not end well; empty if it did.
    pub trouble: String,
    /// Milliseconds since the last look began that has ended; what came or went
    /// later is in none of these figures. 0 before the first.
    #[serde(default)]
    pub look_age_ms: u64,
}

/// How far verifying the copies at rest has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatus {
    pub running: bool,
    /// Of the pass under way, or else of the last.
    pub verified_blobs: u64,
    pub verified_bytes: u64,
    /// Damaged copies found since the node's start.
    pub damaged: u64,
    /// Passes finished, ever.
    pub passes: u64,
}

/// A placement that is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStatus {
    pub epoch: u64,
    pub owners: u64,
    /// Names of the owners that do not hold all they own yet. When there are
    /// none in the current epoch, the older ones are retired.
    pub waiting: Vec<String>,
}

/// A promise that is weaker than configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weakness {
    /// Names of the promises, e.g. `P1, P2`.
    pub promise: String,
    pub what: String,
    /// Since when, as far as this node was there to see it.
    pub since_seconds: u64,
    /// What ends it.
    pub until: String,
}

/// What the loss of a whole zone would cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneStatus {
    pub zone: String,
    pub nodes: u64,
    pub voters: u64,
    /// Slots of which every copy would go.
    pub slots_lost: u64,
    /// Slots of which a single copy would be left.
    pub slots_single: u64,
    /// Whether pushes would wait, for want of a majority of voters.
    pub majority_lost: bool,
}

/// A setting of the cluster, as `weir settings set` takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    pub name: String,
    pub value: String,
}

impl NodeStatus {
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state != "down"
    }

    /// Whether it holds nothing that another may lack: it owns nothing in any
    /// epoch alive, and every blob that it held for others is where it belongs.
    #[must_use]
    pub fn holds_no_sole_copy(&self) -> bool {
        self.is_up()
            && self.epochs.is_empty()
            && self.repair.surplus_blobs == 0
            && self.repair.settled
    }
}

impl ClusterStatus {
    /// A member by name or by id.
    #[must_use]
    pub fn node(&self, named: &str) -> Option<&NodeStatus> {
        let by_name = self.nodes.iter().find(|node| node.name == named);
        by_name.or_else(|| self.nodes.iter().find(|node| node.id == named))
    }
}

impl From<ZoneLoss> for ZoneStatus {
    fn from(loss: ZoneLoss) -> Self {
        Self {
            zone: loss.zone,
            nodes: loss.nodes,
            voters: loss.voters,
            slots_lost: loss.slots_lost,
            slots_single: loss.slots_single,
            majority_lost: loss.majority_lost,
        }
    }
}
