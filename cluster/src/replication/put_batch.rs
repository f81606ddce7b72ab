//! Small blobs: one message for each owner, one answer for each blob.
//!
//! - stragglers: finish behind the answer, stand-ins for them included.
//! - on failure: what a node did not store goes to the next node of each blob,
//!   again one message for each of those.
//! - on cancel: the batch goes on; what it stores stays.
//!
//! What waits for one node is bounded ([`WAITING_BYTES`]), so that a slow one
//! costs copies, which repair makes up for, and never memory or time.

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::Instrument;

use super::{
    MESSAGE_BYTES, Shared,
    candidates::next_writer,
    quorum::{Quorum, Verdict},
    shortfall,
};
use crate::{Digest, Epoch, Error, NodeId, blob::Verified, placement::view::View};

/// Bytes counted for a blob beside its own: digest, framing, bookkeeping.
const BLOB_OVERHEAD: u64 = 64;

/// Bytes of batches under way to one node, over all batches: half a second of
/// a gigabit link.
pub(super) const WAITING_BYTES: usize = 64 << 20;
/// How long a message waits for room among those.
const WAITING_PATIENCE: Duration = Duration::from_millis(200);

/// Times that a batch takes a newer view.
const REFRESH_LIMIT: usize = 2;

pub(super) async fn put_batch(
    shared: &Arc<Shared>,
    blobs: Vec<Verified>,
) -> Vec<Result<(), Error>> {
    let view = shared.view();
    if view.is_alone() {
        return shared.local.put_batch(blobs).await;
    }
    let (answered, answers) = mpsc::unbounded_channel();
    let (decided, answer) = oneshot::channel();
    let count = blobs.len();
    let writes = blobs.iter().map(|blob| Write::new(&view, blob)).collect();
    let batch = Batch {
        shared: Arc::clone(shared),
        view,
        blobs,
        writes,
        undecided: 0,
        open: 0,
        answered,
    };
    tokio::spawn(batch.run(answers, decided).in_current_span());
    let lost = |_| vec![Err(Error::Internal("a batch came to nothing".into())); count];
    answer.await.unwrap_or_else(lost)
}

/// Blobs by node.
type Plan = BTreeMap<NodeId, Vec<u32>>;

/// What came of one message.
struct Answer {
    node: NodeId,
    epoch: Epoch,
    blobs: Vec<u32>,
    outcome: Result<Vec<Result<(), Error>>, Error>,
}

/// The write of one blob.
struct Write {
    quorum: Quorum,
    tried: Vec<NodeId>,
    /// Of those tried: asked and not answered, or durable.
    alive: Vec<NodeId>,
    open: Vec<NodeId>,
    causes: Vec<(NodeId, Error)>,
    refusal: Option<Error>,
    decided: Option<Result<(), Error>>,
}

struct Batch {
    shared: Arc<Shared>,
    view: Arc<View>,
    blobs: Vec<Verified>,
    writes: Vec<Write>,
    undecided: usize,
    /// Messages whose answer is awaited.
    open: usize,
    /// Unbounded, but given one answer for each message that was sent.
    answered: mpsc::UnboundedSender<Answer>,
}

impl Write {
    fn new(view: &View, blob: &Verified) -> Self {
        let owners: Vec<_> = view.owners(blob.digest()).collect();
        Self {
            quorum: Quorum::new(view.need(blob.digest())),
            tried: owners.clone(),
            alive: owners.clone(),
            open: owners,
            causes: Vec::new(),
            refusal: None,
            decided: blob.digest().is_empty_blob().then_some(Ok(())),
        }
    }

    /// Decides if nothing is left to wait for; whether it did just now.
    fn settle(&mut self, view: &View) -> bool {
        if self.decided.is_some() {
            return false;
        }
        let open = self.open.iter().map(|node| view.zone_number(*node));
        self.decided = match self.quorum.verdict(open) {
            Verdict::Open => None,
            Verdict::Reached => Some(Ok(())),
            Verdict::Lost => Some(Err(self.refusal.take().unwrap_or_else(|| {
                let (need, got) = (self.quorum.need().acks(), self.quorum.acks());
                shortfall("write blob", need, got, mem::take(&mut self.causes))
            }))),
        };
        self.decided.is_some()
    }
}

impl Batch {
    /// Gives the answer as soon as every blob is decided, and ends when no
    /// message is under way.
    async fn run(
        mut self,
        mut answers: mpsc::UnboundedReceiver<Answer>,
        decided: oneshot::Sender<Vec<Result<(), Error>>>,
    ) {
        let mut plan = Plan::new();
        for (index, write) in (0..).zip(&mut self.writes) {
            // A blob without owners is lost at once.
            if write.decided.is_none() && !write.settle(&self.view) {
                self.undecided += 1;
                for node in &write.open {
                    plan.entry(*node).or_default().push(index);
                }
            }
        }
        self.send(plan);
        let mut decided = Some(decided);
        let mut refreshes = 0;
        loop {
            if self.undecided == 0
                && let Some(decided) = decided.take()
            {
                let verdicts = self.writes.iter_mut().map(|write| {
                    let open = || Err(Error::Internal("a write was left undecided".into()));
                    write.decided.replace(Ok(())).unwrap_or_else(open)
                });
                // The caller may have gone.
                let _ = decided.send(verdicts.collect());
            }
            if self.open == 0 {
                return;
            }
            let Some(answer) = answers.recv().await else {
                return;
            };
            self.open -= 1;
            let mut stay = false;
            if let Err(Error::StaleEpoch { .. }) = answer.outcome
                && refreshes < REFRESH_LIMIT
            {
                refreshes += 1;
                if let Some(newer) = self.shared.newer_than(answer.epoch).await {
                    self.view = newer;
                    stay = true;
                }
            }
            let again = self.take(answer, stay);
            self.send(again);
        }
    }

    /// Counts an answer; returns what is to be sent because of it. With `stay`
    /// a node is asked again if the newer view has it as an owner.
    fn take(&mut self, answer: Answer, stay: bool) -> Plan {
        let Answer { node, blobs, .. } = answer;
        let mut plan = Plan::new();
        let results: Vec<_> = match answer.outcome {
            Ok(results) => results,
            Err(error) => {
                if !stay {
                    tracing::debug!(%node, blobs = blobs.len(), %error, "batch failed");
                    self.shared.latencies.failed(node);
                }
                vec![Err(error); blobs.len()]
            }
        };
        for (index, result) in blobs.into_iter().zip(results) {
            let digest = self.blobs[index as usize].digest();
            let write = &mut self.writes[index as usize];
            write.open.retain(|open| *open != node);
            match result {
                Ok(()) => write.quorum.ack(self.view.zone_number(node)),
                Err(_) if stay && self.view.owns(node, digest) => {
                    write.open.push(node);
                    plan.entry(node).or_default().push(index);
                    continue;
                }
                Err(error) => {
                    write.alive.retain(|alive| *alive != node);
                    if error.is_about_the_node() {
                        self.shared.note_lacking(node, digest);
                        let next = next_writer(&self.view, digest, &write.tried, &write.alive);
                        if let Some(next) = next {
                            write.tried.push(next);
                            write.alive.push(next);
                            write.open.push(next);
                            plan.entry(next).or_default().push(index);
                        }
                    } else {
                        write.refusal.get_or_insert(error.clone());
                    }
                    write.causes.push((node, error));
                }
            }
            self.undecided -= usize::from(write.settle(&self.view));
        }
        plan
    }

    /// Sends each node its blobs, in messages of bounded size.
    fn send(&mut self, plan: Plan) {
        for (node, blobs) in plan {
            let mut message = Vec::new();
            let mut bytes = 0;
            for index in blobs {
                let size = cost(self.blobs[index as usize].digest());
                if bytes + size > MESSAGE_BYTES && !message.is_empty() {
                    self.send_message(node, mem::take(&mut message));
                    bytes = 0;
                }
                bytes += size;
                message.push(index);
            }
            self.send_message(node, message);
        }
    }

    fn send_message(&mut self, node: NodeId, blobs: Vec<u32>) {
        self.open += 1;
        let bodies: Vec<_> = blobs
            .iter()
            .map(|index| self.blobs[*index as usize].clone())
            .collect();
        let (shared, answered) = (Arc::clone(&self.shared), self.answered.clone());
        let epoch = self.view.epoch();
        let message = async move {
            let outcome = match room(&shared, node, &bodies).await {
                Ok(_room) => shared.put_batch_on(node, epoch, bodies).await,
                Err(error) => Err(error),
            };
            // The batch may be over.
            let _ = answered.send(Answer {
                node,
                epoch,
                blobs,
                outcome,
            });
        };
        tokio::spawn(message.in_current_span());
    }
}

/// What a blob takes of a message.
fn cost(digest: Digest) -> u64 {
    digest.size + BLOB_OVERHEAD
}

/// Room for a message among those under way to a node.
async fn room(
    shared: &Shared,
    node: NodeId,
    blobs: &[Verified],
) -> Result<OwnedSemaphorePermit, Error> {
    let bytes: u64 = blobs.iter().map(|blob| cost(blob.digest())).sum();
    // A message of one large blob may be more than all the room there is.
    let bytes = bytes.min(WAITING_BYTES as u64) as u32;
    let waiting = shared.waiting_room(node).acquire_many_owned(bytes);
    match tokio::time::timeout(WAITING_PATIENCE, waiting).await {
        Ok(Ok(room)) => Ok(room),
        _ => Err(Error::Unreachable {
            node,
            cause: format!("{WAITING_BYTES} bytes wait for it already"),
        }),
    }
}
