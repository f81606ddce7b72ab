//! Uploads under way.
//!
//! A small one gathers in memory and joins a group commit. A large one streams
//! into a temporary file on a thread of its own, which hashes as it writes.
//! When its client goes away the channel closes, and the thread removes the
//! file.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinHandle,
};
use weir_cluster::{
    Digest, Error,
    blob::{CHUNK_BYTES, Stage, Upload, Verified},
    journal::disk::DiskFile,
};

use super::{Durability, core::Core, files, uses::Coming, volume::Room};
use crate::planted::{self, Bug};

/// Chunks that wait for the disk per upload: enough to keep it busy.
const CHUNKS_WAITING: usize = 4;

/// Large uploads at once. Each has a thread of Tokio's pool of 512 for
/// blocking work, of which reads need some as well; more uploads wait.
pub(super) const UPLOADS_AT_ONCE: usize = 256;

/// An upload of a blob that will live in a segment.
pub(super) struct SmallUpload {
    core: Arc<Core>,
    stage: Stage,
    digest: Digest,
    coming: Coming,
    bytes: BytesMut,
}

/// The file that a large upload becomes.
pub(super) struct NewFile {
    pub(super) digest: Digest,
    pub(super) len: u64,
    /// For so many bytes.
    pub(super) room: Room,
    pub(super) coming: Coming,
}

/// An upload of a blob that will be a file.
pub(super) struct LargeUpload {
    digest: Digest,
    steps: mpsc::Sender<Step>,
    thread: JoinHandle<Result<(), Error>>,
}

enum Step {
    Write(Bytes),
    Commit,
}

impl SmallUpload {
    pub(super) fn new(core: Arc<Core>, digest: Digest, coming: Coming) -> Self {
        Self {
            core,
            stage: Stage::new(digest),
            digest,
            coming,
            bytes: BytesMut::new(),
        }
    }
}

#[async_trait]
impl Upload for SmallUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error> {
        // Refuses bytes beyond the size, so no more than that is gathered.
        self.stage.update(&chunk)?;
        self.bytes.extend_from_slice(&chunk);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<(), Error> {
        self.stage.finish()?;
        let blob = Verified::check(self.digest, self.bytes.freeze())?;
        match self.coming {
            Coming::Put => self.core.append(vec![blob]).await,
            coming => self.core.adopt(blob, coming).await,
        }
    }
}

impl LargeUpload {
    pub(super) fn begin(core: Arc<Core>, file: NewFile, turn: OwnedSemaphorePermit) -> Self {
        let digest = file.digest;
        let (steps, received) = mpsc::channel(CHUNKS_WAITING);
        let thread = tokio::task::spawn_blocking(move || {
            let outcome = receive(&core, file, received);
            drop(turn);
            outcome
        });
        Self {
            digest,
            steps,
            thread,
        }
    }

    async fn outcome(&mut self) -> Result<(), Error> {
        let joined = (&mut self.thread).await;
        joined.map_err(|error| Error::Internal(format!("upload of {}: {error}", self.digest)))?
    }
}

#[async_trait]
impl Upload for LargeUpload {
    async fn write(&mut self, mut chunk: Bytes) -> Result<(), Error> {
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(CHUNK_BYTES));
            if self.steps.send(Step::Write(piece)).await.is_err() {
                self.outcome().await?;
                return Err(Error::Internal("write after the end of an upload".into()));
            }
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<(), Error> {
        // If the thread has ended already, its outcome says why.
        let _ = self.steps.send(Step::Commit).await;
        self.outcome().await
    }
}

/// The thread of one upload.
fn receive(core: &Core, new: NewFile, mut steps: mpsc::Receiver<Step>) -> Result<(), Error> {
    let volume = &core.volume;
    volume.check_root()?;
    let temporary = core.names.temporary();
    let file = volume
        .disk
        .create(&temporary)
        .map_err(|error| volume.failed("cannot create a file", &error))?;
    let outcome = file
        .allocate(new.len)
        .map_err(|error| volume.failed("cannot reserve room for a file", &error))
        .and_then(|()| write(core, new.digest, &*file, &mut steps))
        .and_then(|complete| match complete {
            true => publish(core, new, &temporary),
            false => Ok(false),
        });
    drop(file);
    if !matches!(outcome, Ok(true)) && !planted::is(Bug::UploadLeftBehind) {
        // Best effort: what stays in this folder is swept at the next start.
        if let Err(error) = volume.disk.remove(&temporary) {
            tracing::warn!(%error, "cannot remove an unfinished upload");
        }
    }
    outcome.map(|_| ())
}

/// Writes what comes, durably; whether the upload was committed.
fn write(
    core: &Core,
    digest: Digest,
    file: &dyn DiskFile,
    steps: &mut mpsc::Receiver<Step>,
) -> Result<bool, Error> {
    let volume = &core.volume;
    let failed = |error| volume.failed("cannot write a file", &error);
    let mut stage = Stage::new(digest);
    let mut checksums = Checksums::default();
    loop {
        match steps.blocking_recv() {
            None => return Ok(false),
            Some(Step::Write(bytes)) => {
                let at = stage.received();
                stage.update(&bytes)?;
                checksums.update(&bytes);
                volume.check_writable()?;
                file.write_at(&bytes, at).map_err(failed)?;
            }
            Some(Step::Commit) => break,
        }
    }
    stage.finish()?;
    volume.check_writable()?;
    let trailer = files::trailer(&digest, core.clock.now(), &checksums.finish());
    file.write_at(&trailer, digest.size).map_err(failed)?;
    if core.config.durability == Durability::Fsync && !planted::is(Bug::FileSyncSkipped) {
        file.sync()
            .map_err(|error| volume.fence("cannot sync a file", &error))?;
    }
    Ok(true)
}

/// Makes the blob visible; whether its file was needed.
fn publish(core: &Core, new: NewFile, from: &Path) -> Result<bool, Error> {
    let NewFile {
        digest,
        mut room,
        coming,
        ..
    } = new;
    let volume = &core.volume;
    let mut name = core.names.lock(&digest);
    volume.check_writable()?;
    let now = core.clock.now();
    if core.index.renew(&digest, coming, now) {
        return Ok(false);
    }
    files::publish(&*volume.disk, from, &digest, &mut name)
        .map_err(|error| volume.failed("cannot name a file", &error))?;
    core.index
        .put_large(digest, coming.uses(now, core.index.lease_end(now)));
    room.keep(u64::MAX);
    core.keeper.file_added();
    Ok(true)
}

/// Checksums of the chunks of a stream that comes in pieces of any length.
#[derive(Default)]
struct Checksums {
    done: Vec<u32>,
    current: u32,
    filled: u64,
}

impl Checksums {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = usize::try_from(files::CHUNK - self.filled).unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at(bytes.len().min(space));
            self.current = crc32c::crc32c_append(self.current, piece);
            self.filled += piece.len() as u64;
            if self.filled == files::CHUNK {
                self.done.push(self.current);
                (self.current, self.filled) = (0, 0);
            }
            bytes = rest;
        }
    }

    fn finish(mut self) -> Vec<u32> {
        if self.filled > 0 {
            self.done.push(self.current);
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_do_not_depend_on_the_pieces() {
        let bytes = weir_cluster::blob::conformance::sample(1, 600_000);
        let expected: Vec<_> = bytes
            .chunks(files::CHUNK as usize)
            .map(crc32c::crc32c)
            .collect();
        for piece in [1000, 262_144, 300_000, 600_000] {
            let mut checksums = Checksums::default();
            bytes
                .chunks(piece)
                .for_each(|piece| checksums.update(piece));
            assert_eq!(checksums.finish(), expected, "pieces of {piece}");
        }
    }
}
