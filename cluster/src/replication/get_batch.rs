//! Whole small blobs: each from the nearest node that has it.
//!
//! This node's own store is asked first for all of them. The rest is grouped
//! by the best candidate of each, one message for each of those nodes; what a
//! node lacks or fails to give goes on, again in groups, to the next
//! candidates.
//!
//! - stragglers: dropped when every digest is answered.
//! - on failure, or after [`HEDGE`] of silence: the next candidates.
//! - on cancel: all messages are dropped.

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::OptionFuture;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::Instrument;

use super::{MESSAGE_BYTES, Shared, candidates::absence, read_order::read_order};
use crate::{
    Digest, Error, NodeId,
    placement::view::{Holders, View},
};

/// Digests in one message; bounds what a peer answers beside the blobs.
const MESSAGE_DIGESTS: usize = 10_000;

/// Silence after which the next candidates are asked as well.
const HEDGE: Duration = Duration::from_millis(500);

pub(super) async fn get_batch(
    shared: &Arc<Shared>,
    digests: &[Digest],
) -> Vec<Result<Bytes, Error>> {
    let view = shared.view();
    let own = shared.get_batch_on(shared.me, digests).await;
    let mut answers = own.unwrap_or_else(|error| vec![Err(error); digests.len()]);
    if view.is_alone() {
        return answers;
    }
    elsewhere(shared, &view, digests, &mut answers).await;
    answers
}

/// Asks other nodes for what has no answer yet but this node's error.
async fn elsewhere(
    shared: &Arc<Shared>,
    view: &View,
    digests: &[Digest],
    answers: &mut [Result<Bytes, Error>],
) {
    let mut batch = Batch {
        shared,
        view,
        digests,
        reads: Vec::with_capacity(digests.len()),
        undecided: 0,
        messages: BTreeMap::new(),
        sent: 0,
        tasks: JoinSet::new(),
    };
    let mut wanted = Vec::new();
    for (index, answer) in (0..).zip(answers.iter()) {
        let mut read = Read::default();
        match answer {
            Ok(bytes) => read.decided = Some(Ok(bytes.clone())),
            Err(error) => {
                read.asked.push(shared.me);
                read.note(shared.me, error.clone());
                batch.undecided += 1;
                wanted.push(index);
            }
        }
        batch.reads.push(read);
    }
    if wanted.is_empty() {
        return;
    }
    batch.ask_next(wanted);
    batch.run().await;
    for (answer, read) in answers.iter_mut().zip(batch.reads) {
        let left = || Err(Error::Internal("a read was left undecided".into()));
        *answer = read.decided.unwrap_or_else(left);
    }
}

/// The read of one blob.
#[derive(Default)]
struct Read {
    asked: Vec<NodeId>,
    /// Messages that may still bring it.
    open: usize,
    lacking: Vec<NodeId>,
    failed: Vec<(NodeId, Error)>,
    /// Everyone that may hold the blob, once it was needed.
    holders: Option<Holders>,
    decided: Option<Result<Bytes, Error>>,
}

impl Read {
    fn note(&mut self, node: NodeId, error: Error) {
        if matches!(error, Error::NotFound(_) | Error::Corrupt(_)) {
            self.lacking.push(node);
        }
        if !matches!(error, Error::NotFound(_)) {
            self.failed.push((node, error));
        }
    }
}

struct Message {
    digests: Vec<u32>,
    /// When the next candidates are asked as well; none if they were.
    hedge_at: Option<Instant>,
}

struct Answer {
    message: usize,
    node: NodeId,
    outcome: Result<Vec<Result<Bytes, Error>>, Error>,
}

struct Batch<'a> {
    shared: &'a Arc<Shared>,
    view: &'a View,
    digests: &'a [Digest],
    reads: Vec<Read>,
    undecided: usize,
    /// Those under way.
    messages: BTreeMap<usize, Message>,
    sent: usize,
    /// Aborted when dropped.
    tasks: JoinSet<Answer>,
}

impl Batch<'_> {
    async fn run(&mut self) {
        while self.undecided > 0 {
            let hedge_at = self.messages.values().filter_map(|m| m.hedge_at).min();
            let silence: OptionFuture<_> = hedge_at.map(sleep_until).into();
            tokio::select! {
                answer = self.tasks.join_next() => match answer {
                    Some(Ok(answer)) => self.take(answer),
                    // A task panicked, or none is left: what is open stays so.
                    Some(Err(_)) => {}
                    None => return,
                },
                Some(()) = silence => self.hedge(Instant::now()),
            }
        }
    }

    fn hedge(&mut self, now: Instant) {
        let mut silent = Vec::new();
        for message in self.messages.values_mut() {
            if message.hedge_at.is_some_and(|at| at <= now) {
                message.hedge_at = None;
                silent.extend_from_slice(&message.digests);
            }
        }
        self.ask_next(silent);
    }

    fn take(&mut self, answer: Answer) {
        let node = answer.node;
        let Some(Message { digests, .. }) = self.messages.remove(&answer.message) else {
            return;
        };
        let results = answer.outcome.unwrap_or_else(|error| {
            tracing::debug!(%node, digests = digests.len(), %error, "batch read failed");
            self.shared.latencies.failed(node);
            vec![Err(error); digests.len()]
        });
        let mut elsewhere = Vec::new();
        for (index, result) in digests.into_iter().zip(results) {
            let digest = self.digests[index as usize];
            let read = &mut self.reads[index as usize];
            read.open -= 1;
            if read.decided.is_some() {
                continue;
            }
            match result {
                Ok(bytes) if bytes.len() as u64 == digest.size => {
                    for lacking in mem::take(&mut read.lacking) {
                        self.shared.note_lacking(lacking, digest);
                    }
                    read.decided = Some(Ok(bytes));
                    self.undecided -= 1;
                    continue;
                }
                Ok(bytes) => {
                    let what = format!("node {node} gave {} bytes for {digest}", bytes.len());
                    read.note(node, Error::Internal(what));
                }
                Err(error) => read.note(node, error),
            }
            elsewhere.push(index);
        }
        self.ask_next(elsewhere);
    }

    /// Sends each of these to its next candidate; without one, and nothing
    /// under way for it, it is decided.
    fn ask_next(&mut self, indices: Vec<u32>) {
        let mut plan: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for index in indices {
            let digest = self.digests[index as usize];
            let read = &mut self.reads[index as usize];
            if read.decided.is_some() {
                continue;
            }
            if let Some(next) = next_reader(self.shared, self.view, digest, read) {
                read.asked.push(next);
                read.open += 1;
                plan.entry(next).or_default().push(index);
            } else if read.open == 0 {
                let holders = read.holders.take().unwrap_or_default();
                let quorum = self.view.write_quorum();
                let failed = mem::take(&mut read.failed);
                read.decided = Some(Err(absence(digest, &holders, quorum, failed)));
                self.undecided -= 1;
            }
        }
        for (node, indices) in plan {
            self.send(node, indices);
        }
    }

    /// Asks one node, in messages of bounded size.
    fn send(&mut self, node: NodeId, indices: Vec<u32>) {
        let mut message = Vec::new();
        let mut bytes = 0;
        for index in indices {
            let size = self.digests[index as usize].size;
            let full = bytes + size > MESSAGE_BYTES || message.len() >= MESSAGE_DIGESTS;
            if full && !message.is_empty() {
                self.send_message(node, mem::take(&mut message));
                bytes = 0;
            }
            bytes += size;
            message.push(index);
        }
        self.send_message(node, message);
    }

    fn send_message(&mut self, node: NodeId, digests: Vec<u32>) {
        let message = self.sent;
        self.sent += 1;
        let wanted: Vec<_> = digests.iter().map(|i| self.digests[*i as usize]).collect();
        let hedge_at = Some(Instant::now() + HEDGE);
        self.messages.insert(message, Message { digests, hedge_at });
        let shared = Arc::clone(self.shared);
        let ask = async move {
            let outcome = shared.get_batch_on(node, &wanted).await;
            Answer {
                message,
                node,
                outcome,
            }
        };
        self.tasks.spawn(ask.in_current_span());
    }
}

/// The nearest candidate not asked yet: owners, then the others, whom finding
/// takes a walk of the ring.
fn next_reader(shared: &Shared, view: &View, digest: Digest, read: &mut Read) -> Option<NodeId> {
    let distance = |node| shared.latencies.distance(view, node);
    if read.holders.is_none() {
        let owners = view
            .live_owners(digest)
            .filter(|node| !read.asked.contains(node));
        if let Some(nearest) = owners.min_by_key(|node| distance(*node)) {
            return Some(nearest);
        }
        read.holders = Some(view.holders(digest));
    }
    let order = read_order(shared.me, read.holders.as_ref()?, distance);
    order.into_iter().find(|node| !read.asked.contains(node))
}
