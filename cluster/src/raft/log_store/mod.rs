//! Raft's log, vote and marks, in a [journal](crate::journal).
//!
//! Every change is a record, in the order openraft made the changes:
//!
//! ```text
//! kind  1  entry      an Entry
//!       2  truncated  Option<LogId>: entries after it are no more
//!    0x80  vote       a Vote          ┐ marks: the latest stands, and is
//!    0x81  purged     a LogId         │ repeated at the head of every segment
//!    0x82  committed  Option<LogId>   ┘
//! ```
//!
//! Values are encoded by [`wire`](super::wire). One file for all of them keeps
//! their order on disk without a sync between: a vote can never be there
//! without the entries appended before it.
//!
//! What holds:
//!
//! - `append` returns when the entries are readable, and its callback is told
//!   after the sync; `save_vote`, `truncate_after` and `purge` return after it.
//! - `save_committed` waits for nothing. The mark is written with the next
//!   record, or when the store is dropped; after a crash it may be an older one, which
//!   openraft allows. (A sync for it alone would double the syncs of a quiet cluster.)
//! - A purge removes whole segments, and only those whose every entry is purged.
//! - Entries are in memory up to [`LogConfig::cache_bytes`], those not yet
//!   written besides; older ones are read from their place in the files.

use crate::{
    outside,
    planted::{self, Bug},
};

mod index;
#[cfg(test)]
mod tests;

use std::{
    fmt::Debug,
    io,
    num::NonZeroU8,
    ops::RangeBounds,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::{
    RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use tokio::sync::oneshot;

use self::index::{Index, Source};
use super::{
    types::{Entry, LogId, TypeConfig, Vote},
    wire::{self, Wire},
};
use crate::journal::{Done, Journal, JournalConfig, JournalError, Position, Record, disk::Disk};

/// Entries handed to one follower at once. Several messages' worth, and little
/// beside the cache.
const READ_BYTES: usize = 4 << 20;

/// How Raft's log is kept.
#[derive(Clone, Debug)]
pub struct LogConfig {
    pub journal: JournalConfig,
    /// Most bytes of recent entries that are kept in memory as well, for
    /// followers that are nearly up to date. Fewer means more reads.
    pub cache_bytes: usize,
}

impl Default for LogConfig {
    /// The folder `log`, segments of 64 MiB, and 16 MiB in memory.
    fn default() -> Self {
        Self {
            journal: JournalConfig::new(PathBuf::from("log")),
            cache_bytes: 16 << 20,
        }
    }
}

/// The log of one node. Clones are the same log.
#[derive(Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

struct Inner {
    journal: Journal,
    /// A std mutex: held for short synchronous sections, also by the journal's writer.
    index: Mutex<Index>,
    /// Held from a change of the index until its records are queued, so that
    /// both have the same order.
    order: tokio::sync::Mutex<()>,
}

impl LogStore {
    /// Opens the log in a folder of `disk`, or begins one. Blocks.
    ///
    /// A torn tail, which nobody was told is safe, is cut off. Anything else
    /// that is not as written is [`JournalError::Damaged`].
    pub fn open(disk: Arc<dyn Disk>, config: LogConfig) -> Result<Self, JournalError> {
        let mut index = Index::new(config.cache_bytes);
        let dir = config.journal.dir.clone();
        let journal = Journal::open(disk, config.journal, &mut |position, kind, payload| {
            index.replay(position, kind, payload)
        })?;
        index.check().map_err(|(at, what)| JournalError::Damaged {
            file: at.file(&dir),
            offset: at.offset.into(),
            what,
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                journal,
                index: Mutex::new(index),
                order: tokio::sync::Mutex::new(()),
            }),
        })
    }

    /// Makes a change: `change` returns the record of what it did to the index.
    /// Returns when that is durable.
    async fn write(&self, change: impl FnOnce(&mut Index) -> Record) -> Result<(), JournalError> {
        let (told, result) = oneshot::channel();
        let order = self.inner.order.lock().await;
        let records = {
            let mut index = self.inner.index();
            let mut records: Vec<Record> = committed_record(&mut index).into_iter().collect();
            records.push(change(&mut index));
            records
        };
        // Whoever waits no longer does not mind.
        let done: Done = Box::new(move |written| drop(told.send(written)));
        self.inner.journal.append(records, done).await?;
        drop(order);
        durable(result).await
    }

    async fn read(
        &self,
        range: impl RangeBounds<u64> + Clone,
        most_bytes: usize,
    ) -> io::Result<Vec<Entry>> {
        loop {
            let (sources, purged) = {
                let index = self.inner.index();
                (index.sources(range.clone(), most_bytes), index.purged)
            };
            match self.fetch(sources).await {
                // Purged, and its file removed, since the index was asked.
                Err(_) if self.inner.index().purged != purged => {}
                fetched => return fetched,
            }
        }
    }

    async fn fetch(&self, sources: Vec<Source>) -> io::Result<Vec<Entry>> {
        let cached = |source: &Source| matches!(source, Source::Memory(_));
        if sources.iter().all(cached) {
            return self.inner.fetch(sources);
        }
        let inner = self.inner.clone();
        let fetched = outside::blocking(move || inner.fetch(sources)).await;
        fetched.map_err(io::Error::other)?
    }
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, Index> {
        // No section under it stops half way.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks if an entry is not in memory.
    fn fetch(&self, sources: Vec<Source>) -> io::Result<Vec<Entry>> {
        let fetch = |source| match source {
            Source::Memory(entry) => Ok(Entry::clone(&entry)),
            Source::File(position) => {
                let payload = self.journal.read(position)?;
                wire::decode(&payload).map_err(io::Error::other)
            }
        };
        sources.into_iter().map(fetch).collect()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let record = committed_record(&mut self.index());
        if let Some(record) = record {
            // The queue is empty or nearly so; if not, an older mark has to do.
            self.journal.append_now(vec![record]);
        }
    }
}

/// The mark that waits to be written, once.
fn committed_record(index: &mut Index) -> Option<Record> {
    let waits = std::mem::take(&mut index.committed_waits);
    waits.then(|| record(index::COMMITTED, &index.committed))
}

fn record<T: Wire>(kind: u8, value: &T) -> Record {
    Record {
        kind: NonZeroU8::new(kind).unwrap_or(NonZeroU8::MIN),
        payload: wire::encode(value),
    }
}

async fn durable(
    result: oneshot::Receiver<Result<Vec<Position>, JournalError>>,
) -> Result<(), JournalError> {
    let result = result.await.unwrap_or_else(|_| {
        Err(JournalError::Fenced {
            doing: "write",
            source: Arc::new(io::Error::other("the writer has ended")),
        })
    });
    result.map(drop)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(range, usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, READ_BYTES).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.inner.index().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let index = self.inner.index();
        Ok(LogState {
            last_purged_log_id: index.purged,
            last_log_id: index.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if !planted::is(Bug::VoteInMemory) {
            self.write(|_| record(index::VOTE, vote)).await?;
        }
        self.inner.index().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut index = self.inner.index();
        index.committed_waits |= index.committed != committed;
        index.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.inner.index().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut records = Vec::new();
        let mut encoded = Vec::new();
        for entry in entries {
            let record = record(index::ENTRY, &entry);
            encoded.push((entry, record.payload.len()));
            records.push(record);
        }
        let first = encoded.first().map(|(entry, _)| entry.log_id);
        let _order = self.inner.order.lock().await;
        let (append, marks) = {
            let mut index = self.inner.index();
            if let Some(why) = first.and_then(|first| index.refuses(first)) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            let mark = committed_record(&mut index);
            let marks = usize::from(mark.is_some());
            records.splice(0..0, mark);
            (index.append(encoded), marks)
        };
        let inner = Arc::downgrade(&self.inner);
        let done: Done = Box::new(move |written| {
            if let (Ok(positions), Some(first), Some(inner)) = (&written, first, inner.upgrade()) {
                let positions = &positions[marks..];
                inner.index().written(append, first.index, positions);
            }
            callback.io_completed(written.map(drop).map_err(io::Error::from));
        });
        self.inner.journal.append(records, done).await?;
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let change = |index: &mut Index| {
            index.truncate_after(last);
            record(index::TRUNCATED, &last)
        };
        Ok(self.write(change).await?)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let change = |index: &mut Index| {
            index.purge(upto);
            record(index::PURGED, &index.purged.unwrap_or(upto))
        };
        self.write(change).await?;
        let oldest = self.inner.index().oldest_segment();
        if let Some(segment) = oldest {
            // An error fences the journal, and is logged there.
            let done: Done = Box::new(drop);
            self.inner.journal.remove_before(segment, done)?;
        }
        Ok(())
    }
}
