//! Proposals on their way to the leader, in batches.
//!
//! A batch is sent until all of it is applied here or nobody waits for it any
//! more. Proposals keep their request ids, so sending again is safe.

use std::{sync::Arc, time::Duration};

use rand::Rng;
use tokio::{
    sync::{Semaphore, mpsc},
    time::sleep,
};

use super::{
    consensus::{LEADER_DEADLINE, RaftConsensus, Waiter},
    forms::{ForwardAnswer, Forwarded},
    server,
    types::Proposal,
};
use crate::{outside, state::Response};

/// Proposals in one batch: one message and one fsync.
const BATCH_LIMIT: usize = 256;
/// Text after which a batch takes no further proposals. Batches stay well under
/// the largest message, or none of their proposals would ever reach a leader.
const BATCH_BYTES: usize = 8 << 20;
/// Batches under way: one on its way while the next gathers. More make smaller
/// batches, and each costs its own wake-ups.
const BATCHES_IN_FLIGHT: usize = 2;

/// Before a batch or a round is tried again, at least and at most.
const RETRY_LEAST: Duration = Duration::from_millis(20);
const RETRY_MOST: Duration = Duration::from_millis(200);

/// A proposal and who waits for it.
pub(super) struct Pending {
    pub(super) proposal: Proposal,
    pub(super) answer: Waiter<Response>,
}

/// Gathers proposals into batches.
pub(super) async fn run(this: Arc<RaftConsensus>, mut queued: mpsc::Receiver<Pending>) {
    let in_flight = Arc::new(Semaphore::new(BATCHES_IN_FLIGHT));
    loop {
        // A permit first: proposals that come meanwhile join the batch.
        let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else {
            return;
        };
        let Some(first) = queued.recv().await else {
            return;
        };
        let batch = gather(first, &mut queued);
        let this = Arc::clone(&this);
        tokio::spawn(async move {
            carry(&this, batch).await;
            drop(permit);
        });
    }
}

/// A batch of what waits, as long as it fits into one message.
fn gather(first: Pending, queued: &mut mpsc::Receiver<Pending>) -> Vec<Pending> {
    let mut bytes = first.proposal.command.text_bytes();
    let mut batch = vec![first];
    while batch.len() < BATCH_LIMIT && bytes < BATCH_BYTES {
        let Ok(next) = queued.try_recv() else { break };
        bytes += next.proposal.command.text_bytes();
        batch.push(next);
    }
    batch
}

/// Sends a batch until all of it is applied or nobody waits for it any more.
async fn carry(this: &RaftConsensus, mut batch: Vec<Pending>) {
    let mut hint = None;
    loop {
        batch.retain(|pending| !pending.answer.is_closed());
        if batch.is_empty() {
            return;
        }
        let proposals: Vec<_> = batch
            .iter()
            .map(|pending| pending.proposal.clone())
            .collect();
        let answer = match hint.take().or_else(|| this.whom_to_ask()) {
            None => ForwardAnswer::NotLeader(None),
            Some(id) if id == this.me.0 => server::write(&this.raft, proposals).await,
            Some(id) => match this.network.forward(id, &proposals, LEADER_DEADLINE).await {
                Ok(answer) => answer,
                Err(error) => ForwardAnswer::Failed(error.to_string()),
            },
        };
        match answer {
            ForwardAnswer::Done(answers) => {
                let mut lost = Vec::new();
                let last = answers.iter().filter_map(Forwarded::index).max();
                if let Some(last) = last {
                    this.wait_applied(last).await;
                }
                // Should there be fewer answers, the rest is sent again.
                let mut answers = answers.into_iter();
                for pending in batch {
                    match answers.next() {
                        Some(Forwarded::Applied { response, .. }) => {
                            // Whoever gave up waiting knows that it may have happened.
                            let _ = pending.answer.send(Ok(response));
                        }
                        Some(Forwarded::Lost) | None => lost.push(pending),
                    }
                }
                batch = lost;
            }
            ForwardAnswer::NotLeader(Some(id)) if id != this.me.0 && this.leader() != Some(id) => {
                hint = Some(id);
                continue;
            }
            ForwardAnswer::NotLeader(_) => {}
            ForwardAnswer::Failed(cause) => tracing::debug!(cause, "a batch is sent again"),
        }
        if !batch.is_empty() {
            pause().await;
        }
    }
}

/// With jitter, so that nodes do not ask a new leader all at once.
pub(super) async fn pause() {
    let pause = outside::rng().random_range(RETRY_LEAST..RETRY_MOST);
    sleep(pause).await;
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        raft::{
            consensus::{PROPOSAL_BYTES, QUEUE_LIMIT},
            network::MESSAGE_LIMIT_BYTES,
            rows::tests::value,
            wire,
        },
        state::{Command, RefKey, RefKind, RequestId},
    };

    fn pending(keys: usize, key_bytes: usize) -> Pending {
        let uri = |number| format!("{number:0>key_bytes$}");
        let keys = (0..keys)
            .map(|number| RefKey::new(RefKind::Blob, "", uri(number), vec![]))
            .collect();
        let command = Command::SetRefs {
            keys,
            value: value(1),
        };
        let request = RequestId(1);
        Pending {
            proposal: Proposal { request, command },
            answer: oneshot::channel().0,
        }
    }

    #[test]
    fn a_batch_of_the_largest_proposals_fits_into_a_message() {
        for (waiting, keys, key_bytes, expected) in
            [(BATCH_LIMIT + 5, 1, 10, BATCH_LIMIT), (5, 256, 16 << 10, 2)]
        {
            let (sender, mut queued) = mpsc::channel(QUEUE_LIMIT);
            for _ in 0..waiting {
                sender.try_send(pending(keys, key_bytes)).ok().unwrap();
            }
            let first = queued.try_recv().unwrap();
            assert!(first.proposal.command.text_bytes() <= PROPOSAL_BYTES);
            let batch = gather(first, &mut queued);
            assert_eq!(batch.len(), expected);
            let proposals: Vec<_> = batch.into_iter().map(|pending| pending.proposal).collect();
            assert!(wire::encode(&proposals).len() < MESSAGE_LIMIT_BYTES / 2);
        }
    }
}
