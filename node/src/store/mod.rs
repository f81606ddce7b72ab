//! The blobs on this machine's disk.
//!
//! ```text
//!  put_batch, small uploads ─▶ queue ─▶ appender ─▶ segments/   one write and
//!                                          │                    one sync for all
//!                                          ▼                    that wait
//!  find_missing ─────────────────────▶ index (memory)
//!                                          ▲
//!  large uploads ─▶ tmp/ ─▶ sync ─▶ rename ─▶ files/   a file each
//! ```
//!
//! Promised:
//!
//! - a blob is in the index only when it is durable (as configured), and a put
//!   is answered only after that;
//! - bytes are checked against checksums each time they are read;
//! - a leased blob is never evicted; when nothing else is left, writes are
//!   refused with [`Error::Exhausted`];
//! - the first write or sync that fails fences the volume: later writes fail
//!   with [`Error::Fenced`], reads go on;
//! - the index can be rebuilt from the files alone;
//! - all copies are verified once in an interval, if one is set (see `scrub`);
//! - everything is done in the folder that was opened, and the volume is fenced
//!   when its path leads elsewhere.
//!
//! What repair may ask, and what adopting a copy costs others, is in
//! `inventory` and `adopt`.
//!
//! Not promised: that two processes may open the same folder.

use std::{
    io,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use weir_cluster::{
    Digest, Error,
    blob::{
        BlobStore, BlobStream, ByteRange, CHUNK_BYTES, Lease, Put, SMALL_BLOB_BYTES, Verified,
        collect, put_bytes,
    },
    journal::disk::Disk,
    peer::Report,
};

mod adopt;
mod appender;
mod checkpoint;
mod cleaner;
mod clock;
mod config;
mod core;
mod counts;
mod eviction;
mod files;
pub mod fsck;
mod horizon;
mod index;
mod inventory;
mod keeper;
mod quarantine;
mod read;
mod record;
mod recover;
mod scan;
mod scrub;
mod segments;
mod table;
#[cfg(test)]
mod tests;
mod upload;
mod uses;
mod volume;

pub use config::{Durability, StoreConfig};

use self::{
    clock::lease_end,
    core::Core,
    index::Location,
    read::OpenFile,
    upload::{LargeUpload, NewFile, SmallUpload},
    uses::Coming,
    volume::Volume,
};

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Config(String),
    #[error("the store was written in format {0}, which this version does not read")]
    Version(u32),
    #[error("{doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

/// The blobs on one volume. See the [module](self).
pub struct LocalStore {
    core: Arc<Core>,
    // A std mutex: held to take the handles at the end.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl LocalStore {
    /// Opens the store in the root folder of `disk`, or begins an empty one.
    /// Blocks: it reads what was written since the last checkpoint.
    pub fn open(config: StoreConfig, disk: Arc<dyn Disk>) -> Result<Arc<Self>, OpenError> {
        config.check()?;
        let volume = Volume::new(disk, &config);
        let mut core = Core::new(config, volume);
        recover::create_folders(&core)?;
        recover::recover(&mut core)?;
        core.volume.refresh_room();
        let core = Arc::new(core);
        let appender = core.clone();
        let keeper = core.clone();
        let scrub = core.clone();
        let threads = vec![
            spawn("store-keep", move || keeper::run(&keeper))?,
            spawn("store-scrub", move || scrub::run(&scrub))?,
            spawn("store-append", move || appender::run(appender))?,
        ];
        Ok(Arc::new(Self {
            core,
            threads: Mutex::new(threads),
        }))
    }

    /// The store's account of itself.
    #[must_use]
    pub fn report(&self) -> Report {
        let volume = &self.core.volume;
        let (blobs, bytes) = self.core.index.counts().totals();
        Report {
            blobs,
            bytes,
            capacity_bytes: volume.capacity(),
            volume: match volume.fenced() {
                Some(why) => why.to_owned(),
                None if volume.used() >= volume.high_water() => "full".into(),
                None if volume.is_out_of_files() => "full: no room for another file".into(),
                None => "ok".into(),
            },
            version: env!("CARGO_PKG_VERSION").into(),
            scrub: self.scrub_report(),
            ..Report::default()
        }
    }

    /// Blobs whose copy here was found damaged since the start, oldest first.
    #[must_use]
    pub fn quarantined(&self) -> Vec<Digest> {
        self.core.quarantine.digests()
    }

    /// Ends the store: takes no writes any more, finishes those that are with
    /// the appender, and writes a checkpoint. Blocks. Reads go on. Dropping a
    /// store that was not closed is like a crash: it is recovered at the next
    /// start.
    pub fn close(&self) {
        self.core.volume.close();
        if !self.stop(true) || self.core.volume.fenced().is_some() {
            return;
        }
        // The appender has sealed its segment: all that is there is covered.
        let position = Location {
            segment: self.core.segments.next(),
            offset: 0,
        };
        let closed = checkpoint::write(&self.core, position)
            .and_then(|id| checkpoint::mark_clean(&self.core, id));
        if let Err(error) = closed {
            tracing::warn!(%error, "closed without a checkpoint; the next start reads more");
        }
    }

    /// Ends the threads; whether they were running.
    fn stop(&self, drain: bool) -> bool {
        // The keeper first: it waits for the appender's answers.
        self.core.keeper.stop();
        self.core.scrub.stop(drain);
        let threads = std::mem::take(&mut *self.threads.lock().expect("no panic while locked"));
        let running = !threads.is_empty();
        let mut threads = threads.into_iter();
        if let Some(keeper) = threads.next() {
            join(keeper);
        }
        self.core.queue.stop(drain);
        threads.for_each(join);
        running
    }

    /// Bytes of a blob that is here, without using it.
    async fn stream(
        &self,
        digest: Digest,
        range: std::ops::Range<u64>,
    ) -> Result<BlobStream, Error> {
        if range.is_empty() && (digest.is_empty_blob() || self.core.index.contains(&digest)) {
            return Ok(Box::pin(stream::empty()));
        }
        let core = self.core.clone();
        if digest.size > SMALL_BLOB_BYTES {
            let open = blocking(move || OpenFile::open(core, &digest)).await??;
            return Ok(open.stream(range));
        }
        let bytes = blocking(move || read::read_small(&core, &digest)).await??;
        let bytes = bytes.slice(range.start as usize..range.end as usize);
        debug_assert!(bytes.len() <= CHUNK_BYTES);
        Ok(Box::pin(stream::once(async { Ok(bytes) })))
    }

    /// Whole blobs, without using them; one answer per digest, in order.
    async fn read_all(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let core = self.core.clone();
        let wanted = digests.to_vec();
        let read = blocking(move || {
            let mut answers = vec![Ok(Bytes::new()); wanted.len()];
            for index in read::in_disk_order(&core, &wanted) {
                let digest = &wanted[index];
                if !digest.is_empty_blob() && digest.size <= SMALL_BLOB_BYTES {
                    answers[index] = read::read_small(&core, digest);
                }
            }
            answers
        });
        let mut answers = match read.await {
            Ok(answers) => answers,
            Err(error) => return vec![Err(error); digests.len()],
        };
        for (digest, answer) in digests.iter().zip(&mut answers) {
            if digest.size > SMALL_BLOB_BYTES {
                *answer = match self.stream(*digest, 0..digest.size).await {
                    Ok(stream) => collect(stream).await,
                    Err(error) => Err(error),
                };
            }
        }
        answers
    }

    /// Begins an upload of a blob that is not here.
    async fn begin(&self, digest: Digest, coming: Coming) -> Result<Put, Error> {
        let core = self.core.clone();
        core.volume.check_writable()?;
        if digest.size <= SMALL_BLOB_BYTES {
            let upload = SmallUpload::new(core, digest, coming);
            return Ok(Put::Upload(Box::new(upload)));
        }
        let Some(len) = files::file_len(digest.size) else {
            return Err(Error::Invalid(format!(
                "blob {digest} is too large for a file"
            )));
        };
        let turn = core.uploads.clone().acquire_owned().await;
        let turn = turn.map_err(|_| appender::stopped())?;
        core.volume.refresh_room();
        let room = core.admit_adopted(len, coming).await?;
        let file = NewFile {
            digest,
            len,
            room,
            coming,
        };
        Ok(Put::Upload(Box::new(LargeUpload::begin(core, file, turn))))
    }

    /// For how long uploads and reads lease from now on; what was leased stays
    /// so. For so long after a crash, which forgets leases, all blobs are kept.
    /// [`Lease::SHORT`] before this is called.
    pub fn set_lease(&self, lease: Lease) {
        self.core.index.set_lease(lease);
    }

    /// Whether the blob is here; if so it counts as used, and leased.
    fn touch(&self, digest: &Digest) -> bool {
        let (now, index) = (self.core.clock.now(), &self.core.index);
        digest.is_empty_blob() || index.touch(digest, now, index.lease_end(now))
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        self.core.volume.close();
        self.stop(false);
    }
}

#[async_trait]
impl BlobStore for LocalStore {
    async fn find_missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<u32>, Error> {
        let now = self.core.clock.now();
        let end = lease_end(now, lease.seconds);
        let missing = (0..)
            .zip(digests)
            .filter(|(_, digest)| {
                !digest.is_empty_blob() && !self.core.index.touch(digest, now, end)
            })
            .map(|(index, _)| index)
            .collect();
        // A lease renewed after the last checkpoint would be forgotten.
        if self.core.volume.is_closed() {
            return Err(appender::stopped());
        }
        Ok(missing)
    }

    async fn get(&self, digest: Digest, range: ByteRange) -> Result<BlobStream, Error> {
        let range = range.within(digest)?;
        if !self.touch(&digest) {
            return Err(Error::NotFound(digest));
        }
        self.stream(digest, range).await
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        for digest in digests {
            self.touch(digest);
        }
        self.read_all(digests).await
    }

    async fn put(&self, digest: Digest) -> Result<Put, Error> {
        if self.touch(&digest) {
            return Ok(Put::Present);
        }
        self.begin(digest, Coming::Put).await
    }

    async fn put_batch(&self, blobs: Vec<Verified>) -> Vec<Result<(), Error>> {
        let sizes: Vec<u64> = blobs.iter().map(|blob| blob.digest().size).collect();
        let (small, large): (Vec<_>, Vec<_>) = blobs
            .into_iter()
            .partition(|blob| blob.digest().size <= SMALL_BLOB_BYTES);
        let appended = match small.is_empty() {
            true => Ok(()),
            false => self.core.append(small).await,
        };
        let mut stored = stream::iter(large)
            .then(async |blob| put_bytes(self, blob.into_bytes()).await.map(|_| ()))
            .collect::<Vec<_>>()
            .await
            .into_iter();
        sizes
            .into_iter()
            .map(|size| match size <= SMALL_BLOB_BYTES {
                true => appended.clone(),
                false => stored
                    .next()
                    .unwrap_or_else(|| Err(Error::Internal("a blob has no answer".into()))),
            })
            .collect()
    }
}

impl OpenError {
    fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(OpenError::io("cannot start a thread of the store"))
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread of the store panicked");
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Internal(format!("read: {error}")))
}
