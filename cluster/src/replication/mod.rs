//! The data plane of a gateway: which nodes a verb asks, and when it answers.
//!
//! ```text
//!             view (members, placement, epoch)
//!               │
//!   caller ──► verb ──┬──► own store   (when this node is one of them)
//!                     ├──► peer
//!                     └──► peer
//! ```
//!
//! One explicit function for each verb, one file each; the policy beside them
//! ([`quorum`], [`read_order`], [`candidates`]) is pure. Invariants:
//!
//! - a write is OK when W owners or stand-ins have the blob durably, in
//!   min(W, zones) zones ([`quorum`]);
//! - a read says NOT_FOUND only when every node that could hold the blob has
//!   said so ([`candidates::absence`]);
//! - a verb reads one view and keeps to it; only [`Error::StaleEpoch`] makes it
//!   take a newer one, once;
//! - bytes are neither spooled nor hashed here: owners do that;
//! - a copy in the own store counts only if it was there before a newer epoch
//!   came to which it does not belong, as with every peer: repair goes by that;
//! - a node that is alone in its cluster pays nothing for any of this.
//!
//! | verb | stragglers | on failure | on cancel |
//! |---|---|---|---|
//! | `put` | finish behind the answer; dropped when too far behind | a stand-in takes over if all that was sent is still at hand | uploads are aborted |
//! | `put_batch` | finish behind the answer | a stand-in is sent the blobs | the batch goes on |
//! | `find_missing` | finish behind the answer (they renew leases) | the next node in ring order is asked | as stragglers |
//! | `get`, `get_batch` | dropped | the next candidate is asked, from the offset reached | all are dropped |

pub mod candidates;
mod find_missing;
mod get;
mod get_batch;
mod lane;
mod latency;
mod on_node;
mod put;
mod put_batch;
pub mod quorum;
pub mod read_order;
mod shortfall;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use latency::Latencies;
use on_node::within;
use shortfall::shortfall;
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::Instrument;

use crate::{
    Digest, Error, NodeId,
    blob::{BlobStore, BlobStream, ByteRange, Lease, Put, Verified},
    peer::Peers,
    placement::view::View,
    repair::Foreground,
};

/// How long a node may take to begin an upload before a stand-in is chosen.
const START_DEADLINE: Duration = Duration::from_secs(2);
/// How long a node may take to accept one chunk: a disk that stalls longer is
/// no help to the upload.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a commit or a batch may take: an fsync behind others on a slow disk.
const COMMIT_DEADLINE: Duration = Duration::from_secs(30);
/// How long a question after presence may take; it is answered from memory.
const FIND_DEADLINE: Duration = Duration::from_secs(2);
/// How long a node may take to the first byte of an answer, or between chunks.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// How long a verb waits for a newer view when told that its own is old. Views
/// follow Raft, which is some milliseconds behind at most while it is healthy.
const VIEW_PATIENCE: Duration = Duration::from_millis(500);

/// Bytes of blobs in one message between nodes: half of what a peer accepts,
/// which leaves room for digests and framing.
pub const MESSAGE_BYTES: u64 = 4 << 20;
/// Uploads whose last owners finish behind the answer; beyond it they are left
/// to repair.
const FINISHING_LIMIT: usize = 256;
/// Notes for repair that wait; beyond it they are dropped, as repair looks
/// through everything in time.
const LACKING_LIMIT: usize = 4_096;

/// A [`BlobStore`] over all nodes of the cluster. Clones share everything.
#[derive(Clone)]
pub struct Replicated {
    shared: Arc<Shared>,
}

/// An owner that should hold a blob and, as a verb has just seen, does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lacking {
    pub owner: NodeId,
    pub digest: Digest,
}

struct Shared {
    me: NodeId,
    local: Arc<dyn BlobStore>,
    peers: Arc<dyn Peers>,
    view: watch::Receiver<Arc<View>>,
    latencies: Latencies,
    /// What is done for clients, to which repair yields.
    foreground: Foreground,
    /// Bytes that may still be put under way to each node in batches. A std
    /// mutex: held for map operations only.
    waiting: Mutex<HashMap<NodeId, Arc<Semaphore>>>,
    finishing: Arc<Semaphore>,
    lacking: mpsc::Sender<Lacking>,
    lacking_count: AtomicU64,
    /// Taken once, by repair. A std mutex: held for one `take`.
    lacking_notes: Mutex<Option<mpsc::Receiver<Lacking>>>,
}

impl Replicated {
    /// The cluster's blobs as seen from node `me`, whose own are in `local`.
    #[must_use]
    pub fn new(
        me: NodeId,
        local: Arc<dyn BlobStore>,
        peers: Arc<dyn Peers>,
        view: watch::Receiver<Arc<View>>,
    ) -> Self {
        let (lacking, notes) = mpsc::channel(LACKING_LIMIT);
        Self {
            shared: Arc::new(Shared {
                me,
                local,
                peers,
                view,
                latencies: Latencies::default(),
                foreground: Foreground::default(),
                waiting: Mutex::default(),
                finishing: Arc::new(Semaphore::new(FINISHING_LIMIT)),
                lacking,
                lacking_count: AtomicU64::new(0),
                lacking_notes: Mutex::new(Some(notes)),
            }),
        }
    }

    /// The view that the next request will read.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.shared.view()
    }

    /// The notes for repair; `None` if they were taken before. Unless they are
    /// taken, the first few thousand wait and the rest are only counted.
    #[must_use]
    pub fn take_lacking(&self) -> Option<mpsc::Receiver<Lacking>> {
        let mut notes = self.shared.lacking_notes.lock();
        notes.as_mut().ok()?.take()
    }

    /// How often an owner was seen to lack a blob, since the start.
    #[must_use]
    pub fn lacking_count(&self) -> u64 {
        self.shared.lacking_count.load(Ordering::Relaxed)
    }

    /// The count of what is done for clients here, for repair to yield to.
    #[must_use]
    pub fn foreground(&self) -> Foreground {
        self.shared.foreground.clone()
    }

    /// Smoothed time from asking a peer for a blob to its first bytes.
    #[must_use]
    pub fn latency(&self, node: NodeId) -> Option<Duration> {
        self.shared.latencies.of(node)
    }

    fn span(&self, verb: &'static str) -> tracing::Span {
        self.shared.foreground.bump();
        let view = self.shared.view();
        tracing::debug_span!(
            "replicated",
            verb,
            node = %self.shared.me,
            zone = view.zone(self.shared.me).unwrap_or(""),
            epoch = %view.epoch(),
        )
    }
}

#[async_trait]
impl BlobStore for Replicated {
    async fn find_missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<u32>, Error> {
        let span = self.span("find_missing");
        find_missing::find_missing(&self.shared, digests, lease)
            .instrument(span)
            .await
    }

    async fn get(&self, digest: Digest, range: ByteRange) -> Result<BlobStream, Error> {
        let span = self.span("get");
        get::get(&self.shared, digest, range).instrument(span).await
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let span = self.span("get_batch");
        get_batch::get_batch(&self.shared, digests)
            .instrument(span)
            .await
    }

    async fn put(&self, digest: Digest) -> Result<Put, Error> {
        let span = self.span("put");
        put::put(&self.shared, digest).instrument(span).await
    }

    async fn put_batch(&self, blobs: Vec<Verified>) -> Vec<Result<(), Error>> {
        let span = self.span("put_batch");
        put_batch::put_batch(&self.shared, blobs)
            .instrument(span)
            .await
    }
}
