//! Commands: the only way agreed state changes.

use serde::{Deserialize, Serialize};

use super::{Member, RefKey, RefValue, Settings};
use crate::{ClusterId, Epoch, NodeId};

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
    /// A member says that it has started, and where it is reached now. Refused
    /// unless it goes on from the start that the node table knows: anything
    /// else comes from an older copy of its data directory.
    Announce {
        id: NodeId,
        peer_address: String,
        client_address: String,
        admin_address: String,
        /// Names this start of the process: random, never zero.
        boot: u64,
        /// Starts that its data directory knows to be the last.
        known_boots: Vec<u64>,
    },
    /// Makes joining members active and begins a new epoch with all active members.
    Activate { nodes: Vec<NodeId> },
    /// Makes a member owner of nothing, so that it can leave without loss; or
    /// calls it back (`on` false). Begins a new epoch.
    Drain { id: NodeId, on: bool },
    /// Takes a member out of the node table for ever; its id never comes back.
    /// Without `force`, only one that owns nothing in any epoch alive.
    Remove { id: NodeId, force: bool },
    /// A new node takes the place of a dead member, name included, in one step.
    Replace {
        old: NodeId,
        id: NodeId,
        member: Member,
    },
    /// Changes what placement knows of a member; begins a new epoch if it owns
    /// blobs.
    Relabel {
        id: NodeId,
        zone: String,
        host: String,
        weight: u32,
    },
    /// An owner holds all that it owns in this epoch. When every owner has said
    /// so, older epochs are retired.
    HandedOff { id: NodeId, epoch: Epoch },
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
            | Self::Drain { .. }
            | Self::Remove { .. }
            | Self::Replace { .. }
            | Self::Relabel { .. }
            | Self::HandedOff { .. }
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
