//! Peers in this process, with faults on demand, for tests of everything above
//! [`Peers`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

use super::{Peers, Report, attend::Offered};
use crate::{
    Digest, Epoch, Error, NodeId, Slot,
    blob::{
        BlobStream, ByteRange, Held, Inventory, Lease, Put, Summaries, Upload, Verdict, Verified,
        Version,
    },
};

/// What a node does wrong. All faults of a node hold at once.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Faults {
    /// Refuses every call at once.
    pub down: bool,
    /// Never answers.
    pub silent: bool,
    /// Answers late.
    pub delay: Duration,
    /// Takes or gives each chunk late.
    pub chunk_delay: Duration,
    /// Breaks a stream, in either direction, after that many bytes.
    pub breaks_after: Option<u64>,
    /// Ends a read after that many bytes as if that were all.
    pub ends_after: Option<u64>,
    /// Finds its copy damaged when it is read.
    pub corrupt: bool,
    /// Does what is asked and loses the answer.
    pub loses_answers: bool,
}

/// The verbs, for counting calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verb {
    FindMissing,
    Get,
    GetBatch,
    Put,
    PutBatch,
    Report,
    Summaries,
    List,
    Offer,
    Read,
    ReadBatch,
}

/// Reaches the stores of other nodes directly. Clones share everything.
#[derive(Clone)]
pub struct FaultyPeers {
    stores: Arc<BTreeMap<NodeId, Arc<dyn Inventory>>>,
    // A std mutex: held for map operations only, never across an await.
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    epochs: BTreeMap<NodeId, Epoch>,
    faults: BTreeMap<NodeId, Faults>,
    calls: BTreeMap<(NodeId, Verb), u64>,
    offers: BTreeMap<NodeId, mpsc::Sender<Offered>>,
}

impl FaultyPeers {
    /// Peers without faults.
    #[must_use]
    pub fn new(stores: BTreeMap<NodeId, Arc<dyn Inventory>>) -> Self {
        Self {
            stores: Arc::new(stores),
            state: Arc::default(),
        }
    }

    /// Replaces a node's faults; streams under way have them from now on.
    pub fn set(&self, node: NodeId, faults: Faults) {
        self.lock().faults.insert(node, faults);
    }

    /// A node is at this epoch, and refuses older ones.
    pub fn set_epoch(&self, node: NodeId, epoch: Epoch) {
        self.lock().epochs.insert(node, epoch);
    }

    /// Where a node's repair is told what others hold for it.
    pub fn set_offers(&self, node: NodeId, offers: mpsc::Sender<Offered>) {
        self.lock().offers.insert(node, offers);
    }

    /// Heals every node.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Calls of a verb to a node since the start or the last [`Self::reset_calls`].
    #[must_use]
    pub fn calls(&self, node: NodeId, verb: Verb) -> u64 {
        self.lock().calls.get(&(node, verb)).copied().unwrap_or(0)
    }

    pub fn reset_calls(&self) {
        self.lock().calls.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no panic while the state is locked")
    }

    fn faults(&self, node: NodeId) -> Faults {
        self.lock().faults.get(&node).copied().unwrap_or_default()
    }

    fn epoch(&self, node: NodeId) -> Epoch {
        self.lock().epochs.get(&node).copied().unwrap_or_default()
    }

    /// Counts a call, lets the faults act, and gives the node's store.
    async fn call(
        &self,
        node: NodeId,
        verb: Verb,
        epoch: Option<Epoch>,
    ) -> Result<Arc<dyn Inventory>, Error> {
        *self.lock().calls.entry((node, verb)).or_default() += 1;
        self.suffer(node).await?;
        let ours = self.epoch(node);
        if let Some(theirs) = epoch.filter(|theirs| *theirs < ours) {
            return Err(Error::StaleEpoch { theirs, ours });
        }
        let store = self.stores.get(&node).cloned();
        store.ok_or_else(|| unreachable_node(node, "unknown"))
    }

    /// Refuses what a node can only tell from this epoch on.
    fn reached(&self, node: NodeId, epoch: Epoch) -> Result<(), Error> {
        let ours = self.epoch(node);
        // Tests that know of one epoch only set none.
        if ours == Epoch::default() || ours >= epoch {
            return Ok(());
        }
        Err(Error::Internal(format!(
            "node {node} is still at epoch {ours}"
        )))
    }

    async fn suffer(&self, node: NodeId) -> Result<(), Error> {
        let faults = self.faults(node);
        if !faults.delay.is_zero() {
            tokio::time::sleep(faults.delay).await;
        }
        if faults.silent {
            std::future::pending::<()>().await;
        }
        self.alive(node)
    }

    fn alive(&self, node: NodeId) -> Result<(), Error> {
        if self.faults(node).down {
            return Err(unreachable_node(node, "connection refused"));
        }
        Ok(())
    }

    fn answer<T>(&self, node: NodeId, answer: T) -> Result<T, Error> {
        self.alive(node)?;
        if self.faults(node).loses_answers {
            return Err(unreachable_node(node, "connection reset"));
        }
        Ok(answer)
    }
}

fn unreachable_node(node: NodeId, cause: &str) -> Error {
    let cause = cause.to_owned();
    Error::Unreachable { node, cause }
}

#[async_trait]
impl Peers for FaultyPeers {
    async fn find_missing(
        &self,
        to: NodeId,
        epoch: Epoch,
        digests: &[Digest],
        lease: Lease,
    ) -> Result<Vec<u32>, Error> {
        let store = self.call(to, Verb::FindMissing, Some(epoch)).await?;
        self.answer(to, store.find_missing(digests, lease).await?)
    }

    async fn get(&self, to: NodeId, digest: Digest, range: ByteRange) -> Result<BlobStream, Error> {
        let store = self.call(to, Verb::Get, None).await?;
        let inner = self.answer(to, store.get(digest, range).await?)?;
        if self.faults(to).corrupt {
            return Ok(stream::iter([Err(Error::Corrupt(digest))]).boxed());
        }
        Ok(faulty_stream(self.clone(), to, inner))
    }

    async fn get_batch(
        &self,
        to: NodeId,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let store = self.call(to, Verb::GetBatch, None).await?;
        let mut blobs = store.get_batch(digests).await;
        if self.faults(to).corrupt {
            for (blob, digest) in blobs.iter_mut().zip(digests) {
                *blob = Err(Error::Corrupt(*digest));
            }
        }
        self.answer(to, blobs)
    }

    async fn put(&self, to: NodeId, epoch: Epoch, digest: Digest) -> Result<Put, Error> {
        let store = self.call(to, Verb::Put, Some(epoch)).await?;
        Ok(match self.answer(to, store.put(digest).await?)? {
            Put::Present => Put::Present,
            Put::Upload(inner) => Put::Upload(Box::new(FaultyUpload {
                peers: self.clone(),
                to,
                epoch,
                taken: 0,
                inner,
            })),
        })
    }

    async fn put_batch(
        &self,
        to: NodeId,
        epoch: Epoch,
        blobs: &[Verified],
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let store = self.call(to, Verb::PutBatch, Some(epoch)).await?;
        self.answer(to, store.put_batch(blobs.to_vec()).await)
    }

    async fn report(&self, to: NodeId) -> Result<Report, Error> {
        self.call(to, Verb::Report, None).await?;
        let volume = "ok".into();
        self.answer(
            to,
            Report {
                volume,
                ..Report::default()
            },
        )
    }

    async fn summaries(
        &self,
        to: NodeId,
        epoch: Epoch,
        known: Option<Version>,
    ) -> Result<Option<Summaries>, Error> {
        let store = self.call(to, Verb::Summaries, None).await?;
        self.reached(to, epoch)?;
        let summaries = (known != Some(store.version())).then(|| store.summaries());
        self.answer(to, summaries)
    }

    async fn list(&self, to: NodeId, epoch: Epoch, slots: &[Slot]) -> Result<Vec<Held>, Error> {
        let store = self.call(to, Verb::List, None).await?;
        self.reached(to, epoch)?;
        self.answer(to, store.list(slots).await?)
    }

    async fn offer(
        &self,
        to: NodeId,
        epoch: Epoch,
        from: NodeId,
        blobs: &[Held],
    ) -> Result<Vec<Verdict>, Error> {
        let store = self.call(to, Verb::Offer, Some(epoch)).await?;
        self.reached(to, epoch)?;
        let offers = self.lock().offers.get(&to).cloned();
        let here = store.hold(blobs);
        let verdict = |(blob, here): (&Held, bool)| match here {
            true => Verdict::Holds,
            false if store.declines(blob) => Verdict::Declines,
            false => {
                if let Some(offers) = &offers {
                    let _ = offers.try_send(Offered { from, blob: *blob });
                }
                Verdict::Wants
            }
        };
        self.answer(to, blobs.iter().zip(here).map(verdict).collect())
    }

    async fn read(&self, to: NodeId, digest: Digest) -> Result<BlobStream, Error> {
        let store = self.call(to, Verb::Read, None).await?;
        let inner = self.answer(to, store.read(digest).await?)?;
        if self.faults(to).corrupt {
            return Ok(stream::iter([Err(Error::Corrupt(digest))]).boxed());
        }
        Ok(faulty_stream(self.clone(), to, inner))
    }

    async fn read_batch(
        &self,
        to: NodeId,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let store = self.call(to, Verb::ReadBatch, None).await?;
        let mut blobs = store.read_batch(digests).await;
        if self.faults(to).corrupt {
            for (blob, digest) in blobs.iter_mut().zip(digests) {
                *blob = Err(Error::Corrupt(*digest));
            }
        }
        self.answer(to, blobs)
    }

    async fn scrub(&self, to: NodeId) -> Result<(), Error> {
        self.alive(to)
    }
}

fn faulty_stream(peers: FaultyPeers, node: NodeId, inner: BlobStream) -> BlobStream {
    let state = (peers, inner, 0_u64, false);
    Box::pin(stream::unfold(
        state,
        move |(peers, mut inner, given, over)| async move {
            if over {
                return None;
            }
            let chunk = inner.next().await?;
            tokio::time::sleep(peers.faults(node).chunk_delay).await;
            if let Err(error) = peers.suffer(node).await {
                return Some((Err(error), (peers, inner, given, true)));
            }
            let faults = peers.faults(node);
            let limit = faults.ends_after.or(faults.breaks_after);
            match (chunk, limit) {
                (Ok(mut chunk), Some(limit)) if given + chunk.len() as u64 > limit => {
                    if given < limit {
                        chunk.truncate((limit - given) as usize);
                        return Some((Ok(chunk), (peers, inner, limit, false)));
                    }
                    let broken = unreachable_node(node, "connection reset");
                    faults
                        .ends_after
                        .is_none()
                        .then_some((Err(broken), (peers, inner, given, true)))
                }
                (chunk, _) => {
                    let given = given + chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                    Some((chunk, (peers, inner, given, false)))
                }
            }
        },
    ))
}

struct FaultyUpload {
    peers: FaultyPeers,
    to: NodeId,
    epoch: Epoch,
    taken: u64,
    inner: Box<dyn Upload>,
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.peers.suffer(self.to).await?;
        let faults = self.peers.faults(self.to);
        tokio::time::sleep(faults.chunk_delay).await;
        self.taken += chunk.len() as u64;
        if faults.breaks_after.is_some_and(|limit| self.taken > limit) {
            return Err(unreachable_node(self.to, "connection reset"));
        }
        self.inner.write(chunk).await
    }

    async fn commit(self: Box<Self>) -> Result<(), Error> {
        self.peers.suffer(self.to).await?;
        let ours = self.peers.epoch(self.to);
        if self.epoch < ours {
            let theirs = self.epoch;
            return Err(Error::StaleEpoch { theirs, ours });
        }
        self.inner.commit().await?;
        self.peers.answer(self.to, ())
    }
}
