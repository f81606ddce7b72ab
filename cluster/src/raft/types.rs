//! The types openraft is run with.
//!
//! One Raft entry carries one [`Proposal`]; batching is the log's business
//! (group commit) and openraft's (`client_write_many`), so that each proposal
//! has a log index, and thus a revision, of its own.
//!
//! A term has at most one leader (`leader_id_std`), as in the Raft paper.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::state::{Command, Response, command::RequestId};

/// What is proposed: a command under a name, so that it is applied once
/// however often it is sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proposal {
    pub request: RequestId,
    pub command: Command,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.command {
            Command::Found { .. } => "found",
            Command::SetRefs { .. } => "set refs",
            Command::RemoveRefs { .. } => "remove refs",
            Command::AddMember { .. } => "add member",
            Command::Announce { .. } => "announce",
            Command::Drain { .. } => "drain",
            Command::Remove { .. } => "remove",
            Command::Replace { .. } => "replace",
            Command::Relabel { .. } => "relabel",
            Command::HandedOff { .. } => "handed off",
            Command::Activate { .. } => "activate",
            Command::Settle { .. } => "settle",
        };
        write!(f, "{what} ({:032x})", self.request.0)
    }
}

/// A node as Raft's membership knows it.
///
/// The member table says where a node is reached. The address here is the one
/// the node had when it was added; it serves only until the member table is
/// applied, for a node whose applied state is being rebuilt.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RaftNode {
    pub peer_address: String,
}

/// A whole snapshot in a file that was synced; the path is relative to the
/// [disk](crate::journal::disk::Disk) that Raft's files are on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotFile {
    pub path: PathBuf,
    pub len: u64,
}

#[cfg(test)]
use super::simulated::Runtime;
#[cfg(not(test))]
#[allow(deprecated, reason = "the crate it moved to is one more name to pin")]
type Runtime = openraft::impls::TokioRuntime;

openraft::declare_raft_types!(
    /// Weir's choice of types.
    pub TypeConfig:
        D = Proposal,
        R = Response,
        NodeId = u64,
        Node = RaftNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

pub type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
pub type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
pub type Payload = openraft::alias::PayloadOf<TypeConfig>;
pub type Membership = openraft::Membership<u64, RaftNode>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;
