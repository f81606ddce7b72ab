//! A lane carries one copy of an upload to one node.
//!
//! ```text
//!   Tee ─ chunk ─► queue ─► lane task ─► upload on owner 1
//!        ├───────► queue ─► lane task ─► upload on owner 2
//!        └───────► queue ─► lane task ─► (owner 3 down) stand-in
//!                              │
//!                            Board: what each lane is at
//! ```
//!
//! A lane tries its owner and then stand-ins. It can move to another node as
//! long as everything it has sent is still at hand: what waits in its queue,
//! and the first [`REPLAY_BYTES`] of the blob. Bytes are shared with the other
//! lanes, not copied.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::{
    COMMIT_DEADLINE, Shared, WRITE_DEADLINE, candidates::next_writer, quorum::Quorum, within,
};
use crate::{
    Digest, Epoch, Error, NodeId,
    blob::{Put, Upload},
    placement::view::View,
};

/// Bytes sent that a lane keeps, to send them again to another node.
const REPLAY_BYTES: usize = 4 << 20;

/// Times that a lane takes a newer view; epochs change rarely, so that a
/// further change means that something else is wrong.
const REFRESH_LIMIT: usize = 2;

/// What the lanes of one upload are at. Changed by lanes, read by the tee.
pub(super) struct Board {
    digest: Digest,
    // A std mutex: held for short synchronous sections, never across an await.
    state: Mutex<BoardState>,
    changed: Notify,
}

pub(super) struct BoardState {
    pub(super) view: Arc<View>,
    pub(super) seats: Vec<Seat>,
    tried: Vec<NodeId>,
    /// Why nodes did not do.
    pub(super) causes: Vec<(NodeId, Error)>,
    /// An owner's word that the bytes are not what the digest says.
    pub(super) refusal: Option<Error>,
}

/// One copy.
#[derive(Clone, Copy)]
pub(super) struct Seat {
    pub(super) node: NodeId,
    pub(super) phase: Phase,
    /// Bytes handed to the lane that its node has not accepted yet.
    pub(super) queued: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The node was asked and has not answered.
    Starting,
    /// The node takes bytes.
    Open,
    /// The node has the blob durably.
    Durable,
    /// No node for this copy.
    Lost,
}

pub(super) enum Item {
    Chunk(Bytes),
    Commit,
}

impl Board {
    /// A seat for each owner.
    pub(super) fn new(view: Arc<View>, digest: Digest) -> Self {
        let owners: Vec<_> = view.owners(digest).collect();
        let seats = owners.iter().map(|node| Seat {
            node: *node,
            phase: Phase::Starting,
            queued: 0,
        });
        Self {
            digest,
            state: Mutex::new(BoardState {
                seats: seats.collect(),
                view,
                tried: owners,
                causes: Vec::new(),
                refusal: None,
            }),
            changed: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BoardState> {
        self.state
            .lock()
            .expect("no panic while the board is locked")
    }

    /// Changes one seat and wakes the tee.
    pub(super) fn set(&self, seat: usize, change: impl FnOnce(&mut Seat)) {
        change(&mut self.lock().seats[seat]);
        self.changed.notify_waiters();
    }

    /// Waits until the look at the board gives something.
    pub(super) async fn when<T>(&self, mut look: impl FnMut(&BoardState) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on a change is not missed.
            changed.as_mut().enable();
            if let Some(found) = look(&self.lock()) {
                return found;
            }
            changed.await;
        }
    }

    /// A seat's node failed. The next node for it, unless `stay`.
    pub(super) fn failed(&self, seat: usize, error: Error, stay: bool) -> Option<NodeId> {
        let next = {
            let mut state = self.lock();
            let state = &mut *state;
            let node = state.seats[seat].node;
            if !error.is_about_the_node() {
                state.refusal.get_or_insert(error.clone());
            }
            state.causes.push((node, error));
            let alive: Vec<_> = (0..)
                .zip(&state.seats)
                .filter(|(index, other)| *index != seat && other.phase != Phase::Lost)
                .map(|(_, other)| other.node)
                .collect();
            let next = (!stay)
                .then(|| next_writer(&state.view, self.digest, &state.tried, &alive))
                .flatten();
            let seat = &mut state.seats[seat];
            match next {
                Some(node) => {
                    state.tried.push(node);
                    seat.node = node;
                    seat.phase = Phase::Starting;
                }
                None => seat.phase = Phase::Lost,
            }
            next
        };
        self.changed.notify_waiters();
        next
    }

    fn adopt(&self, newer: Arc<View>) {
        let mut state = self.lock();
        if newer.epoch() > state.view.epoch() {
            state.view = newer;
        }
    }
}

impl BoardState {
    /// The quorum so far, counting the seats that `counts` says, and the zones
    /// of the seats that may still come to count.
    pub(super) fn quorum(
        &self,
        mut quorum: Quorum,
        counts: impl Fn(&Seat) -> bool,
    ) -> (Quorum, Vec<Option<usize>>) {
        let mut open = Vec::with_capacity(self.seats.len());
        for seat in &self.seats {
            let zone = self.view.zone_number(seat.node);
            if counts(seat) {
                quorum.ack(zone);
            } else if seat.phase != Phase::Lost {
                open.push(zone);
            }
        }
        (quorum, open)
    }
}

/// The task of a lane.
pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    pub(super) board: Arc<Board>,
    pub(super) seat: usize,
    pub(super) digest: Digest,
    pub(super) node: NodeId,
    pub(super) epoch: Epoch,
    /// Bounded by the tee, which looks at the seat's `queued` before it sends.
    pub(super) queue: mpsc::UnboundedReceiver<Item>,
    pub(super) sent: Sent,
}

/// What a lane has taken from its queue.
#[derive(Default)]
pub(super) struct Sent {
    /// All of it, or nothing once it is more than [`REPLAY_BYTES`].
    chunks: Vec<Bytes>,
    bytes: usize,
    committed: bool,
}

impl Sent {
    fn keep(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        if self.is_at_hand() {
            self.chunks.push(chunk);
        } else {
            self.chunks = Vec::new();
        }
    }

    fn is_at_hand(&self) -> bool {
        self.bytes <= REPLAY_BYTES
    }
}

/// Why a lane's round on one node ended without a durable copy.
enum Stop {
    /// The tee is gone: the upload was dropped.
    Aborted,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Lane {
    /// Carries the copy until it is durable, given up or aborted.
    pub(super) async fn run(mut self) {
        let mut refreshes = 0;
        loop {
            let error = match self.carry().await {
                Ok(()) => {
                    self.board
                        .set(self.seat, |seat| seat.phase = Phase::Durable);
                    return;
                }
                Err(Stop::Aborted) => return,
                Err(Stop::Failed(error)) => error,
            };
            if let Error::StaleEpoch { .. } = error
                && refreshes < REFRESH_LIMIT
                && self.sent.is_at_hand()
            {
                refreshes += 1;
                if let Some(newer) = self.shared.newer_than(self.epoch).await {
                    self.epoch = newer.epoch();
                    let still_owner = newer.owns(self.node, self.digest);
                    self.board.adopt(newer);
                    if still_owner {
                        continue;
                    }
                }
            }
            tracing::debug!(node = %self.node, digest = ?self.digest, %error, "copy failed");
            if error.is_about_the_node() {
                self.shared.latencies.failed(self.node);
                self.shared.note_lacking(self.node, self.digest);
            }
            let stay = !error.is_about_the_node() || !self.sent.is_at_hand();
            match self.board.failed(self.seat, error, stay) {
                Some(next) => self.node = next,
                None => return,
            }
        }
    }

    /// One round on one node.
    async fn carry(&mut self) -> Result<(), Stop> {
        let Put::Upload(mut upload) = self
            .shared
            .put_on(self.node, self.epoch, self.digest)
            .await?
        else {
            return Ok(());
        };
        self.board.set(self.seat, |seat| seat.phase = Phase::Open);
        for chunk in &self.sent.chunks {
            within(WRITE_DEADLINE, self.node, upload.write(chunk.clone())).await?;
        }
        while !self.sent.committed {
            match self.queue.recv().await {
                Some(Item::Chunk(chunk)) => {
                    self.sent.keep(chunk.clone());
                    self.write(&mut *upload, chunk).await?;
                }
                Some(Item::Commit) => self.sent.committed = true,
                None => return Err(Stop::Aborted),
            }
        }
        Ok(within(COMMIT_DEADLINE, self.node, upload.commit()).await?)
    }

    async fn write(&self, upload: &mut dyn Upload, chunk: Bytes) -> Result<(), Error> {
        let len = chunk.len();
        let written = within(WRITE_DEADLINE, self.node, upload.write(chunk)).await;
        self.board.set(self.seat, |seat| {
            seat.queued = seat.queued.saturating_sub(len)
        });
        written
    }
}
