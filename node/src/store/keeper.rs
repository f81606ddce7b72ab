//! The thread that keeps the store in order: it makes room for writes that
//! wait for it, removes segments whose copies were all dropped, writes
//! checkpoints, and looks now and then whether the volume is still there.

use std::{
    collections::BTreeSet,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::oneshot;
use weir_cluster::Error;

use super::{checkpoint, cleaner, core::Core};

/// Segments after which a checkpoint is written, so that opening scans at most
/// about so many.
const CHECKPOINT_SEGMENTS: u64 = 8;

/// A checkpoint is written after this many times its own size was appended:
/// at most a fifth of what is written are checkpoints.
const CHECKPOINT_SHARE: u64 = 4;

/// Between two looks at the volume while nobody asks for anything: how long a
/// volume that vanished, or has room again, may go unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// For how long a refusal holds, in seconds, before a copy of the same age has
/// room looked for again.
const REFUSAL_SECONDS: u32 = 10;

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
    /// Segments that copies were dropped from.
    dropped: BTreeSet<u32>,
    /// Writes that wait for room; as many as may be submitted or uploaded at once.
    waiting: Vec<Waiting>,
}

struct Waiting {
    bytes: u64,
    /// Of a copy that others may not give way to: when it was last used.
    last_use: Option<u32>,
    answer: oneshot::Sender<Result<(), Error>>,
}

impl Keeper {
    /// Waits until there was room for `bytes`, if there can be. With a
    /// `last_use`, only what was used before then gives way.
    pub(super) async fn make_room(&self, bytes: u64, last_use: Option<u32>) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        {
            let mut wanted = self.lock();
            if wanted.stopped {
                return Err(super::appender::stopped());
            }
            wanted.waiting.push(Waiting {
                bytes,
                last_use,
                answer,
            });
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

    /// Tells that copies in these segments were dropped.
    pub(super) fn dropped(&self, segments: &[u32]) {
        if segments.is_empty() {
            return;
        }
        let mut wanted = self.lock();
        wanted.dropped.extend(segments);
        wanted.look = true;
        self.asked.notify_one();
    }

    pub(super) fn stop(&self) {
        let mut wanted = self.lock();
        wanted.stopped = true;
        wanted.waiting.clear();
        self.asked.notify_one();
    }

    /// Waits for something to do, but not for long; `None` at the end.
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
            let (locked, waited) = self
                .asked
                .wait_timeout(wanted, LOOK_EVERY)
                .expect("no panic while requests are locked");
            wanted = locked;
            wanted.look |= waited.timed_out();
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
        refused: None,
    };
    while let Some(waiting) = core.keeper.take() {
        // A volume that has gone is fenced by this, which all that follows notices.
        let _ = core.volume.check_root();
        core.volume.refresh_room();
        remove_emptied(core);
        for Waiting {
            bytes,
            last_use,
            answer,
        } in waiting
        {
            // One that has gone wants no room.
            let _ = answer.send(match last_use {
                None => room.make(bytes),
                Some(last_use) => room.make_by_older(bytes, last_use),
            });
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

fn remove_emptied(core: &Arc<Core>) {
    let dropped = std::mem::take(&mut core.keeper.lock().dropped);
    if dropped.is_empty() {
        return;
    }
    // A failure has fenced the volume and was told there.
    if let Ok(growing) = cleaner::remove_emptied(core, &dropped) {
        core.keeper.lock().dropped.extend(growing);
    }
}

struct RoomMaker<'a> {
    core: &'a Arc<Core>,
    /// Most that can be freed, as far as known, before store time `until`: so
    /// that refusals cost nothing while all is leased.
    could: u64,
    until: u32,
    /// Copies last used then or earlier are refused until that store time.
    refused: Option<(u32, u32)>,
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

    /// Makes room below the high-water mark for a copy, by what was used before
    /// it. Where there is none, such a copy would be the next to be evicted:
    /// from here on it is declined.
    fn make_by_older(&mut self, bytes: u64, last_use: u32) -> Result<(), Error> {
        let volume = &self.core.volume;
        let refused = || {
            Error::Exhausted(format!(
                "no room for {bytes} bytes that does not take it from blobs used later"
            ))
        };
        let Some(most) = volume.high_water().checked_sub(bytes) else {
            return Err(refused());
        };
        let want = volume.used().saturating_sub(most);
        if want == 0 {
            return Ok(());
        }
        let now = self.core.clock.now();
        if let Some((latest, until)) = self.refused
            && last_use <= latest
            && now < until
        {
            return Err(refused());
        }
        let cleaned = cleaner::clean(self.core, want, want, last_use)?;
        if cleaned.freed > 0 {
            (self.could, self.until) = (u64::MAX, 0);
        }
        if volume.used() <= most {
            return Ok(());
        }
        self.core.horizon.raise(last_use);
        self.refused = Some((last_use, now.saturating_add(REFUSAL_SECONDS)));
        Err(refused())
    }

    fn clean(&mut self, need: u64, want: u64) -> Result<(), Error> {
        let known = self.core.clock.now() < self.until;
        if want == 0 || (known && (self.could == 0 || self.could < need)) {
            return Ok(());
        }
        let cleaned = cleaner::clean(self.core, need, want, u32::MAX)?;
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
