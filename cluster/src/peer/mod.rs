//! Other nodes, as seen from here: the seam between replication and the network.
//!
//! The calls are those of [`crate::blob::BlobStore`] with a node and an epoch.
//! A node refuses a write under an epoch older than its own
//! ([`Error::StaleEpoch`]), so that no write slips behind a finished handoff.
//!
//! Every call is bounded in time by the implementation: silence becomes
//! [`Error::Unreachable`].

mod batch;
pub mod client;
pub mod dial;
pub mod faulty_peers;
pub mod identity;
pub(crate) mod link;
pub mod server;
mod upload;
pub mod wire;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Digest, Epoch, Error, NodeId,
    blob::{BlobStream, ByteRange, Lease, Put, Verified},
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
}
