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
use crate::state::Response;

/// Proposals in one batch: one message and one fsync.
const BATCH_LIMIT: usize = 256;
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
        let mut batch = Vec::new();
        if queued.recv_many(&mut batch, BATCH_LIMIT).await == 0 {
            return;
        }
        let this = Arc::clone(&this);
        tokio::spawn(async move {
            carry(&this, batch).await;
            drop(permit);
        });
    }
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
    let pause = rand::rng().random_range(RETRY_LEAST..RETRY_MOST);
    sleep(pause).await;
}
