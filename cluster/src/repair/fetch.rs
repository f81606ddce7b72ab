//! Copies what this node lacks from the members that have it.
//!
//! Some lanes take errands from one queue: [`BATCH_LANES`] for messages of
//! small blobs, [`STREAM_LANES`] for large ones. Bytes are verified here,
//! whoever sent them. Memory is bounded by lanes times a message.
//!
//! - a source that fails is asked for nothing more in this run; what it was
//!   asked for goes to the next source of each blob;
//! - a blob that no source gives is left to the next round;
//! - an error of the own store ends the run: every further blob would meet it.
//! - dropping the future drops all that is under way; what was adopted stays.

use std::{
    collections::{BTreeSet, VecDeque},
    future::Future,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, future::join_all};
use tokio::time::{Instant, timeout};

use super::{
    pace::Pace,
    plan::{Errand, Wanted, errands},
    progress::Progress,
};
use crate::{
    Digest, Error, NodeId,
    blob::{Held, Inventory, Put, Verified},
    outside,
    peer::Peers,
};

/// Messages of small blobs under way at once.
const BATCH_LANES: usize = 4;
/// Large blobs under way at once.
const STREAM_LANES: usize = 2;
/// How long a source may be silent.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// What came of a run.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) adopted: Vec<Digest>,
    /// Why the own store takes no more.
    pub(super) trouble: Option<Error>,
}

pub(super) struct Fetching<'a> {
    pub(super) local: &'a dyn Inventory,
    pub(super) peers: &'a dyn Peers,
    pub(super) pace: &'a Pace,
    pub(super) progress: &'a Progress,
    /// Bytes a second; 0 for no limit.
    pub(super) rate: u64,
    // Std mutexes: held for queue operations, never across an await.
    queue: Mutex<Queue>,
    outcome: Mutex<Outcome>,
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<Errand>,
    streams: VecDeque<Errand>,
    failed: BTreeSet<NodeId>,
}

impl Queue {
    fn add(&mut self, mut wanted: Vec<Wanted>) {
        for wanted in &mut wanted {
            wanted.sources.retain(|node| !self.failed.contains(node));
        }
        for errand in errands(wanted) {
            match errand.is_stream() {
                true => self.streams.push_back(errand),
                false => self.batches.push_back(errand),
            }
        }
    }
}

impl<'a> Fetching<'a> {
    pub(super) fn new(
        local: &'a dyn Inventory,
        peers: &'a dyn Peers,
        pace: &'a Pace,
        progress: &'a Progress,
        rate: u64,
    ) -> Self {
        Self {
            local,
            peers,
            pace,
            progress,
            rate,
            queue: Mutex::default(),
            outcome: Mutex::default(),
        }
    }

    pub(super) async fn run(self, wanted: Vec<Wanted>) -> Outcome {
        self.queue().add(wanted);
        let streams = (0..STREAM_LANES).map(|_| self.lane(true));
        let batches = (0..BATCH_LANES).map(|_| self.lane(false));
        join_all(streams.chain(batches)).await;
        self.outcome.into_inner().unwrap_or_default()
    }

    async fn lane(&self, streams: bool) {
        while let Some(errand) = self.next(streams) {
            let since = Instant::now();
            let bytes = match (streams, errand.blobs.first()) {
                (true, Some(only)) => self.stream(errand.from, only.clone()).await,
                _ => self.batch(errand).await,
            };
            self.pace.rest(self.rate, bytes, since.elapsed()).await;
        }
    }

    fn next(&self, streams: bool) -> Option<Errand> {
        if self.outcome().trouble.is_some() {
            return None;
        }
        loop {
            let mut queue = self.queue();
            let errand = match streams {
                true => queue.streams.pop_front(),
                false => queue.batches.pop_front(),
            }?;
            if !queue.failed.contains(&errand.from) {
                return Some(errand);
            }
            queue.add(errand.blobs);
        }
    }

    /// Fetches small blobs; how many bytes came.
    async fn batch(&self, errand: Errand) -> u64 {
        let Errand { from, blobs } = errand;
        let digests: Vec<_> = blobs.iter().map(|wanted| wanted.blob.digest).collect();
        let call = self.peers.read_batch(from, &digests);
        let answers = match within(from, call).await {
            Ok(answers) if answers.len() == digests.len() => answers,
            Ok(answers) => {
                let (got, asked) = (answers.len(), digests.len());
                let what = format!("{got} answers to {asked} questions");
                self.source_failed(from, &Error::Internal(what), blobs);
                return 0;
            }
            Err(error) => {
                self.source_failed(from, &error, blobs);
                return 0;
            }
        };
        let (good, bad) = verify(blobs, answers).await;
        for (wanted, error) in bad {
            self.blob_failed(from, &error, wanted);
        }
        let taken: Vec<Held> = good.iter().map(|(_, blob)| *blob).collect();
        let bytes = taken.iter().map(|blob| blob.digest.size).sum();
        for (blob, answer) in taken.into_iter().zip(self.local.adopt_batch(good).await) {
            match answer {
                Ok(()) => self.adopted(blob.digest),
                Err(error) => self.store_failed(blob, error),
            }
        }
        bytes
    }

    /// Fetches one large blob; how many bytes came.
    async fn stream(&self, from: NodeId, wanted: Wanted) -> u64 {
        let mut upload = match self.local.adopt(wanted.blob).await {
            Ok(Put::Upload(upload)) => upload,
            Ok(Put::Present) => {
                self.adopted(wanted.blob.digest);
                return 0;
            }
            Err(error) => {
                self.store_failed(wanted.blob, error);
                return 0;
            }
        };
        let mut bytes = 0;
        let mut chunks = match within(from, self.peers.read(from, wanted.blob.digest)).await {
            Ok(chunks) => chunks,
            Err(error) => {
                self.blob_failed(from, &error, wanted);
                return 0;
            }
        };
        loop {
            let next = async { chunks.next().await.transpose() };
            match within(from, next).await {
                Ok(Some(chunk)) => {
                    let size = chunk.len() as u64;
                    if let Err(error) = upload.write(chunk).await {
                        self.upload_failed(from, error, wanted);
                        return bytes;
                    }
                    bytes += size;
                }
                Ok(None) => break,
                Err(error) => {
                    self.blob_failed(from, &error, wanted);
                    return bytes;
                }
            }
        }
        match upload.commit().await {
            Ok(()) => self.adopted(wanted.blob.digest),
            Err(error) => self.upload_failed(from, error, wanted),
        }
        bytes
    }

    fn adopted(&self, digest: Digest) {
        self.outcome().adopted.push(digest);
        self.progress.fetched(1, digest.size);
    }

    /// A mismatch is the source's doing, all else the own store's.
    fn upload_failed(&self, from: NodeId, error: Error, wanted: Wanted) {
        match error {
            Error::Mismatch { .. } => self.blob_failed(from, &error, wanted),
            error => self.store_failed(wanted.blob, error),
        }
    }

    fn blob_failed(&self, from: NodeId, error: &Error, mut wanted: Wanted) {
        let digest = wanted.blob.digest;
        tracing::debug!(%from, %digest, %error, "no copy from there");
        if let Error::Unreachable { .. } = error {
            return self.source_failed(from, error, vec![wanted]);
        }
        wanted.sources.retain(|node| *node != from);
        self.queue().add(vec![wanted]);
    }

    fn source_failed(&self, from: NodeId, error: &Error, blobs: Vec<Wanted>) {
        tracing::debug!(%from, blobs = blobs.len(), %error, "copies are fetched elsewhere");
        let mut queue = self.queue();
        queue.failed.insert(from);
        queue.add(blobs);
    }

    /// No room for a blob that nobody leases is no trouble: from then on the
    /// store declines what is as old.
    fn store_failed(&self, blob: Held, error: Error) {
        match error {
            Error::Exhausted(_) if blob.lease_seconds == 0 => {
                tracing::debug!(digest = %blob.digest, %error, "no room for a blob without a lease");
            }
            error => drop(self.outcome().trouble.get_or_insert(error)),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue
            .lock()
            .expect("no panic while the queue is locked")
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome
            .lock()
            .expect("no panic while the outcome is locked")
    }
}

type Checked = (Vec<(Verified, Held)>, Vec<(Wanted, Error)>);

/// Hashes what came, away from the threads that serve requests.
async fn verify(blobs: Vec<Wanted>, answers: Vec<Result<Bytes, Error>>) -> Checked {
    let hashing = outside::blocking(move || {
        let (mut good, mut bad) = (Vec::with_capacity(blobs.len()), Vec::new());
        for (wanted, answer) in blobs.into_iter().zip(answers) {
            match answer.and_then(|bytes| Verified::check(wanted.blob.digest, bytes)) {
                Ok(verified) => good.push((verified, wanted.blob)),
                Err(error) => bad.push((wanted, error)),
            }
        }
        (good, bad)
    });
    // Fails only while the runtime shuts down.
    hashing.await.unwrap_or_default()
}

/// Turns silence into an error.
pub(super) async fn within<T>(
    node: NodeId,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(SILENCE, call).await.unwrap_or_else(|_| {
        let cause = format!("silent for {SILENCE:?}");
        Err(Error::Unreachable { node, cause })
    })
}
