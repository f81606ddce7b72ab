//! The thread that writes: batches, syncs, new segments, removal.

use std::{
    io::{self, IoSlice},
    sync::{Arc, PoisonError},
    thread,
};

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    Done, JournalError, MAX_SEGMENT_BYTES, Position, Record, Shared,
    disk::{DiskFile, is_full},
    record::{self, ALIGNMENT},
    segment,
    tail::{Marks, Tail, ZEROS, begin_segment},
};
#[cfg(all(test, tokio_unstable))]
use crate::outside;
use crate::planted::{self, Bug};

/// A batch is written when it has this many bytes, so that the first to wait
/// is not held up for long.
const BATCH_BYTES: usize = 4 << 20;

/// So much more goes into a segment that cannot be followed by another, before
/// that is tried again.
const OVERLONG_BYTES: u64 = 4 << 20;

/// Commands taken from the queue at once.
const COMMANDS_AT_ONCE: usize = 1024;

pub(super) enum Command {
    Append {
        records: Vec<Record>,
        done: Done,
        _room: OwnedSemaphorePermit,
    },
    RemoveBefore {
        segment: u64,
        done: Done,
    },
}

/// A batch being put together.
#[derive(Default)]
struct Batch {
    records: Vec<([u8; record::HEADER_BYTES], Vec<u8>)>,
    bytes: usize,
    /// Appends that are complete once this batch is synced, in order.
    finished: Vec<(Done, Vec<Position>, OwnedSemaphorePermit)>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    tail: Tail,
    marks: Marks,
    batch: Batch,
    /// The segment goes on until it has so many bytes.
    roll_at: u64,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, tail: Tail, marks: Marks) -> Self {
        Self {
            roll_at: shared.config.segment_bytes,
            shared,
            tail,
            marks,
            batch: Batch::default(),
        }
    }

    /// Begins to work, until the journal is dropped; on a thread of its own,
    /// but for a simulation.
    pub(super) fn start(
        self,
        queue: mpsc::UnboundedReceiver<Command>,
    ) -> io::Result<Option<thread::JoinHandle<()>>> {
        #[cfg(all(test, tokio_unstable))]
        if outside::simulated::is_on() {
            tokio::spawn(self.run_simulated(queue));
            return Ok(None);
        }
        let builder = thread::Builder::new().name("journal".into());
        builder.spawn(move || self.run(queue)).map(Some)
    }

    /// The same as [`Self::run`] on simulated time: writing and syncing a batch
    /// takes some milliseconds, and now and then much longer.
    #[cfg(all(test, tokio_unstable))]
    async fn run_simulated(mut self, mut queue: mpsc::UnboundedReceiver<Command>) {
        use rand::Rng;
        let mut commands = Vec::new();
        while queue.recv_many(&mut commands, COMMANDS_AT_ONCE).await > 0 {
            for command in commands.drain(..) {
                self.perform(command);
            }
            let millis = match outside::rng().random_ratio(1, 200) {
                true => outside::rng().random_range(50..500),
                false => outside::rng().random_range(0..5),
            };
            tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
            self.flush();
        }
    }

    fn run(mut self, mut queue: mpsc::UnboundedReceiver<Command>) {
        let mut commands = Vec::new();
        while queue.blocking_recv_many(&mut commands, COMMANDS_AT_ONCE) > 0 {
            for command in commands.drain(..) {
                self.perform(command);
            }
            self.flush();
        }
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::Append {
                records,
                done,
                _room: room,
            } => {
                let positions = records
                    .into_iter()
                    .map(|record| self.push(record))
                    .collect();
                if planted::is(Bug::EntryToldBeforeSync) {
                    return done(Ok(positions));
                }
                self.batch.finished.push((done, positions, room));
            }
            Command::RemoveBefore { segment, done } => {
                self.flush();
                let removed =
                    self.guarded("remove a segment", |writer| writer.remove_before(segment));
                done(removed.map(|()| Vec::new()));
            }
        }
    }

    /// Puts a record in the batch; its position holds only if the journal is not fenced.
    fn push(&mut self, record: Record) -> Position {
        let stored = record::stored_len(record.payload.len());
        let end = self.tail.end + (self.batch.bytes + stored) as u64;
        let is_full = end > self.roll_at;
        if is_full || self.batch.bytes + stored > BATCH_BYTES {
            self.flush();
        }
        // Even a record larger than a segment fits a fresh one.
        if is_full && !self.tail.is_fresh() {
            // On an error the journal is fenced; the record is then not written.
            let _ = self.guarded("begin a segment", Self::begin_segment);
        }
        let batch = self.tail.end as u32;
        let offset = batch + self.batch.bytes as u32;
        let position = Position {
            segment: self.tail.sequence,
            offset,
            len: record.payload.len() as u32,
        };
        let header = record::header(self.tail.sequence, offset, batch, &record);
        if record::is_mark(record.kind.get()) {
            self.marks.insert(record.kind.get(), record.payload.clone());
        }
        self.batch.bytes += stored;
        self.batch.records.push((header, record.payload));
        position
    }

    /// Writes and syncs the batch, and tells those who wait for it.
    fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let mut written = Ok(());
        if !batch.records.is_empty() {
            written = self.guarded("write", |writer| writer.write(&batch));
        } else if let Some(error) = self.shared.fenced.get() {
            written = Err(error.clone());
        }
        for (done, positions, room) in batch.finished {
            drop(room);
            done(written.clone().map(|()| positions));
        }
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let file = self.current()?;
        let mut parts = Vec::with_capacity(batch.records.len() * 3);
        for (header, payload) in &batch.records {
            let padding = payload.len().next_multiple_of(ALIGNMENT) - payload.len();
            parts.push(IoSlice::new(header));
            parts.push(IoSlice::new(payload));
            if padding > 0 {
                parts.push(IoSlice::new(&ZEROS[..padding]));
            }
        }
        self.tail.write(&*file, &parts, batch.bytes as u64)?;
        if !planted::is(Bug::LogSyncSkipped) {
            let again = |error| match planted::is(Bug::LogSyncRetried) {
                true => file.sync(),
                false => Err(error),
            };
            file.sync().or_else(again)?;
        }
        self.tail.end += batch.bytes as u64;
        Ok(())
    }

    /// Begins a segment. Where the disk has no room for another file, the one
    /// that there is goes on as long as it may.
    fn begin_segment(&mut self) -> io::Result<()> {
        let sequence = self.tail.sequence + 1;
        let shared = &self.shared;
        let file = match shared
            .disk
            .create(&segment::path(&shared.config.dir, sequence))
        {
            // Only as nothing has come of it: a file with half a head would be in
            // the way of the next attempt, and of recovery.
            Err(error) if is_full(&error) && self.tail.end + OVERLONG_BYTES < MAX_SEGMENT_BYTES => {
                tracing::warn!(%error, sequence, "no room for another segment; the last one goes on");
                self.roll_at = self.tail.end + OVERLONG_BYTES;
                return Ok(());
            }
            created => created?,
        };
        let config = &shared.config;
        let tail = begin_segment(
            &*shared.disk,
            &*file,
            config,
            sequence,
            self.tail.end,
            &self.marks,
        )?;
        self.roll_at = config.segment_bytes;
        let mut segments = shared
            .segments
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        segments.insert(sequence, file);
        drop(segments);
        self.tail = tail;
        Ok(())
    }

    /// One by one and oldest first, so that a crash leaves no gap.
    fn remove_before(&mut self, segment: u64) -> io::Result<()> {
        let shared = &self.shared;
        let segment = segment.min(self.tail.sequence);
        let old: Vec<u64> = {
            let segments = shared.segments.read();
            let segments = segments.unwrap_or_else(PoisonError::into_inner);
            segments
                .range(..segment)
                .map(|(sequence, _)| *sequence)
                .collect()
        };
        for sequence in old {
            let dir = &shared.config.dir;
            shared.disk.remove(&segment::path(dir, sequence))?;
            shared.disk.sync_dir(dir)?;
            let mut segments = shared
                .segments
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            segments.remove(&sequence);
        }
        Ok(())
    }

    fn current(&self) -> io::Result<Arc<dyn DiskFile>> {
        let segments = self.shared.segments.read();
        let segments = segments.unwrap_or_else(PoisonError::into_inner);
        let file = segments.get(&self.tail.sequence).cloned();
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Does nothing on a fenced journal, and fences it on the first error.
    fn guarded(
        &mut self,
        doing: &'static str,
        act: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> Result<(), JournalError> {
        if let Some(error) = self.shared.fenced.get() {
            return Err(error.clone());
        }
        act(self).map_err(|error| {
            tracing::error!(%error, doing, "journal is out of use after an i/o error");
            let error = JournalError::Fenced {
                doing,
                source: Arc::new(error),
            };
            self.shared.fenced.get_or_init(|| error).clone()
        })
    }
}
