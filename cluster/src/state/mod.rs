//! What all nodes agree on, and the one function that changes it.
//!
//! [`ClusterState`] is the small part: settings, node table, epochs. Refs are
//! rows beside it, too many to hold in memory, and reached through
//! [`RefRows`]. [`apply()`] is pure: the same state, rows and command give the
//! same [`Effects`] on every node, whatever the time or the machine.

pub mod apply;
pub mod command;
pub mod refs;
pub mod settings;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use apply::apply;
pub use command::{Command, RequestId, Response};
pub use refs::{Ref, RefKey, RefKind, RefValue};
pub use settings::{ReadMode, Settings};

use crate::{ClusterId, Epoch, Error, NodeId};

/// Epochs that may be alive at once; a further one waits until the oldest is retired.
pub const LIVE_EPOCHS: usize = 8;

/// Everything agreed but the refs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClusterState {
    pub cluster: Option<ClusterId>,
    pub settings: Settings,
    /// The node table.
    pub members: BTreeMap<NodeId, Member>,
    /// Nodes that were members once. None of them comes back.
    pub removed: BTreeSet<NodeId>,
    /// Placements not yet retired, oldest first. The last is the current one.
    pub epochs: Vec<EpochPlan>,
}

/// A row of the node table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// A label for people; unique among members.
    pub name: String,
    /// Failure domain; replicas are spread over zones.
    pub zone: String,
    /// The machine; nodes on one machine share a host.
    pub host: String,
    /// Share of the ring relative to other nodes, at least 1.
    pub weight: u32,
    /// `host:port` where other nodes reach it.
    pub peer_address: String,
    /// `host:port` where clients reach it.
    pub client_address: String,
    /// `host:port` where operators reach it.
    pub admin_address: String,
    pub status: MemberStatus,
    /// The start of its process that it announced last; zero before the first.
    pub boot: u64,
}

/// Where a member stands in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberStatus {
    /// In the table, owner of nothing yet.
    Joining,
    /// Owns its share of the ring.
    Active,
    /// Owns nothing in the current epoch; leaves when nothing needs it.
    Draining,
}

/// Who takes part in a placement. The slot table is derived from it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EpochPlan {
    pub epoch: Epoch,
    pub replicas: u32,
    pub nodes: BTreeMap<NodeId, Share>,
    /// Owners that hold all they own in this epoch (the handoff marks).
    pub handed_off: BTreeSet<NodeId>,
}

/// What placement needs to know of a node, as it was when the epoch began.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Share {
    pub zone: String,
    pub host: String,
    pub weight: u32,
}

/// Reads of the ref rows that [`apply()`] needs.
pub trait RefRows {
    fn get(&self, key: &RefKey) -> Result<Option<Ref>, Error>;
}

/// Rows in memory.
impl RefRows for BTreeMap<RefKey, Ref> {
    fn get(&self, key: &RefKey) -> Result<Option<Ref>, Error> {
        Ok(Self::get(self, key).cloned())
    }
}

/// What a command did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effects {
    /// Whether [`ClusterState`] changed.
    pub changed: bool,
    /// Ref rows to write (`Some`) or to delete (`None`).
    pub rows: Vec<(RefKey, Option<Ref>)>,
    pub response: Response,
}

#[cfg(test)]
mod member_tests;
#[cfg(test)]
pub(crate) mod tests;
