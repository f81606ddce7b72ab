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
    let mut barren_until = 0;
    while let Some(waiting) = core.keeper.take() {
        let outcome = make_room(core, &waiting, &mut barren_until);
        for Waiting { bytes, answer } in waiting {
            let outcome = match &outcome {
                Ok(()) if core.volume.used().saturating_add(bytes) > core.volume.limit() => {
                    Err(core.full(bytes))
                }
                outcome => outcome.clone(),
            };
            // One that has gone wants no room.
            let _ = answer.send(outcome);
        }
        if core.volume.fenced().is_none() && core.keeper.checkpoint_due(core) {
            write_checkpoint(core);
        }
    }
}

/// Cleans for those who wait, or down to the high-water mark.
fn make_room(core: &Arc<Core>, waiting: &[Waiting], barren_until: &mut u32) -> Result<(), Error> {
    let volume = &core.volume;
    volume.refresh_limit();
    let wanted: u64 = waiting.iter().map(|waiting| waiting.bytes).sum();
    let target = volume
        .high_water()
        .min(volume.limit().saturating_sub(wanted));
    let need = volume.used().saturating_sub(target);
    if need == 0 || core.clock.now() < *barren_until {
        return Ok(());
    }
    let cleaned = cleaner::clean(core, need)?;
    if cleaned.freed == 0 {
        *barren_until = cleaned.try_again;
    } else {
        tracing::debug!(bytes = cleaned.freed, "evicted blobs");
    }
    Ok(())
}

fn write_checkpoint(core: &Core) {
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
