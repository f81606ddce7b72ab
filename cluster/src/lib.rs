//! What the nodes of a Weir cluster agree on, and how blobs are replicated.
//!
//! Three floors, arrows downward only:
//!
//! - **policy** is synchronous and pure: [`state`], [`membership`], [`ring`],
//!   [`placement`], [`replication::quorum`], [`replication::read_order`],
//!   [`repair::plan`], [`repair::ballot`], [`repair::budget`];
//! - **seams** are traits that the node or the network implement:
//!   [`blob::BlobStore`], [`blob::Inventory`], [`peer::Peers`],
//!   [`raft::Consensus`], and
//!   [`journal::disk::Disk`] under everything that writes files;
//! - **shell** is the dull code around them: [`journal`], [`replication`],
//!   [`raft`], [`peer`], [`repair`].
//!
//! [`words`] holds the vocabulary that all of them share.

pub mod blob;
pub mod journal;
pub mod membership;
mod outside;
pub mod peer;
pub mod placement;
pub mod planted;
pub mod raft;
pub mod repair;
pub mod replication;
pub mod ring;
#[cfg(all(test, tokio_unstable))]
mod simulation;
pub mod state;
pub mod words;

/// The one that nodes have: the simulation allocates all the time.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub use words::{
    digest::{Digest, DigestFunction},
    error::Error,
    ids::{ClusterId, Epoch, NodeId, Slot},
};
