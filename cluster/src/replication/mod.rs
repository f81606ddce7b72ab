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
mod put;
mod put_batch;
pub mod quorum;
pub mod read_order;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use latency::Latencies;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};
use tracing::Instrument;

use crate::{
    Digest, Epoch, Error, NodeId,
    blob::{BlobStore, BlobStream, ByteRange, Lease, Put, Verified},
    peer::Peers,
    placement::{
        NODE_LIMIT,
        view::{self, View},
    },
    words::error::Shortfall,
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

    /// Smoothed time from asking a peer for a blob to its first bytes.
    #[must_use]
    pub fn latency(&self, node: NodeId) -> Option<Duration> {
        self.shared.latencies.of(node)
    }

    fn span(&self, verb: &'static str) -> tracing::Span {
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

/// The verbs on one node, be it this one or a peer. What is slower than its
/// deadline is [`Error::Unreachable`].
impl Shared {
    fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// A view newer than this epoch, if one comes soon.
    async fn newer_than(&self, epoch: Epoch) -> Option<Arc<View>> {
        let mut views = self.view.clone();
        let next = Epoch(epoch.0.saturating_add(1));
        view::at_least(&mut views, next, VIEW_PATIENCE)
            .await
            .then(|| views.borrow().clone())
    }

    async fn find_missing_on(
        &self,
        node: NodeId,
        epoch: Epoch,
        digests: &[Digest],
        lease: Lease,
    ) -> Result<Vec<u32>, Error> {
        if node == self.me {
            return self.local.find_missing(digests, lease).await;
        }
        let call = self.peers.find_missing(node, epoch, digests, lease);
        let missing = within(FIND_DEADLINE, node, call).await?;
        match missing.last() {
            Some(last) if *last as usize >= digests.len() => Err(Error::Internal(format!(
                "node {node} answered for digest {last} of {}",
                digests.len()
            ))),
            _ => Ok(missing),
        }
    }

    async fn get_on(
        &self,
        node: NodeId,
        digest: Digest,
        range: ByteRange,
    ) -> Result<BlobStream, Error> {
        if node == self.me {
            return self.local.get(digest, range).await;
        }
        within(READ_DEADLINE, node, self.peers.get(node, digest, range)).await
    }

    async fn get_batch_on(
        &self,
        node: NodeId,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let answers = if node == self.me {
            self.local.get_batch(digests).await
        } else {
            within(READ_DEADLINE, node, self.peers.get_batch(node, digests)).await?
        };
        expect_count(node, answers, digests.len())
    }

    async fn put_on(&self, node: NodeId, epoch: Epoch, digest: Digest) -> Result<Put, Error> {
        if node == self.me {
            return within(START_DEADLINE, node, self.local.put(digest)).await;
        }
        within(START_DEADLINE, node, self.peers.put(node, epoch, digest)).await
    }

    async fn put_batch_on(
        &self,
        node: NodeId,
        epoch: Epoch,
        blobs: Vec<Verified>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let count = blobs.len();
        let answers = if node == self.me {
            self.local.put_batch(blobs).await
        } else {
            let call = self.peers.put_batch(node, epoch, &blobs);
            within(COMMIT_DEADLINE, node, call).await?
        };
        expect_count(node, answers, count)
    }

    /// See [`put_batch::WAITING_BYTES`].
    fn waiting_room(&self, node: NodeId) -> Arc<Semaphore> {
        let mut waiting = self
            .waiting
            .lock()
            .expect("no panic while the map is locked");
        if waiting.len() >= NODE_LIMIT {
            // Nodes that left: rooms in use live on with their messages.
            waiting.clear();
        }
        let room = || Arc::new(Semaphore::new(put_batch::WAITING_BYTES));
        Arc::clone(waiting.entry(node).or_insert_with(room))
    }

    /// Notes for repair that an owner lacks a blob.
    fn note_lacking(&self, owner: NodeId, digest: Digest) {
        self.lacking_count.fetch_add(1, Ordering::Relaxed);
        let noted = self.lacking.try_send(Lacking { owner, digest }).is_ok();
        tracing::debug!(%owner, %digest, noted, "owner lacks a blob");
    }
}

/// Turns silence into an error.
async fn within<T>(
    deadline: Duration,
    node: NodeId,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(deadline, call).await.unwrap_or_else(|_| {
        let cause = format!("silent for {deadline:?}");
        Err(Error::Unreachable { node, cause })
    })
}

fn expect_count<T>(node: NodeId, answers: Vec<T>, asked: usize) -> Result<Vec<T>, Error> {
    if answers.len() == asked {
        return Ok(answers);
    }
    let got = answers.len();
    let what = format!("node {node} gave {got} answers to {asked} questions");
    Err(Error::Internal(what))
}

/// The error of a verb for which too few nodes did their part.
fn shortfall(
    doing: &'static str,
    needed: usize,
    got: usize,
    causes: Vec<(NodeId, Error)>,
) -> Error {
    // Nothing was stored anywhere, and each node said that it never will be
    // while it is full: that is an answer, not a doubt (promise P12).
    let full = |(_, error): &(NodeId, Error)| matches!(error, Error::Exhausted(_));
    if got == 0 && !causes.is_empty() && causes.iter().all(full) {
        return causes.into_iter().next().map_or_else(
            || Error::Internal("no cause".into()),
            |(node, error)| Error::Exhausted(format!("node {node}: {error}")),
        );
    }
    Error::NoQuorum(Shortfall {
        doing,
        needed,
        got,
        causes: causes
            .into_iter()
            .map(|(node, error)| (node, cause(&error)))
            .collect(),
    })
}

/// An error with its sources, for a shortfall that names the node itself.
fn cause(error: &Error) -> String {
    match error {
        Error::Unreachable { cause, .. } => cause.clone(),
        Error::Io { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}
