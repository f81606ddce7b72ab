//! Commands: the only way agreed state changes.

use serde::{Deserialize, Serialize};

use super::{Member, RefKey, RefValue, Settings};
use crate::{ClusterId, NodeId};

/// Names one proposal, so that one that is sent again is not applied again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RequestId(pub u128);

/// A change of agreed state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Begins the cluster: its id and settings. Once only.
    Found {
        cluster: ClusterId,
        settings: Settings,
    },
    /// Points every key at one value, in one step.
    SetRefs { keys: Vec<RefKey>, value: RefValue },
    /// Removes refs, each only if it still has the given revision.
    RemoveRefs { refs: Vec<(RefKey, u64)> },
    /// Enters a node in the node table as joining. Refused if its name is taken.
    AddMember { id: NodeId, member: Member },
    /// A member says where it is reached now.
    Announce {
        id: NodeId,
        peer_address: String,
        client_address: String,
        admin_address: String,
    },
    /// Makes joining members active and begins a new epoch with all active members.
    Activate { nodes: Vec<NodeId> },
    /// Replaces the settings; begins a new epoch if placement depends on the change.
    Settle { settings: Settings },
}

impl Command {
    /// How much text the command carries: nearly all of the bytes of one that
    /// is large.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::SetRefs { keys, .. } => keys.iter().map(RefKey::text_bytes).sum(),
            Self::RemoveRefs { refs } => refs.iter().map(|(key, _)| key.text_bytes()).sum(),
            // Held to less by the limits on labels.
            Self::Found { .. }
            | Self::AddMember { .. }
            | Self::Announce { .. }
            | Self::Activate { .. }
            | Self::Settle { .. } => 0,
        }
    }
}

/// What a command answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Response {
    /// Done; the revision that this write got.
    Done { revision: u64 },
    /// Nothing changed, and why.
    Refused { reason: String },
}
