//! Other nodes, as seen from here: the seam between replication and the network.
//!
//! The calls are those of [`crate::blob::BlobStore`] with a node and an epoch.
//! A node refuses a write under an epoch older than its own
//! ([`Error::StaleEpoch`]), so that no write slips behind a finished handoff.
//!
//! Every call is bounded in time by the implementation: silence becomes
//! [`Error::Unreachable`].

mod attend;
mod batch;
mod call;
pub mod client;
pub mod dial;
pub mod faulty_peers;
pub mod identity;
pub(crate) mod link;
mod repair_wire;
pub mod server;
mod upload;
pub mod wire;

pub use attend::Offered;
pub(crate) use attend::{check_in_answer, check_in_message};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Digest, Epoch, Error, NodeId, Slot,
    blob::{BlobStream, ByteRange, Held, Lease, Put, Summaries, Verdict, Verified, Version},
};

/// The other nodes of the cluster.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// As [`crate::blob::BlobStore::find_missing`], in one message.
    async fn find_missing(
        &self,
        to: NodeId,
        epoch: Epoch,
        digests: &[Digest],
        lease: Lease,
    ) -> Result<Vec<u32>, Error>;

    async fn get(&self, to: NodeId, digest: Digest, range: ByteRange) -> Result<BlobStream, Error>;

    /// One answer per digest, or the error of the whole call.
    async fn get_batch(
        &self,
        to: NodeId,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error>;

    async fn put(&self, to: NodeId, epoch: Epoch, digest: Digest) -> Result<Put, Error>;

    /// One answer per blob, or the error of the whole call.
    async fn put_batch(
        &self,
        to: NodeId,
        epoch: Epoch,
        blobs: &[Verified],
    ) -> Result<Vec<Result<(), Error>>, Error>;

    /// How a node is.
    async fn report(&self, to: NodeId) -> Result<Report, Error>;

    /// What a node holds, slot by slot; `None` if that is still what it was at
    /// the version `known`. Answered only from `epoch` on: after it, no write
    /// under an older epoch reaches that node (the first fence of repair).
    async fn summaries(
        &self,
        to: NodeId,
        epoch: Epoch,
        known: Option<Version>,
    ) -> Result<Option<Summaries>, Error>;

    /// The blobs that a node holds in some slots. As [`Self::summaries`],
    /// answered only from `epoch` on.
    async fn list(&self, to: NodeId, epoch: Epoch, slots: &[Slot]) -> Result<Vec<Held>, Error>;

    /// Tells an owner which blobs `from`, which does not own them, holds; one
    /// verdict for each. It fetches those that it wants.
    async fn offer(
        &self,
        to: NodeId,
        epoch: Epoch,
        from: NodeId,
        blobs: &[Held],
    ) -> Result<Vec<Verdict>, Error>;

    /// As [`Self::get`] of the whole blob, without using it.
    async fn read(&self, to: NodeId, digest: Digest) -> Result<BlobStream, Error>;

    /// As [`Self::get_batch`], without using the blobs.
    async fn read_batch(
        &self,
        to: NodeId,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error>;

    /// Has a node begin to verify all its copies now.
    async fn scrub(&self, to: NodeId) -> Result<(), Error>;
}

/// A start of a node's process, as its data directory knows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Start {
    pub boot: u64,
    pub known_boots: Vec<u64>,
    /// Index of the last entry in its Raft log.
    pub last_log_index: u64,
}

/// What a node is told when it checks in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckIn {
    /// Nothing speaks against it; whether the leader of a majority says so.
    Welcome { by_leader: bool },
    /// It was removed from the cluster.
    Removed,
    /// Its data directory is an older copy; what it would have to know.
    Outdated { why: String },
}

/// A node's own account of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    pub blobs: u64,
    pub bytes: u64,
    pub capacity_bytes: u64,
    /// "ok", "full", or why the volume is out of use.
    pub volume: String,
    pub version: String,
    pub repair: RepairReport,
    pub scrub: ScrubReport,
}

/// What repair on a node has before it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RepairReport {
    /// Blobs that the node owns and lacks, and their bytes, as far as known.
    pub lacking_blobs: u64,
    pub lacking_bytes: u64,
    /// Blobs that the node holds for others, and their bytes.
    pub surplus_blobs: u64,
    pub surplus_bytes: u64,
    /// Bytes fetched since the start.
    pub fetched_bytes: u64,
    pub fetched_blobs: u64,
    /// Bytes a second of late.
    pub bytes_per_second: u64,
    /// Epoch for which everything has been compared and nothing is lacking; 0
    /// before the first.
    pub settled_epoch: u64,
    /// Whether the last look reached every member and found nothing to do.
    pub settled: bool,
    /// Why the last look did not end well; empty if it did.
    pub trouble: String,
    /// Milliseconds since the last look that has ended began: what came or went
    /// after that is in none of these figures. 0 before the first.
    pub look_age_ms: u64,
}

/// How far verifying the copies at rest has come.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScrubReport {
    /// Whether a pass is under way.
    pub running: bool,
    /// Of the pass under way, or else of the last.
    pub verified_blobs: u64,
    pub verified_bytes: u64,
    /// Copies found damaged since the start of the process.
    pub damaged: u64,
    /// Passes finished, ever.
    pub passes: u64,
}
