//! Read barriers, all that wait in one round.
//!
//! A barrier joins only a round that begins after it was asked for: an earlier
//! one may have read the leader's index before a write that it has to see.

use std::sync::Arc;

use tokio::{sync::mpsc, time::timeout};

use super::{
    batches::pause,
    consensus::{LEADER_DEADLINE, QUEUE_LIMIT, RaftConsensus, Waiter},
    forms::ReadIndexAnswer,
    server,
};

/// Answers barriers, all that wait in one round.
pub(super) async fn run(this: Arc<RaftConsensus>, mut asked: mpsc::Receiver<Waiter<()>>) {
    loop {
        let mut waiters = Vec::new();
        if asked.recv_many(&mut waiters, QUEUE_LIMIT).await == 0 {
            return;
        }
        let mut hint = None;
        loop {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                break;
            }
            let answer = match hint.take().or_else(|| this.whom_to_ask()) {
                None => ReadIndexAnswer::NotLeader(None),
                Some(id) if id == this.me.0 => {
                    // A leader cut off from its voters waits for their answers:
                    // not for ever.
                    timeout(LEADER_DEADLINE, server::read_index(&this.raft))
                        .await
                        .unwrap_or_else(|_| ReadIndexAnswer::Failed("no majority answers".into()))
                }
                Some(id) => match this.network.read_index(id, LEADER_DEADLINE).await {
                    Ok(answer) => answer,
                    Err(error) => ReadIndexAnswer::Failed(error.to_string()),
                },
            };
            match answer {
                ReadIndexAnswer::Index(index) => {
                    this.wait_applied(index).await;
                    for waiter in waiters.drain(..) {
                        let _ = waiter.send(Ok(()));
                    }
                }
                ReadIndexAnswer::NotLeader(Some(id))
                    if id != this.me.0 && this.leader() != Some(id) =>
                {
                    hint = Some(id);
                }
                ReadIndexAnswer::NotLeader(_) => pause().await,
                ReadIndexAnswer::Failed(cause) => {
                    tracing::debug!(cause, "a read barrier is tried again");
                    pause().await;
                }
            }
        }
    }
}
