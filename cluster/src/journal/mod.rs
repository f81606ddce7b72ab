//! Append-only files of checksummed records.
//!
//! [`disk`] is the thin layer under everything that writes files: the real
//! disk, or an in-memory one that can be cut off at any write ([`sim_disk`]).
//!
//! A [`Journal`] is a folder of segments, `<sequence>.segment`, each longer
//! than its records by a stretch of zeros, so that a sync rarely has to write
//! the file's length as well:
//!
//! ```text
//! segment  ┌────────┬────────┬────────┬─────┬───────────────┐
//!          │ header │ record │ record │ ... │ zeros         │
//!          └────────┴────────┴────────┴─────┴───────────────┘
//! header   magic (8) │ version (4) │ 0 (4) │ sequence (8)
//!          │ end of the segment before (8) │ crc32c (4) │ 0 (4)
//! record   payload length (4) │ crc32c (4) │ start of its batch (4)
//!          │ kind (1) │ 0 (3) │ payload │ zeros to a multiple of 8
//! ```
//!
//! Numbers are little-endian. A record's checksum covers the segment's sequence
//! and the record's place in it as well, so that no bytes inside a payload pass for a record.
//!
//! What holds:
//!
//! - A batch is what one write and one sync carry; the next batch is written
//!   only after the sync succeeded. So a bad place may be cut off as a torn
//!   tail unless a batch that begins behind it is there: then it had been
//!   synced, and is damage. Each record names the start of its batch for this.
//!   (The tempting rule, "a valid record behind a bad one means damage", takes
//!   a batch whose first sector was lost for damage, and stops a healthy node.)
//! - A segment is used only after it, its name and all before it are synced,
//!   and says where the one before ends: so only the last can have a torn tail.
//! - The first failed write or sync fences the journal for good. After a
//!   failed sync the kernel may have dropped the bytes and yet show them; so the
//!   last batch is written again when the journal is next opened.
//! - A *mark* (a kind of [`FIRST_MARK`] and up) stands until the next of its
//!   kind. The latest of each is repeated at the head of every segment, so that
//!   old segments can be removed whole.

pub mod disk;
mod record;
mod recover;
pub mod reserve;
mod segment;
pub mod sim_disk;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    thread,
};

use tokio::sync::{Semaphore, mpsc};

pub use record::{FIRST_MARK, Position, Record};

use disk::{Disk, DiskFile};
use writer::{Command, Writer};

/// Largest payload. The log's largest entry (one client message) is far below.
pub const MAX_PAYLOAD_BYTES: usize = 32 << 20;

/// Most that [`JournalConfig::segment_bytes`] may ask for; offsets in a segment
/// have 32 bits, and one is read whole when the journal is opened.
const MAX_SEGMENT_BYTES: u64 = 512 << 20;

/// What waits to be written at most. Twice the largest payload, so that one is
/// queued while another is written.
const QUEUE_BYTES: usize = 2 * MAX_PAYLOAD_BYTES;

/// What a queued record costs besides its payload.
const QUEUED_RECORD_BYTES: usize = 256;

/// How a journal is laid out.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// The folder; created if missing.
    pub dir: PathBuf,
    /// A segment that has reached this many bytes is followed by a new one, if
    /// the disk has room for another file.
    pub segment_bytes: u64,
}

impl JournalConfig {
    /// Segments of 64 MiB: removal is coarse enough to be rare, and scanning
    /// one when the journal is opened takes well under a second.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 64 << 20,
        }
    }
}

/// Why a journal cannot do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// A write or sync failed, now or earlier; nothing will be written again.
    #[error("the journal is out of use since an I/O error ({doing})")]
    Fenced {
        doing: &'static str,
        #[source]
        source: Arc<io::Error>,
    },
    /// What had been synced is not there, or is not what was written. The file
    /// is relative to the disk.
    #[error(
        "{} is damaged at offset {offset}: {what}. What this node had made durable, votes \
         among it, is lost, so it must not go on with this data",
        file.display()
    )]
    Damaged {
        file: PathBuf,
        offset: u64,
        what: String,
    },
    /// Another version of the program wrote the file.
    #[error("{} has format {found}; this version reads {known}", file.display())]
    UnknownVersion {
        file: PathBuf,
        found: u32,
        known: u32,
    },
    #[error("a record of {len} bytes is larger than {MAX_PAYLOAD_BYTES}")]
    TooLarge { len: usize },
    /// Reading, or opening, failed; the journal is as it was.
    #[error("cannot {doing} {}", file.display())]
    Io {
        doing: &'static str,
        file: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
}

impl From<JournalError> for io::Error {
    fn from(error: JournalError) -> Self {
        Self::other(error)
    }
}

/// Given each record: where it is, its kind and payload. What makes no sense
/// about it is an error.
pub type Replay<'a> = &'a mut dyn FnMut(Position, u8, &[u8]) -> Result<(), String>;

/// Told once that records are durable, and where they are; or that they may not be.
pub type Done = Box<dyn FnOnce(Result<Vec<Position>, JournalError>) + Send>;

/// Files of records, to append to and to read. Clones are the same journal.
///
/// When the last clone is dropped, what was appended is written, and then the
/// thread that writes has ended.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    // Both are taken in drop only.
    commands: Option<mpsc::UnboundedSender<Command>>,
    writer: Option<thread::JoinHandle<()>>,
}

/// What handles and the writer have in common.
struct Shared {
    disk: Arc<dyn Disk>,
    config: JournalConfig,
    segments: RwLock<BTreeMap<u64, Arc<dyn DiskFile>>>,
    /// Room in the queue, in bytes; what bounds the channel.
    room: Arc<Semaphore>,
    fenced: OnceLock<JournalError>,
}

impl Journal {
    /// Opens the journal, begins one if the folder has none, and hands every
    /// record in the order of appending to `replay`. An error of `replay`
    /// is taken for damage. Blocks.
    ///
    /// Everything replayed is durable when this returns.
    pub fn open(
        disk: Arc<dyn Disk>,
        mut config: JournalConfig,
        replay: Replay<'_>,
    ) -> Result<Self, JournalError> {
        config.segment_bytes = config.segment_bytes.min(MAX_SEGMENT_BYTES);
        let recovered = recover::recover(&*disk, &config, replay)?;
        let shared = Arc::new(Shared {
            disk,
            config,
            segments: RwLock::new(recovered.segments),
            room: Arc::new(Semaphore::new(QUEUE_BYTES)),
            fenced: OnceLock::new(),
        });
        let (commands, queue) = mpsc::unbounded_channel();
        let writer = Writer::new(shared.clone(), recovered.tail, recovered.marks);
        let writer = writer
            .start(queue)
            .map_err(|error| shared.io("start the writer of", &shared.config.dir, error))?;
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                commands: Some(commands),
                writer,
            }),
        })
    }

    /// Queues records, waiting while the queue is full. They are written in the
    /// order of the calls, and `done` is called in that order too, on the
    /// writer's thread; it must not block. After an error `done` was dropped uncalled.
    pub async fn append(&self, records: Vec<Record>, done: Done) -> Result<(), JournalError> {
        let too_large = records.iter().map(|record| record.payload.len()).max();
        if let Some(len) = too_large.filter(|len| *len > MAX_PAYLOAD_BYTES) {
            return Err(JournalError::TooLarge { len });
        }
        let shared = &self.inner.shared;
        let room = shared.room.clone().acquire_many_owned(cost(&records)).await;
        let room = room.expect("the queue's semaphore is never closed");
        self.send(Command::Append {
            records,
            done,
            _room: room,
        })
    }

    /// Queues records without waiting and without an answer; does nothing if
    /// there is no room or the journal is fenced.
    pub fn append_now(&self, records: Vec<Record>) {
        let room = self.inner.shared.room.clone();
        if let Ok(room) = room.try_acquire_many_owned(cost(&records)) {
            let done = Box::new(drop);
            // Whoever needs to know waits for an answer.
            let _ = self.send(Command::Append {
                records,
                done,
                _room: room,
            });
        }
    }

    /// Removes the segments before `segment`, oldest first, after everything
    /// queued is durable. The one being written stays in any case.
    pub fn remove_before(&self, segment: u64, done: Done) -> Result<(), JournalError> {
        self.send(Command::RemoveBefore { segment, done })
    }

    /// Reads a record back and checks it. Blocks.
    pub fn read(&self, position: Position) -> Result<Vec<u8>, JournalError> {
        let shared = &self.inner.shared;
        let path = segment::path(&shared.config.dir, position.segment);
        let file = {
            let segments = shared.segments.read();
            let segments = segments.unwrap_or_else(PoisonError::into_inner);
            segments.get(&position.segment).cloned()
        };
        let file =
            file.ok_or_else(|| shared.io("read removed", &path, io::ErrorKind::NotFound.into()))?;
        let bytes = disk::read_exact_at(&*file, position.stored_len(), position.offset.into())
            .map_err(|error| shared.io("read", &path, error))?;
        let payload = record::check(position.segment, position.offset, &bytes)
            .filter(|found| found.payload.len() == position.len as usize)
            .map(|found| found.payload.to_vec());
        payload.ok_or_else(|| JournalError::Damaged {
            file: path,
            offset: position.offset.into(),
            what: "the record does not match its checksum".into(),
        })
    }

    fn send(&self, command: Command) -> Result<(), JournalError> {
        if let Some(error) = self.inner.shared.fenced.get() {
            return Err(error.clone());
        }
        let sent = self
            .inner
            .commands
            .as_ref()
            .map(|queue| queue.send(command));
        match sent {
            Some(Ok(())) => Ok(()),
            // The writer ends only when the journal is dropped, or by a panic in a callback.
            Some(Err(_)) | None => Err(JournalError::Fenced {
                doing: "write",
                source: Arc::new(io::Error::other("the writer has ended")),
            }),
        }
    }
}

/// Bytes of room that records take in the queue. A group larger than the queue
/// waits until it is alone.
fn cost(records: &[Record]) -> u32 {
    let bytes = records
        .iter()
        .map(|record| record.payload.len() + QUEUED_RECORD_BYTES);
    bytes.sum::<usize>().min(QUEUE_BYTES) as u32
}

impl Shared {
    fn io(&self, doing: &'static str, file: &std::path::Path, error: io::Error) -> JournalError {
        JournalError::Io {
            doing,
            file: file.to_owned(),
            source: Arc::new(error),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(writer) = self.writer.take()
            // A callback may hold the last clone; the writer cannot wait for itself.
            && writer.thread().id() != thread::current().id()
        {
            // It panics only if a callback does, and that was reported there.
            let _ = writer.join();
        }
    }
}
