//! What the threads and uploads of one store share.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};
use weir_cluster::{Digest, Error, blob::Verified};

use super::{
    StoreConfig,
    appender::{Job, Queue, stopped},
    clock::Clock,
    files::{self, Names},
    fsck,
    horizon::Horizon,
    index::{Index, Location},
    keeper::Keeper,
    quarantine::Defect,
    quarantine::Quarantine,
    record::Prepared,
    scrub::Scrub,
    segments::Segments,
    upload::UPLOADS_AT_ONCE,
    volume::{Room, Volume},
};
use crate::planted::{self, Bug};

/// How often a write asks for room that others then take before it.
pub(super) const ADMISSION_TRIES: u32 = 16;

pub(super) struct Core {
    pub(super) config: StoreConfig,
    pub(super) volume: Arc<Volume>,
    pub(super) clock: Clock,
    pub(super) index: Index,
    pub(super) segments: Segments,
    pub(super) names: Names,
    pub(super) queue: Queue,
    pub(super) keeper: Keeper,
    pub(super) quarantine: Quarantine,
    pub(super) horizon: Horizon,
    pub(super) scrub: Scrub,
    /// Turns of large uploads.
    pub(super) uploads: Arc<Semaphore>,
}

impl Core {
    pub(super) fn new(config: StoreConfig, volume: Volume) -> Self {
        Self {
            config,
            volume: Arc::new(volume),
            clock: Clock::from(0),
            index: Index::new(),
            segments: Segments::new(),
            names: Names::new(),
            queue: Queue::new(),
            keeper: Keeper::default(),
            quarantine: Quarantine::default(),
            horizon: Horizon::default(),
            scrub: Scrub::new(),
            uploads: Arc::new(Semaphore::new(UPLOADS_AT_ONCE)),
        }
    }

    /// Stores small blobs through the appender; returns when they are durable.
    pub(super) async fn append(&self, blobs: Vec<Verified>) -> Result<(), Error> {
        self.volume.check_writable()?;
        let slot = self.queue.slot().await?;
        let now = self.clock.now();
        let records: Vec<_> = blobs
            .into_iter()
            .filter(|blob| !blob.digest().is_empty_blob())
            .map(|blob| Prepared::new(blob, now))
            .collect();
        if records.is_empty() {
            return Ok(());
        }
        let room = self.admit(records.iter().map(Prepared::len).sum()).await?;
        let (answer, answered) = oneshot::channel();
        self.queue.push(Job::Put {
            records,
            room,
            answer,
            slot,
        });
        answered.await.map_err(|_| stopped())?
    }

    /// Promises room for a write, once there is some.
    pub(super) async fn admit(&self, bytes: u64) -> Result<Room, Error> {
        for _ in 0..ADMISSION_TRIES {
            self.volume.check_writable()?;
            if let Some(room) = self.volume.take(bytes) {
                return Ok(room);
            }
            self.keeper.make_room(bytes, None).await?;
        }
        Err(self.full(bytes))
    }

    pub(super) fn full(&self, bytes: u64) -> Error {
        Error::Exhausted(format!(
            "no room for {bytes} bytes: {} of {} bytes are in use and what is left is leased",
            self.volume.used(),
            self.volume.limit(),
        ))
    }

    /// Takes a defective copy out of use, if it is still the one at `location`.
    /// The error that it gives is [`Error::Corrupt`], or that the volume is
    /// fenced, and then no copy is given up.
    pub(super) fn set_aside_small(
        &self,
        digest: &Digest,
        location: Location,
        defect: &Defect,
    ) -> Error {
        if let Err(fenced) = self.check_defect(defect) {
            return fenced;
        }
        let keep = planted::is(Bug::DamagedCopyKept);
        if self.index.remove_small_if(digest, location, |_| !keep) {
            let place = format!(
                "segment {} unit {}: {defect}",
                location.segment, location.offset
            );
            self.quarantine.note(Some(*digest), &place);
        }
        Error::Corrupt(*digest)
    }

    /// As [`Self::set_aside_small`], of a large copy. Reads the file again, to
    /// the end.
    pub(super) fn set_aside_large(&self, digest: &Digest, defect: &Defect) -> Error {
        if let Err(fenced) = self.check_defect(defect) {
            return fenced;
        }
        let _name = self.names.lock(digest);
        // Meanwhile the copy may have been evicted and a good one stored under
        // its name, which somebody was told is durable.
        let opened = self.volume.disk.open(&files::path(digest));
        let is_good = opened.and_then(|file| fsck::is_intact(&*file, digest));
        if !is_good.unwrap_or(false) && self.index.remove_large_if(digest, |_| true) {
            if let Some(len) = files::file_len(digest.size) {
                self.volume.free(len);
            }
            self.set_file_aside(digest, &defect.to_string());
        }
        Error::Corrupt(*digest)
    }

    /// What the disk could not read is damaged, unless the whole volume has
    /// failed. Then whether it is here cannot be told, and the tempting answer,
    /// to set it aside as well, would have every owner say NOT_FOUND of what a
    /// power cut took from all of them at once.
    fn check_defect(&self, defect: &Defect) -> Result<(), Error> {
        match defect {
            Defect::Bytes(_) => Ok(()),
            Defect::Unread(_) => self.volume.check_alive(&self.names.temporary()),
        }
    }

    /// Moves a file out of the way. Best effort: where the volume cannot be
    /// written to, the file keeps its place and is found damaged again.
    pub(super) fn set_file_aside(&self, digest: &Digest, why: &str) {
        self.quarantine.note(Some(*digest), &format!("file: {why}"));
        if self.volume.fenced().is_some() {
            return;
        }
        let moved = self
            .volume
            .disk
            .rename(&files::path(digest), &files::quarantine_path(digest));
        if let Err(error) = moved {
            tracing::warn!(%digest, %error, "cannot move a damaged file");
        }
    }
}
