//! One blob as a stream, teed to its owners as it comes.
//!
//! Nothing is spooled: the tee hands each chunk to a lane for each owner
//! ([`super::lane`]). It waits while fewer owners than a quorum keep up, and
//! drops one that falls [`BEHIND_LIMIT`] behind while a quorum does.
//!
//! - stragglers: finish behind the answer, at most [`FINISHING_LIMIT`] uploads
//!   and [`FINISHING_DEADLINE`] long; the rest is left to repair.
//! - on failure: an owner that cannot begin, or fails while everything sent is
//!   at hand, is replaced by a stand-in; otherwise its copy is lost, and the
//!   upload with it when a quorum is out of reach.
//! - on cancel: dropping the upload aborts every lane; what an owner has
//!   staged it drops.
//!
//! [`FINISHING_LIMIT`]: super::FINISHING_LIMIT

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, timeout},
};
use tracing::Instrument;

use super::{
    Shared,
    lane::{Board, BoardState, Item, Lane, Phase, Seat, Sent},
    quorum::{Need, Quorum, Verdict},
    shortfall,
};
use crate::{
    Digest, Error,
    blob::{Put, Upload},
    words::error::Mismatch,
};

/// Bytes an owner may have waiting and still count as keeping up.
const KEEPING_UP: usize = 2 << 20;
/// Bytes an owner may have waiting while a quorum keeps up: the most that an
/// upload holds in memory, as lanes share the bytes.
const BEHIND_LIMIT: usize = 8 << 20;
/// How long in all an upload waits for owners that are that far behind. Without
/// it three equal disks would lose a copy to each other's fsyncs.
const BEHIND_PATIENCE: Duration = Duration::from_millis(250);
/// How long the answer to "may I upload" waits for owners that might have it.
const PRESENT_PATIENCE: Duration = Duration::from_millis(500);
/// How long owners may finish behind the answer.
const FINISHING_DEADLINE: Duration = Duration::from_secs(60);

pub(super) async fn put(shared: &Arc<Shared>, digest: Digest) -> Result<Put, Error> {
    let view = shared.view();
    if digest.is_empty_blob() || view.is_alone() {
        return shared.local.put(digest).await;
    }
    let need = view.need(digest);
    let tee = Tee::start(
        shared,
        Arc::new(Board::new(Arc::clone(&view), digest)),
        digest,
        need,
    );
    // Decided when a quorum has it, or when those that have not answered yet
    // cannot make one. On time-out: uploading what is present harms nobody.
    let decided = tee.board.when(|board| match tee.verdict(board) {
        Verdict::Reached => Some(Ok(true)),
        Verdict::Lost => Some(Err(tee.failure(board))),
        Verdict::Open => {
            let may_have = |phase| matches!(phase, Phase::Durable | Phase::Starting);
            let (quorum, _) = board.quorum(Quorum::new(need), |seat| may_have(seat.phase));
            (!quorum.is_reached()).then_some(Ok(false))
        }
    });
    match timeout(PRESENT_PATIENCE, decided).await {
        Ok(Ok(true)) => {
            let lacks = |seat: &&Seat| seat.phase == Phase::Open;
            for seat in tee.board.lock().seats.iter().filter(lacks) {
                shared.note_lacking(seat.node, digest);
            }
            Ok(Put::Present)
        }
        Ok(Err(error)) => Err(error),
        Ok(Ok(false)) | Err(_) => Ok(Put::Upload(Box::new(tee))),
    }
}

struct Tee {
    shared: Arc<Shared>,
    board: Arc<Board>,
    digest: Digest,
    need: Need,
    received: u64,
    /// By seat; none once the copy is lost or durable without more bytes.
    queues: Vec<Option<mpsc::UnboundedSender<Item>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    behind_patience: Duration,
}

impl Tee {
    fn start(shared: &Arc<Shared>, board: Arc<Board>, digest: Digest, need: Need) -> Self {
        let (nodes, epoch) = {
            let state = board.lock();
            let nodes: Vec<_> = state.seats.iter().map(|seat| seat.node).collect();
            (nodes, state.view.epoch())
        };
        let mut queues = Vec::with_capacity(nodes.len());
        let mut tasks = Vec::with_capacity(nodes.len());
        for (seat, node) in nodes.into_iter().enumerate() {
            let (sender, queue) = mpsc::unbounded_channel();
            let lane = Lane {
                shared: Arc::clone(shared),
                board: Arc::clone(&board),
                seat,
                digest,
                node,
                epoch,
                queue,
                sent: Sent::default(),
            };
            queues.push(Some(sender));
            tasks.push(tokio::spawn(lane.run().in_current_span()));
        }
        Self {
            shared: Arc::clone(shared),
            board,
            digest,
            need,
            received: 0,
            queues,
            tasks,
            behind_patience: BEHIND_PATIENCE,
        }
    }

    /// Whether the blob is durable, or still may become so.
    fn verdict(&self, board: &BoardState) -> Verdict {
        let (quorum, open) =
            board.quorum(Quorum::new(self.need), |seat| seat.phase == Phase::Durable);
        quorum.verdict(open.into_iter())
    }

    fn failure(&self, board: &BoardState) -> Error {
        if let Some(refusal) = &board.refusal {
            return refusal.clone();
        }
        let (quorum, _) = board.quorum(Quorum::new(self.need), |seat| seat.phase == Phase::Durable);
        shortfall(
            "write blob",
            self.need.acks(),
            quorum.acks(),
            board.causes.clone(),
        )
    }

    /// Waits until a quorum of owners keeps up.
    async fn wait_for_room(&self) -> Result<(), Error> {
        self.board
            .when(|board| {
                let (quorum, open) = board.quorum(Quorum::new(self.need), |seat| {
                    let takes = matches!(seat.phase, Phase::Starting | Phase::Open);
                    seat.phase == Phase::Durable || takes && seat.queued <= KEEPING_UP
                });
                match quorum.verdict(open.into_iter()) {
                    Verdict::Reached => Some(Ok(())),
                    Verdict::Lost => Some(Err(self.failure(board))),
                    Verdict::Open => None,
                }
            })
            .await
    }

    /// Gives owners that are too far behind a last chance, then drops them.
    async fn drop_stragglers(&mut self) {
        let behind = |board: &BoardState| -> Vec<usize> {
            (0..)
                .zip(&board.seats)
                .filter(|(_, seat)| seat.phase != Phase::Lost && seat.queued > BEHIND_LIMIT)
                .map(|(index, _)| index)
                .collect()
        };
        if behind(&self.board.lock()).is_empty() {
            return;
        }
        let since = Instant::now();
        let caught_up = self
            .board
            .when(|board| behind(board).is_empty().then_some(()));
        let in_time = timeout(self.behind_patience, caught_up).await.is_ok();
        self.behind_patience = self.behind_patience.saturating_sub(since.elapsed());
        if in_time {
            return;
        }
        let stragglers = behind(&self.board.lock());
        for seat in stragglers {
            self.queues[seat] = None;
            self.tasks[seat].abort();
            let node = self.board.lock().seats[seat].node;
            let cause = format!("fell more than {BEHIND_LIMIT} bytes behind");
            tracing::debug!(%node, digest = ?self.digest, "straggler dropped");
            self.shared.latencies.failed(node);
            self.shared.note_lacking(node, self.digest);
            self.board
                .failed(seat, Error::Unreachable { node, cause }, true);
        }
    }

    fn send(&mut self, chunk: &Bytes) {
        let mut board = self.board.lock();
        for (seat, queue) in self.queues.iter_mut().enumerate() {
            let Some(sender) = queue else { continue };
            // Counted first: the lane may take it before we come back.
            board.seats[seat].queued += chunk.len();
            if sender.send(Item::Chunk(chunk.clone())).is_err() {
                board.seats[seat].queued = 0;
                *queue = None;
            }
        }
    }

    fn mismatch(&self, mismatch: Mismatch) -> Error {
        Error::Mismatch {
            digest: self.digest,
            mismatch,
        }
    }

    /// Lets the owners that are not done finish, if there is room for that.
    fn finish_behind(&mut self) {
        let tasks: Vec<_> = self
            .tasks
            .drain(..)
            .filter(|task| !task.is_finished())
            .collect();
        if tasks.is_empty() {
            return;
        }
        let aborts: Vec<AbortHandle> = tasks.iter().map(|task| task.abort_handle()).collect();
        let Ok(permit) = Arc::clone(&self.shared.finishing).try_acquire_owned() else {
            tracing::debug!(digest = ?self.digest, "too many uploads finish: left to repair");
            aborts.iter().for_each(AbortHandle::abort);
            return;
        };
        tokio::spawn(async move {
            let _permit = permit;
            if timeout(FINISHING_DEADLINE, join_all(tasks)).await.is_err() {
                aborts.iter().for_each(AbortHandle::abort);
            }
        });
    }
}

#[async_trait]
impl Upload for Tee {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error> {
        let received = self.received + chunk.len() as u64;
        if received > self.digest.size {
            return Err(self.mismatch(Mismatch::TooLong));
        }
        if chunk.is_empty() {
            return Ok(());
        }
        self.shared.foreground.bump();
        self.wait_for_room().await?;
        self.drop_stragglers().await;
        self.send(&chunk);
        self.received = received;
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<(), Error> {
        let got = self.received;
        if got < self.digest.size {
            return Err(self.mismatch(Mismatch::TooShort { got }));
        }
        for queue in self.queues.iter_mut().filter_map(Option::take) {
            // A lane that is gone has said why on the board.
            let _ = queue.send(Item::Commit);
        }
        let outcome = self
            .board
            .when(|board| match self.verdict(board) {
                Verdict::Reached => Some(Ok(())),
                Verdict::Lost => Some(Err(self.failure(board))),
                Verdict::Open => None,
            })
            .await;
        if outcome.is_ok() {
            self.finish_behind();
        }
        outcome
    }
}

impl Drop for Tee {
    /// Aborts what [`Tee::finish_behind`] has not taken.
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
