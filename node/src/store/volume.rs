//! The room on the volume, and whether it may still be written to.
//!
//! - The first failed write or sync fences the volume: nothing is written to it
//!   any more, reads go on. The tempting alternative, to sync again, reports
//!   success for pages that the kernel has already dropped.
//! - A lack of room is no fault: it refuses what asked for the room.
//! - Everything is done in the folder that was opened. If its path leads
//!   elsewhere one day, the volume is fenced.

use std::{
    io,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use weir_cluster::{
    Error,
    journal::disk::{Disk, is_about_the_process, is_full},
};

use super::StoreConfig;
use crate::planted::{self, Bug};

/// The volume under a store.
pub(super) struct Volume {
    pub(super) disk: Arc<dyn Disk>,
    capacity: u64,
    /// Kept free for the rest of the active segment and the cleaner's copies.
    reserve: u64,
    /// Most that may be used: what is configured, or what the volume has if less.
    limit: AtomicU64,
    /// Whether there is no room for another file, however few bytes it has.
    out_of_files: AtomicBool,
    /// Written to segments and files, or promised to writes under way.
    used: AtomicU64,
    fenced: OnceLock<String>,
    closed: AtomicBool,
}

/// Room promised to a write; given back when dropped unless it was kept.
pub(super) struct Room {
    volume: Arc<Volume>,
    bytes: u64,
}

impl Volume {
    pub(super) fn new(disk: Arc<dyn Disk>, config: &StoreConfig) -> Self {
        let reserve = 2 * config.segment_bytes;
        Self {
            disk,
            capacity: config.capacity_bytes,
            reserve,
            limit: AtomicU64::new(config.capacity_bytes - reserve),
            out_of_files: AtomicBool::new(false),
            used: AtomicU64::new(0),
            fenced: OnceLock::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Refuses if the volume is fenced or the store closed.
    pub(super) fn check_writable(&self) -> Result<(), Error> {
        if let Some(why) = self.fenced.get() {
            return Err(Error::Fenced(why.clone()));
        }
        if self.is_closed() {
            return Err(Error::Fenced("the store is closed".into()));
        }
        Ok(())
    }

    /// Why the volume is out of use, if it is.
    pub(super) fn fenced(&self) -> Option<&str> {
        self.fenced.get().map(String::as_str)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Takes no writes from here on.
    pub(super) fn close(&self) {
        self.closed.store(true, SeqCst);
    }

    /// What a failed write means: no room, and a process that may open no more
    /// files, are told to the caller; anything else fences the volume for good.
    pub(super) fn failed(&self, doing: &str, error: &io::Error) -> Error {
        if is_about_the_process(error) {
            return Error::Exhausted(format!(
                "this node may open no more files or take no more memory: {doing}: {error}"
            ));
        }
        if is_full(error) && !planted::is(Bug::FullDiskFences) {
            return Error::Exhausted(format!("no room on the volume: {doing}: {error}"));
        }
        self.fence(doing, error)
    }

    /// Fences the volume: something that was written may be lost.
    pub(super) fn fence(&self, doing: &str, error: &io::Error) -> Error {
        let why = self.fenced.get_or_init(|| {
            tracing::error!(doing, %error, "volume fenced; the node goes on without it");
            format!("{doing}: {error}")
        });
        Error::Fenced(why.clone())
    }

    /// Fences the volume if its folder is no longer where it was: what is
    /// written from then on would be lost to the next start, or land below the
    /// mount point of a volume that has gone.
    pub(super) fn check_root(&self) -> Result<(), Error> {
        self.disk.check_root().map_err(|error| {
            if is_about_the_process(&error) {
                return self.failed("cannot look for the folder of the store", &error);
            }
            let doing = "the folder of the store has gone; was its volume unmounted?";
            self.fence(doing, &error)
        })
    }

    /// Fences the volume if it does not take a write either: asked when it could
    /// not read, which may be one bad place or the end of the whole disk. Writes
    /// `path`, which nobody else uses, and removes it.
    pub(super) fn check_alive(&self, path: &Path) -> Result<(), Error> {
        self.check_writable()?;
        let written = self.disk.create(path).and_then(|file| {
            file.write_at(b"alive?", 0)?;
            file.sync()
        });
        // A lack of room says nothing of what is there.
        if let Err(error) = written
            && let fenced @ Error::Fenced(_) =
                self.failed("the volume neither reads nor writes", &error)
        {
            return Err(fenced);
        }
        // Best effort: what stays in this folder is swept at the next start.
        let _ = self.disk.remove(path);
        Ok(())
    }

    /// Promises room, if there is enough.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Option<Room> {
        self.take_below(bytes, self.limit())
    }

    /// Promises room if no more than `limit` is used then.
    pub(super) fn take_below(self: &Arc<Self>, bytes: u64, limit: u64) -> Option<Room> {
        self.used
            .fetch_update(Relaxed, Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= limit)
            })
            .ok()?;
        Some(Room {
            volume: self.clone(),
            bytes,
        })
    }

    /// Counts bytes that took no promise: segment headers, the cleaner's copies.
    pub(super) fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes that are gone.
    pub(super) fn free(&self, bytes: u64) {
        let _ = self
            .used
            .fetch_update(Relaxed, Relaxed, |used| Some(used.saturating_sub(bytes)));
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Most that may be used by blobs.
    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes above which the cleaner begins before anybody has to wait for it.
    pub(super) fn high_water(&self) -> u64 {
        let limit = self.limit();
        limit - limit / 16
    }

    /// Whether no file could be created when it was looked last.
    pub(super) fn is_out_of_files(&self) -> bool {
        self.out_of_files.load(Relaxed)
    }

    /// Looks at how much room the volume really has, for bytes and for files.
    pub(super) fn refresh_room(&self) {
        match self.disk.free_files() {
            Ok(files) => self.out_of_files.store(files == 0, Relaxed),
            Err(error) => tracing::warn!(%error, "cannot tell how many files the volume takes"),
        }
        match self.disk.free_bytes() {
            Ok(free) => {
                let most = self.used().saturating_add(free).min(self.capacity);
                self.limit.store(most.saturating_sub(self.reserve), Relaxed);
            }
            Err(error) => tracing::warn!(%error, "cannot tell the free space of the volume"),
        }
    }
}

impl Room {
    /// Takes over what another was promised on the same volume.
    pub(super) fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Turns part of the promise into bytes that are there to stay.
    pub(super) fn keep(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.volume.free(self.bytes);
    }
}

/// A sync that failed is never tried again, whatever its reason: hides that it
/// may have been a lack of room, which would be no reason to fence the volume.
pub(super) fn sync_failed(error: io::Error) -> io::Error {
    io::Error::other(error)
}
