//! What is in the log, and where: pure, in memory.

use std::{
    collections::VecDeque,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use crate::{
    journal::{FIRST_MARK, Position},
    raft::{
        types::{Entry, LogId, Vote},
        wire,
    },
};

pub(super) const ENTRY: u8 = 1;
pub(super) const TRUNCATED: u8 = 2;
pub(super) const VOTE: u8 = FIRST_MARK;
pub(super) const PURGED: u8 = FIRST_MARK + 1;
pub(super) const COMMITTED: u8 = FIRST_MARK + 2;

/// The log as it is once everything queued is written.
#[derive(Default)]
pub(super) struct Index {
    slots: VecDeque<Slot>,
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    /// `committed` is not queued yet; it goes with the next record.
    pub(super) committed_waits: bool,
    cached_bytes: usize,
    /// Most bytes of entries in memory, but for those not written yet.
    cache_bytes: usize,
    /// How many slots from the front are not cached.
    cold: usize,
    appends: u64,
}

struct Slot {
    log_id: LogId,
    /// The encoded entry's length.
    bytes: usize,
    cached: Option<Arc<Entry>>,
    /// Known once it is written.
    position: Option<Position>,
    /// Which append it came with: an index may be appended again after a
    /// truncation, before the first is written.
    append: u64,
}

/// Where to get an entry.
pub(super) enum Source {
    Memory(Arc<Entry>),
    File(Position),
}

impl Index {
    pub(super) fn new(cache_bytes: usize) -> Self {
        Self {
            cache_bytes,
            ..Self::default()
        }
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.log_id).or(self.purged)
    }

    /// Why an entry may not come next, if so.
    pub(super) fn refuses(&self, log_id: LogId) -> Option<String> {
        let next = match self.slots.back() {
            Some(slot) => slot.log_id.index + 1,
            None => self.purged.map_or(log_id.index, |purged| purged.index + 1),
        };
        (log_id.index != next).then(|| format!("entry {} where {next} is next", log_id.index))
    }

    /// Adds entries with their encoded lengths; returns what names them in [`Index::written`].
    pub(super) fn append(&mut self, entries: Vec<(Entry, usize)>) -> u64 {
        self.appends += 1;
        for (entry, bytes) in entries {
            self.push(entry, bytes, None);
        }
        self.appends
    }

    fn push(&mut self, entry: Entry, bytes: usize, position: Option<Position>) {
        self.cached_bytes += bytes;
        self.slots.push_back(Slot {
            log_id: entry.log_id,
            bytes,
            cached: Some(Arc::new(entry)),
            position,
            append: self.appends,
        });
        self.cool();
    }

    /// Notes where entries of an append, from index `first` on, were written.
    pub(super) fn written(&mut self, append: u64, first: u64, positions: &[Position]) {
        for (index, position) in (first..).zip(positions) {
            let slot = self.offset(index).and_then(|at| self.slots.get_mut(at));
            if let Some(slot) = slot.filter(|slot| slot.append == append) {
                slot.position = Some(*position);
            }
        }
        self.cool();
    }

    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        let kept = match last {
            Some(last) => self.offset(last.index.saturating_add(1)).unwrap_or(0),
            None => 0,
        };
        for slot in self.slots.split_off(kept.min(self.slots.len())) {
            self.forget(&slot);
        }
        self.cold = self.cold.min(self.slots.len());
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        let gone = self.offset(upto.index.saturating_add(1)).unwrap_or(0);
        let kept = self.slots.split_off(gone.min(self.slots.len()));
        for slot in std::mem::replace(&mut self.slots, kept) {
            self.forget(&slot);
        }
        self.cold = self.cold.saturating_sub(gone);
        self.purged = self.purged.max(Some(upto));
    }

    /// The oldest segment that holds an entry; `None` if it is not known yet.
    pub(super) fn oldest_segment(&self) -> Option<u64> {
        match self.slots.front() {
            // Entries with a higher index were appended later.
            Some(slot) => slot.position.map(|position| position.segment),
            None => Some(u64::MAX),
        }
    }

    /// Where the entries of a range are, the first so many bytes of them but
    /// at least one.
    pub(super) fn sources(&self, range: impl RangeBounds<u64>, most_bytes: usize) -> Vec<Source> {
        let front = self.slots.front().map_or(0, |slot| slot.log_id.index);
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let skipped = start.saturating_sub(front) as usize;
        let mut bytes = 0;
        self.slots
            .iter()
            .skip(skipped)
            .take_while(|slot| range.contains(&slot.log_id.index))
            .take_while(|slot| {
                let is_first = bytes == 0;
                bytes += slot.bytes;
                is_first || bytes <= most_bytes
            })
            .filter_map(|slot| match (&slot.cached, slot.position) {
                (Some(entry), _) => Some(Source::Memory(entry.clone())),
                (None, position) => position.map(Source::File),
            })
            .collect()
    }

    /// Takes in a record of the journal when it is opened.
    pub(super) fn replay(
        &mut self,
        position: Position,
        kind: u8,
        payload: &[u8],
    ) -> Result<(), String> {
        match kind {
            ENTRY => {
                let entry: Entry = decode(payload)?;
                // Segments with entries before it may have been removed; a purge that comes
                // later in the journal then covers them, and `check` insists on it.
                let starts = self.slots.is_empty()
                    && self
                        .purged
                        .is_none_or(|purged| purged.index < entry.log_id.index);
                if let Some(why) = self.refuses(entry.log_id).filter(|_| !starts) {
                    return Err(why);
                }
                self.push(entry, payload.len(), Some(position));
            }
            TRUNCATED => self.truncate_after(decode(payload)?),
            VOTE => self.vote = Some(decode(payload)?),
            PURGED => self.purge(decode(payload)?),
            COMMITTED => self.committed = decode(payload)?,
            kind => return Err(format!("records of kind {kind} are unknown")),
        }
        Ok(())
    }

    /// What is wrong after all records were replayed.
    pub(super) fn check(&self) -> Result<(), (Position, String)> {
        let (Some(front), Some(purged)) = (self.slots.front(), self.purged) else {
            return Ok(());
        };
        match front.position {
            Some(at) if front.log_id.index != purged.index + 1 => Err((
                at,
                format!("entries {} to here are missing", purged.index + 1),
            )),
            _ => Ok(()),
        }
    }

    fn offset(&self, index: u64) -> Option<usize> {
        let front = self.slots.front()?.log_id.index;
        index.checked_sub(front).map(|offset| offset as usize)
    }

    fn forget(&mut self, slot: &Slot) {
        if slot.cached.is_some() {
            self.cached_bytes -= slot.bytes;
        }
    }

    /// Drops the oldest entries from memory while there are too many bytes.
    fn cool(&mut self) {
        while self.cached_bytes > self.cache_bytes
            && let Some(slot) = self.slots.get_mut(self.cold)
            && slot.position.is_some()
        {
            slot.cached = None;
            self.cached_bytes -= slot.bytes;
            self.cold += 1;
        }
    }
}

fn decode<T: wire::Wire>(payload: &[u8]) -> Result<T, String> {
    wire::decode(payload).map_err(|error| error.to_string())
}
