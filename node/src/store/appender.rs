//! The one thread that appends to segments.
//!
//! It takes all that waits, writes it with one call, syncs once, makes it
//! visible in the index, then answers: a group commit. Nothing is visible
//! before it is durable, so "present" never means "will be lost".

use std::{
    collections::{HashSet, VecDeque},
    io::IoSlice,
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use weir_cluster::{Digest, Error};

use super::{
    Durability,
    core::Core,
    index::Location,
    record::{ALIGN, Prepared},
    segments::{SEGMENT_HEADER, Segment},
    uses::Coming,
    volume::Room,
};
use crate::planted::{self, Bug};

/// Submissions that may wait; more wait for their turn to submit. A group of
/// this many is far more than a sync needs to pay off.
const QUEUE_LEN: usize = 1024;

/// Bytes one group commit writes at most: some milliseconds of a disk's time,
/// so that nobody waits long behind a big group.
const GROUP_BYTES: u64 = 8 << 20;

/// Work for the appender.
pub(super) enum Job {
    /// New blobs: one answer for the lot.
    Put {
        records: Vec<Prepared>,
        room: Room,
        answer: oneshot::Sender<Result<(), Error>>,
        /// Its place in the queue.
        slot: OwnedSemaphorePermit,
    },
    /// Blobs that the cleaner moves out of an old segment.
    Copy {
        records: Vec<(Prepared, Location)>,
        answer: oneshot::Sender<Result<(), Error>>,
    },
    /// Tells up to where all records are durable and in the index.
    Settle {
        answer: oneshot::Sender<Result<Location, Error>>,
    },
}

/// What waits for the appender.
pub(super) struct Queue {
    // A std mutex: held to push and to take, never across an await.
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    slots: Arc<Semaphore>,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    stopped: bool,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            slots: Arc::new(Semaphore::new(QUEUE_LEN)),
        }
    }

    /// Waits for a place in the queue.
    pub(super) async fn slot(&self) -> Result<OwnedSemaphorePermit, Error> {
        let slot = self.slots.clone().acquire_owned().await;
        slot.map_err(|_| stopped())
    }

    /// Hands over a job; the receiver of its answer learns if it was in vain.
    pub(super) fn push(&self, job: Job) {
        let mut waiting = self.lock();
        if !waiting.stopped {
            waiting.jobs.push_back(job);
            self.arrived.notify_one();
        }
    }

    /// Lets the appender end; with `drain` after all that waits is done.
    pub(super) fn stop(&self, drain: bool) {
        let mut waiting = self.lock();
        waiting.stopped = true;
        if !drain {
            waiting.jobs.clear();
        }
        self.slots.close();
        self.arrived.notify_one();
    }

    /// The next group, in order of arrival; `None` at the end.
    fn take(&self) -> Option<Vec<Job>> {
        let mut waiting = self.lock();
        while waiting.jobs.is_empty() {
            if waiting.stopped {
                return None;
            }
            waiting = self
                .arrived
                .wait(waiting)
                .expect("no panic while the queue is locked");
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(job) = waiting.jobs.front() {
            bytes += job.bytes();
            if !group.is_empty() && bytes > GROUP_BYTES {
                break;
            }
            group.extend(waiting.jobs.pop_front());
        }
        Some(group)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting
            .lock()
            .expect("no panic while the queue is locked")
    }
}

impl Job {
    fn bytes(&self) -> u64 {
        match self {
            Self::Put { records, .. } => records.iter().map(Prepared::len).sum(),
            Self::Copy { records, .. } => records.iter().map(|(record, _)| record.len()).sum(),
            Self::Settle { .. } => 0,
        }
    }
}

/// What a submitter is told when the appender ended before its turn.
pub(super) fn stopped() -> Error {
    Error::Fenced("the store is closed".into())
}

/// Appends until the queue is stopped; then seals the active segment.
pub(super) fn run(core: Arc<Core>) {
    let mut appender = Appender { core, active: None };
    while let Some(group) = appender.core.queue.take() {
        appender.commit(group);
    }
    appender.seal();
}

struct Appender {
    core: Arc<Core>,
    active: Option<Arc<Segment>>,
}

/// A record that is to be written, and for whom.
struct Item<'a> {
    record: &'a Prepared,
    /// Where a copy comes from.
    from: Option<Location>,
    job: usize,
}

impl Appender {
    fn commit(&mut self, mut group: Vec<Job>) {
        let written = self.write_group(&mut group);
        for job in group {
            // A submitter that has gone wants no answer.
            match job {
                Job::Put {
                    answer, room, slot, ..
                } => {
                    // Before the answer, so that who was answered sees the room.
                    drop((room, slot));
                    let _ = answer.send(written.clone());
                }
                Job::Copy { answer, .. } => {
                    let _ = answer.send(written.clone());
                }
                Job::Settle { answer } => {
                    let _ = answer.send(written.clone().and_then(|()| self.settle()));
                }
            }
        }
    }

    /// Writes the records of all jobs, in as few groups as segments allow.
    fn write_group(&mut self, group: &mut [Job]) -> Result<(), Error> {
        if let Some(why) = self.core.volume.fenced() {
            return Err(Error::Fenced(why.to_owned()));
        }
        let mut kept = vec![0; group.len()];
        let Wanted { items, repeated } = wanted(&self.core, group);
        let outcome = self.write_items(items, &mut kept);
        if outcome.is_ok() {
            let now = self.core.clock.now();
            for (digest, coming) in repeated {
                self.core.index.renew(&digest, coming, now);
            }
        }
        for (job, kept) in group.iter_mut().zip(kept) {
            if let Job::Put { room, .. } = job {
                room.keep(kept);
            }
        }
        outcome
    }

    fn write_items(&mut self, items: Vec<Item<'_>>, kept: &mut [u64]) -> Result<(), Error> {
        let mut rest = &items[..];
        while let Some(first) = rest.first() {
            let segment = self.segment_for(first.record.len())?;
            let mut end = segment.end();
            let fitting = rest
                .iter()
                .take_while(|item| {
                    end += item.record.len();
                    end <= segment.allocated
                })
                .count();
            let (now, later) = rest.split_at(fitting);
            self.write(&segment, now, kept)?;
            rest = later;
        }
        Ok(())
    }

    /// One write, one sync, then the index.
    fn write(&self, segment: &Segment, items: &[Item<'_>], kept: &mut [u64]) -> Result<(), Error> {
        let core = &*self.core;
        let mut parts = Vec::with_capacity(items.len() * 3);
        for Item { record, .. } in items {
            parts.push(IoSlice::new(&record.header));
            parts.push(IoSlice::new(&record.body));
            if !record.padding().is_empty() {
                parts.push(IoSlice::new(record.padding()));
            }
        }
        let mut end = segment.end();
        // The room was reserved, so that any failure here is one of the disk.
        segment
            .file
            .write_parts_at(&parts, end)
            .map_err(|error| core.volume.fence("cannot write to a segment", &error))?;
        if core.config.durability == Durability::Fsync && !planted::is(Bug::DataSyncSkipped) {
            let again = |error| match planted::is(Bug::SyncRetried) {
                true => segment.file.sync(),
                false => Err(error),
            };
            segment
                .file
                .sync()
                .or_else(again)
                .map_err(|error| core.volume.fence("cannot sync a segment", &error))?;
        }
        let now = core.clock.now();
        for item in items {
            let to = Location {
                segment: segment.number,
                offset: (end / ALIGN) as u32,
            };
            let (digest, len) = (item.record.digest, item.record.len());
            end += len;
            match item.from {
                None => {
                    let uses = item.record.coming.uses(now, core.index.lease_end(now));
                    core.index.put_small(digest, to, uses);
                    kept[item.job] += len;
                }
                Some(from) => {
                    core.index.move_small(&digest, from, to);
                    core.volume.add(len);
                }
            }
        }
        segment.set_end(end);
        Ok(())
    }

    /// The active segment if it has room for `len` bytes, else a new one.
    fn segment_for(&mut self, len: u64) -> Result<Arc<Segment>, Error> {
        if let Some(active) = &self.active
            && active.end() + len <= active.allocated
        {
            return Ok(active.clone());
        }
        self.seal();
        let core = &*self.core;
        core.volume.check_root()?;
        core.volume.refresh_room();
        let number = core.segments.next();
        if number == u32::MAX {
            return Err(Error::Exhausted("all segment numbers are used up".into()));
        }
        core.segments.skip_to(number + 1);
        // A blob that is larger than a segment gets one that is large enough.
        let allocated = core.config.segment_bytes.max(SEGMENT_HEADER + len);
        let segment = Segment::create(&*core.volume.disk, number, allocated)
            .map_err(|error| core.volume.failed("cannot create a segment", &error))?;
        let segment = Arc::new(segment);
        core.volume.add(SEGMENT_HEADER);
        core.segments.insert(segment.clone());
        core.keeper.segment_began();
        self.active = Some(segment.clone());
        Ok(segment)
    }

    /// Ends the active segment and gives back what it did not need.
    fn seal(&mut self) {
        let Some(active) = self.active.take() else {
            return;
        };
        let volume = &self.core.volume;
        if volume.fenced().is_some() {
            return;
        }
        let mut sealed = active.file.set_len(active.end());
        if self.core.config.durability == Durability::Os {
            sealed = sealed.and_then(|()| active.file.sync());
        }
        if let Err(error) = sealed {
            volume.fence("cannot seal a segment", &error);
            return;
        }
        active.set_active(false);
    }

    fn settle(&self) -> Result<Location, Error> {
        let volume = &self.core.volume;
        let Some(active) = &self.active else {
            return Ok(Location {
                segment: self.core.segments.next(),
                offset: 0,
            });
        };
        if self.core.config.durability == Durability::Os {
            active
                .file
                .sync()
                .map_err(|error| volume.fence("cannot sync a segment", &error))?;
        }
        Ok(Location {
            segment: active.number,
            offset: (active.end() / ALIGN) as u32,
        })
    }
}

/// What a group asks for.
struct Wanted<'a> {
    /// Records that are to be written: of those that are there already, or
    /// came twice, none is.
    items: Vec<Item<'a>>,
    /// Those that came twice, and how: each has a say in the blob's life.
    repeated: Vec<(Digest, Coming)>,
}

fn wanted<'a>(core: &Core, group: &'a [Job]) -> Wanted<'a> {
    let now = core.clock.now();
    let mut seen: HashSet<Digest> = HashSet::new();
    let (mut items, mut repeated) = (Vec::new(), Vec::new());
    for (job, work) in group.iter().enumerate() {
        match work {
            Job::Put { records, .. } => {
                for record in records {
                    if !seen.insert(record.digest) {
                        repeated.push((record.digest, record.coming));
                    } else if !core.index.renew(&record.digest, record.coming, now) {
                        items.push(Item {
                            record,
                            from: None,
                            job,
                        });
                    }
                }
            }
            Job::Copy { records, .. } => {
                for (record, from) in records {
                    if core.index.locate(&record.digest) == Some(*from) {
                        items.push(Item {
                            record,
                            from: Some(*from),
                            job,
                        });
                    }
                }
            }
            Job::Settle { .. } => {}
        }
    }
    Wanted { items, repeated }
}
