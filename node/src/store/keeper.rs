//! The thread that keeps the store in order: it makes room for writes that
//! wait for it, and writes checkpoints.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use tokio::sync::oneshot;
use weir_cluster::Error;

use super::{checkpoint, cleaner, core::Core};

/// Segments after which a checkpoint is written, so that opening scans at most
/// about so many.
const CHECKPOINT_SEGMENTS: u64 = 8;

/// A checkpoint is written after this many times its own size was appended:
/// at most a fifth of what is written are checkpoints.
const CHECKPOINT_SHARE: u64 = 4;

/// What the thread is asked for.
#[derive(Default)]
pub(super) struct Keeper {
    // A std mutex: held to leave and take requests, never across an await.
    wanted: Mutex<Wanted>,
    asked: Condvar,
}

#[derive(Default)]
struct Wanted {
    stopped: bool,
    look: bool,
    segments_begun: u64,
    /// Writes that wait for room; as many as may be submitted or uploaded at once.
    waiting: Vec<Waiting>,
}

struct Waiting {
    bytes: u64,
    answer: oneshot::Sender<Result<(), Error>>,
}

impl Keeper {
    /// Waits until there was room for `bytes`, if there can be.
    pub(super) async fn make_room(&self, bytes: u64) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        {
            let mut wanted = self.lock();
            if wanted.stopped {
                return Err(super::appender::stopped());
            }
            wanted.waiting.push(Waiting { bytes, answer });
            self.asked.notify_one();
        }
        answered.await.map_err(|_| super::appender::stopped())?
    }

    /// Tells that a segment was begun.
    pub(super) fn segment_began(&self) {
        let mut wanted = self.lock();
        wanted.segments_begun += 1;
        wanted.look = true;
        self.asked.notify_one();
    }

    /// Tells that a file was added.
    pub(super) fn file_added(&self) {
        self.lock().look = true;
        self.asked.notify_one();
    }

    pub(super) fn stop(&self) {
        let mut wanted = self.lock();
        wanted.stopped = true;
        wanted.waiting.clear();
        self.asked.notify_one();
    }

    /// Waits for something to do; `None` at the end.
    fn take(&self) -> Option<Vec<Waiting>> {
        let mut wanted = self.lock();
        loop {
            if wanted.stopped {
                return None;
            }
            if wanted.look || !wanted.waiting.is_empty() {
                wanted.look = false;
                return Some(std::mem::take(&mut wanted.waiting));
            }
            wanted = self
                .asked
                .wait(wanted)
                .expect("no panic while requests are locked");
        }
    }

    fn checkpoint_due(&self, core: &Core) -> bool {
        let size = checkpoint::size(core);
        let every = CHECKPOINT_SEGMENTS.max(size * CHECKPOINT_SHARE / core.config.segment_bytes);
        let mut wanted = self.lock();
        let due = wanted.segments_begun >= every;
        if due {
            wanted.segments_begun = 0;
        }
        due
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted
            .lock()
            .expect("no panic while requests are locked")
    }
}

/// Works until it is stopped.
pub(super) fn run(core: &Arc<Core>) {
    let mut room = RoomMaker {
        core,
        could: u64::MAX,
        until: 0,
    };
    while let Some(waiting) = core.keeper.take() {
        core.volume.refresh_limit();
        for Waiting { bytes, answer } in waiting {
            // One that has gone wants no room.
            let _ = answer.send(room.make(bytes));
        }
        // Before anybody has to wait. A failure is told to the next who asks.
        let _ = room.clean(
            0,
            core.volume.used().saturating_sub(core.volume.high_water()),
        );
        if core.volume.fenced().is_none() && core.keeper.checkpoint_due(core) {
            write_checkpoint(core);
        }
    }
}

struct RoomMaker<'a> {
    core: &'a Arc<Core>,
    /// Most that can be freed, as far as known, before store time `until`: so
    /// that refusals cost nothing while all is leased.
    could: u64,
    until: u32,
}

impl RoomMaker<'_> {
    /// Makes room for a write of `bytes`.
    fn make(&mut self, bytes: u64) -> Result<(), Error> {
        let volume = &self.core.volume;
        let Some(most) = volume.limit().checked_sub(bytes) else {
            return Err(self.core.full(bytes));
        };
        let used = volume.used();
        let need = used.saturating_sub(most);
        if need == 0 {
            return Ok(());
        }
        let want = used.saturating_sub(most.min(volume.high_water()));
        self.clean(need, want)?;
        match volume.used() <= most {
            true => Ok(()),
            false => Err(self.core.full(bytes)),
        }
    }

    fn clean(&mut self, need: u64, want: u64) -> Result<(), Error> {
        let known = self.core.clock.now() < self.until;
        if want == 0 || (known && (self.could == 0 || self.could < need)) {
            return Ok(());
        }
        let cleaned = cleaner::clean(self.core, need, want)?;
        (self.could, self.until) = match cleaned.freed {
            0 if cleaned.could < want => (cleaned.could, cleaned.first_lease_end),
            _ => (u64::MAX, 0),
        };
        if cleaned.freed > 0 {
            tracing::debug!(bytes = cleaned.freed, "evicted blobs");
        }
        Ok(())
    }
}

/// Writes a checkpoint of what is durable now.
pub(super) fn write_checkpoint(core: &Core) {
    let (answer, answered) = oneshot::channel();
    core.queue.push(super::appender::Job::Settle { answer });
    // Without a place to go on from there is no checkpoint; the reason was
    // told where it arose.
    let Ok(Ok(position)) = answered.blocking_recv() else {
        return;
    };
    if let Err(error) = checkpoint::write(core, position) {
        tracing::warn!(%error, "no checkpoint was written");
    }
}
