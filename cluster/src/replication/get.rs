//! The bytes of one blob, from whichever node gives them first.
//!
//! Candidates are asked in read order, one at a time; silence past a node's
//! patience starts the next beside it, and the first chunk wins. A stream that
//! fails or falls silent goes on from another candidate at the offset reached,
//! unseen by the caller. Nothing is buffered but the chunk that won.
//!
//! - stragglers: dropped when another's first chunk is there.
//! - on failure: the next candidate; the caller sees an error only when no
//!   candidate is left, and NOT_FOUND only when [`absence`] allows it.
//! - on cancel: dropping the stream drops whatever is under way.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

use super::{READ_DEADLINE, Shared, candidates::absence, read_order::read_order, within};
use crate::{
    Digest, Error, NodeId,
    blob::{BlobStream, ByteRange},
    placement::view::{Holders, View},
    planted::{self, Bug},
};

/// Silence in the middle of a stream after which another candidate goes on.
const CHUNK_PATIENCE: Duration = Duration::from_secs(2);

/// Stand-ins asked at once: most of them lack the blob, and one by one a miss
/// would take as many round trips as there are nodes.
const STAND_INS_AT_ONCE: usize = 8;

pub(super) async fn get(
    shared: &Arc<Shared>,
    digest: Digest,
    range: ByteRange,
) -> Result<BlobStream, Error> {
    let view = shared.view();
    if digest.is_empty_blob() || view.is_alone() {
        return shared.local.get(digest, range).await;
    }
    let part = range.within(digest)?;
    let mut reader = Reader::new(shared, view, digest, part);
    let first = reader.open().await?;
    let rest = futures::stream::unfold((reader, first), |(mut reader, ready)| async move {
        match ready {
            Some(chunk) => Some((Ok(chunk), (reader, None))),
            None => {
                let next = reader.next().await?;
                Some((next, (reader, None)))
            }
        }
    });
    Ok(Box::pin(rest))
}

/// Nodes not asked yet: owners first, the others only once those are used up,
/// as finding them walks the ring.
struct Candidates {
    queue: VecDeque<NodeId>,
    /// Everyone that may hold the blob, once it was needed.
    holders: Option<Holders>,
}

impl Candidates {
    fn of_owners(shared: &Shared, view: &View, digest: Digest) -> Self {
        let owners = Holders {
            owners: view.live_owners(digest).collect(),
            ..Holders::default()
        };
        let distance = |node| shared.latencies.distance(view, node);
        Self {
            queue: read_order(shared.me, &owners, distance).into(),
            holders: None,
        }
    }

    fn next(&mut self, shared: &Shared, view: &View, digest: Digest) -> Option<NodeId> {
        if let Some(node) = self.queue.pop_front() {
            return Some(node);
        }
        if self.holders.is_some() || planted::is(Bug::FormerOwnersForgotten) {
            return None;
        }
        let holders = view.holders(digest);
        let distance = |node| shared.latencies.distance(view, node);
        self.queue = read_order(shared.me, &holders, distance)
            .into_iter()
            .filter(|node| !holders.owners.contains(node))
            .collect();
        self.holders = Some(holders);
        self.queue.pop_front()
    }

    /// How many to ask at once.
    fn width(&self) -> usize {
        if self.holders.is_some() {
            STAND_INS_AT_ONCE
        } else {
            1
        }
    }
}

/// A node's first chunk (none for an empty range) and the rest.
type Opened = (Option<Bytes>, BlobStream);

struct Reader {
    shared: Arc<Shared>,
    view: Arc<View>,
    digest: Digest,
    /// The next byte to give, and the first not to give.
    offset: u64,
    end: u64,
    source: Option<(NodeId, BlobStream)>,
    candidates: Candidates,
    /// Nodes that answered that they have no copy.
    lacking: Vec<NodeId>,
    failed: Vec<(NodeId, Error)>,
}

impl Reader {
    fn new(shared: &Arc<Shared>, view: Arc<View>, digest: Digest, part: Range<u64>) -> Self {
        Self {
            candidates: Candidates::of_owners(shared, &view, digest),
            shared: Arc::clone(shared),
            view,
            digest,
            offset: part.start,
            end: part.end,
            source: None,
            lacking: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// The next chunk; `None` at the end or after an error.
    async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        if self.offset >= self.end {
            return None;
        }
        let (node, mut stream) = self.source.take()?;
        let error = match within(CHUNK_PATIENCE, node, next_of(&mut stream)).await {
            Ok(chunk) => match chunk.map(|chunk| self.accept(node, chunk)) {
                Some(Ok(chunk)) => {
                    self.source = Some((node, stream));
                    return Some(Ok(chunk));
                }
                Some(Err(error)) => error,
                None => self.cut_short(node),
            },
            Err(error) => error,
        };
        drop(stream);
        tracing::debug!(%node, digest = ?self.digest, offset = self.offset, %error, "read goes on elsewhere");
        self.note(node, error);
        self.open().await.transpose()
    }

    /// Finds a node that gives the bytes from `offset` on; its first chunk.
    async fn open(&mut self) -> Result<Option<Bytes>, Error> {
        let mut asked: FuturesUnordered<BoxFuture<'static, (NodeId, Result<Opened, Error>)>> =
            FuturesUnordered::new();
        let mut under_way: Vec<NodeId> = Vec::new();
        let mut hedge_at = Instant::now();
        let mut exhausted = false;
        loop {
            while !exhausted && asked.len() < self.candidates.width() {
                let next = self.candidates.next(&self.shared, &self.view, self.digest);
                let Some(node) = next else {
                    exhausted = true;
                    break;
                };
                hedge_at = Instant::now() + self.shared.latencies.patience(&self.view, node);
                under_way.push(node);
                asked.push(Box::pin(self.ask(node)));
            }
            if asked.is_empty() {
                return Err(self.absence());
            }
            tokio::select! {
                Some((node, opened)) = asked.next() => {
                    under_way.retain(|other| *other != node);
                    match opened.and_then(|opened| self.first_of(node, opened)) {
                        Ok((first, stream)) => {
                            // The losers may be needed yet, if the winner fails.
                            let losers = under_way.into_iter().rev();
                            losers.for_each(|loser| self.candidates.queue.push_front(loser));
                            self.won(node, stream);
                            return Ok(first);
                        }
                        Err(error) if error.is_about_the_node() => self.note(node, error),
                        Err(error) => return Err(error),
                    }
                }
                () = sleep_until(hedge_at), if !exhausted => {
                    let next = self.candidates.next(&self.shared, &self.view, self.digest);
                    let Some(node) = next else {
                        exhausted = true;
                        continue;
                    };
                    tracing::debug!(%node, digest = ?self.digest, "silence: asking another node");
                    hedge_at = Instant::now() + self.shared.latencies.patience(&self.view, node);
                    under_way.push(node);
                    asked.push(Box::pin(self.ask(node)));
                }
            }
        }
    }

    fn ask(&self, node: NodeId) -> impl Future<Output = (NodeId, Result<Opened, Error>)> + use<> {
        let shared = Arc::clone(&self.shared);
        let digest = self.digest;
        let range = ByteRange {
            offset: self.offset,
            length: self.end - self.offset,
        };
        async move {
            let since = Instant::now();
            let opened = async {
                let mut stream = shared.get_on(node, digest, range).await?;
                let first = next_of(&mut stream).await?;
                Ok((first, stream))
            };
            let opened = within(READ_DEADLINE, node, opened).await;
            if opened.is_ok() && node != shared.me {
                shared.latencies.observe(node, since.elapsed());
            }
            (node, opened)
        }
    }

    /// Takes the first chunk, which only an empty range does without.
    fn first_of(&mut self, node: NodeId, (first, stream): Opened) -> Result<Opened, Error> {
        match first {
            Some(chunk) => Ok((Some(self.accept(node, chunk)?), stream)),
            None if self.offset >= self.end => Ok((None, stream)),
            None => Err(self.cut_short(node)),
        }
    }

    /// Takes a chunk if it lies within what was asked.
    fn accept(&mut self, node: NodeId, chunk: Bytes) -> Result<Bytes, Error> {
        let reached = self.offset + chunk.len() as u64;
        if chunk.is_empty() || reached > self.end {
            let what = format!(
                "node {node} gave {} bytes of {}",
                chunk.len(),
                self.end - self.offset
            );
            return Err(Error::Internal(what));
        }
        self.offset = reached;
        self.shared.foreground.bump();
        Ok(chunk)
    }

    fn cut_short(&self, node: NodeId) -> Error {
        let cause = format!("its stream ended {} bytes early", self.end - self.offset);
        Error::Unreachable { node, cause }
    }

    /// Remembers why a node did not do.
    fn note(&mut self, node: NodeId, error: Error) {
        match error {
            Error::NotFound(_) => self.lacking.push(node),
            error => {
                if let Error::Corrupt(_) = error {
                    self.lacking.push(node);
                } else if node != self.shared.me {
                    self.shared.latencies.failed(node);
                }
                self.failed.push((node, error));
            }
        }
    }

    /// A node serves: owners that had no good copy are told to repair.
    fn won(&mut self, node: NodeId, stream: BlobStream) {
        for lacking in self.lacking.drain(..) {
            self.shared.note_lacking(lacking, self.digest);
        }
        self.source = Some((node, stream));
    }

    fn absence(&mut self) -> Error {
        let failed = std::mem::take(&mut self.failed);
        let quorum = self.view.write_quorum();
        match &self.candidates.holders {
            Some(holders) => absence(self.digest, holders, quorum, failed),
            None => absence(self.digest, &self.view.holders(self.digest), quorum, failed),
        }
    }
}

async fn next_of(stream: &mut BlobStream) -> Result<Option<Bytes>, Error> {
    stream.next().await.transpose()
}
