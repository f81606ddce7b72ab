//! Reading a journal back after a stop of any kind.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    JournalConfig, JournalError, Replay,
    disk::{Disk, DiskFile, read_exact_at},
    record,
    segment::{self, Header, HeaderFound},
    tail::{self, Marks, Tail},
};

/// Longest segment that is read. One is at most as long as configured plus a record.
const MAX_SEGMENT_BYTES: u64 = 1 << 30;

/// A journal that can be appended to.
pub(super) struct Recovered {
    pub(super) segments: BTreeMap<u64, Arc<dyn DiskFile>>,
    pub(super) marks: Marks,
    pub(super) tail: Tail,
}

/// Reads all segments, cuts a torn tail off, and makes everything that was
/// read durable. Changes nothing if there is damage.
pub(super) fn recover(
    disk: &dyn Disk,
    config: &JournalConfig,
    replay: Replay<'_>,
) -> Result<Recovered, JournalError> {
    let mut recovery = Recovery {
        disk,
        config,
        dir: &config.dir,
        replay,
        marks: Marks::new(),
        segments: BTreeMap::new(),
        last: None,
    };
    let sequences = recovery.find_segments()?;
    for (index, sequence) in sequences.iter().enumerate() {
        let follows = index.checked_sub(1).map(|before| sequences[before] + 1);
        if follows.is_some_and(|follows| follows != *sequence) {
            let what = "the segment before it is missing";
            return Err(recovery.damaged(*sequence, 0, what));
        }
        recovery.read_segment(*sequence, index + 1 == sequences.len())?;
    }
    recovery.finish()
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    config: &'a JournalConfig,
    dir: &'a Path,
    replay: Replay<'a>,
    marks: Marks,
    segments: BTreeMap<u64, Arc<dyn DiskFile>>,
    last: Option<Last>,
}

/// The newest segment so far.
struct Last {
    sequence: u64,
    /// All of the file.
    bytes: Vec<u8>,
    /// Where its records end.
    end: usize,
    /// Where its last batch begins.
    batch: usize,
}

impl Recovery<'_> {
    /// The segments in order; creates the folder if it is missing.
    fn find_segments(&self) -> Result<Vec<u64>, JournalError> {
        let entries = match self.disk.list(self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tail::create_dir(self.disk, self.dir)
                    .map_err(|error| self.io("create", self.dir.to_owned(), error))?;
                Vec::new()
            }
            listed => listed.map_err(|error| self.io("list", self.dir.to_owned(), error))?,
        };
        let mut sequences: Vec<u64> = entries
            .iter()
            .filter_map(|entry| segment::sequence(&entry.name))
            .collect();
        sequences.sort_unstable();
        Ok(sequences)
    }

    fn read_segment(&mut self, sequence: u64, is_last: bool) -> Result<(), JournalError> {
        let path = segment::path(self.dir, sequence);
        let file = self.disk.open(&path);
        let file = file.map_err(|error| self.io("open", path.clone(), error))?;
        let len = file.len();
        let len = len.map_err(|error| self.io("open", path.clone(), error))?;
        if len > MAX_SEGMENT_BYTES {
            return Err(self.damaged(sequence, MAX_SEGMENT_BYTES as usize, "it is too long"));
        }
        let bytes = read_exact_at(&*file, len as usize, 0);
        let bytes = bytes.map_err(|error| self.io("read", path.clone(), error))?;
        let header = match Header::decode(&bytes) {
            HeaderFound::Whole(header) => header,
            HeaderFound::UnknownVersion(found) => {
                return Err(JournalError::UnknownVersion {
                    file: path,
                    found,
                    known: segment::VERSION,
                });
            }
            // Its creation was cut short: nothing was ever appended to it. The one
            // before is removed only when this is whole.
            HeaderFound::Bad
                if is_last
                    && (sequence == 1 || self.last.is_some())
                    && !segment::is_damage(sequence, &bytes, 0) =>
            {
                return self.remove(path);
            }
            HeaderFound::Bad => {
                return Err(self.damaged(sequence, 0, "the segment's header is not whole"));
            }
        };
        self.check_place(&header, sequence)?;
        self.read_records(sequence, bytes, is_last)?;
        self.segments.insert(sequence, file);
        Ok(())
    }

    /// Whether the segment belongs under its name and follows on the one before.
    fn check_place(&self, header: &Header, sequence: u64) -> Result<(), JournalError> {
        if header.sequence != sequence {
            let what = format!("it says that it is segment {:016x}", header.sequence);
            return Err(self.damaged(sequence, 0, what));
        }
        match &self.last {
            Some(last) if header.previous_end != last.end as u64 => {
                let what = "records up to the end of this segment are missing";
                Err(self.damaged(last.sequence, last.end, what))
            }
            _ => Ok(()),
        }
    }

    fn read_records(
        &mut self,
        sequence: u64,
        bytes: Vec<u8>,
        is_last: bool,
    ) -> Result<(), JournalError> {
        let mut end = segment::HEADER_BYTES;
        let mut batch = 0;
        for (position, found) in segment::records(sequence, &bytes) {
            (self.replay)(position, found.kind, found.payload)
                .map_err(|what| self.damaged(sequence, position.offset as usize, what))?;
            if record::is_mark(found.kind) {
                self.marks.insert(found.kind, found.payload.to_vec());
            }
            end = position.end() as usize;
            batch = found.batch as usize;
        }
        if is_last && segment::is_damage(sequence, &bytes, end) {
            let what = "the record is not whole, and records written after it are";
            return Err(self.damaged(sequence, end, what));
        }
        // Whatever a crash tore was made zeros before a next segment was begun.
        if !is_last && bytes[end..].iter().any(|byte| *byte != 0) {
            let what = "the record is not whole, and a later segment was begun";
            return Err(self.damaged(sequence, end, what));
        }
        self.last = Some(Last {
            sequence,
            bytes,
            end,
            batch,
        });
        Ok(())
    }

    /// Makes what was read durable, and the rest of the last segment zeros.
    fn finish(self) -> Result<Recovered, JournalError> {
        let io = |doing, file, error| self.io(doing, file, error);
        let Some(last) = &self.last else {
            let path = segment::path(self.dir, 1);
            let created = self.disk.create(&path).and_then(|file| {
                let (config, marks) = (self.config, &self.marks);
                let tail = tail::begin_segment(self.disk, &*file, config, 1, 0, marks)?;
                Ok((file, tail))
            });
            let (file, tail) = created.map_err(|error| io("create", path, error))?;
            return Ok(Recovered {
                segments: BTreeMap::from([(1, file)]),
                marks: self.marks,
                tail,
            });
        };
        let path = segment::path(self.dir, last.sequence);
        let file = self.segments[&last.sequence].clone();
        let tail = self.restore_tail(last, &*file);
        let tail = tail.map_err(|error| io("restore the tail of", path, error))?;
        Ok(Recovered {
            segments: self.segments,
            marks: self.marks,
            tail,
        })
    }

    fn restore_tail(&self, last: &Last, file: &dyn DiskFile) -> io::Result<Tail> {
        // The last batch again (0 is the segment's head): its sync may have
        // failed, and then only memory has it.
        file.write_at(&last.bytes[last.batch..last.end], last.batch as u64)?;
        // What is left of a torn batch must not come back behind new records.
        let rest = &last.bytes[last.end..];
        if let Some(used) = rest.iter().rposition(|byte| *byte != 0) {
            tail::write_zeros(file, last.end as u64, used as u64 + 1)?;
        }
        let mut tail = Tail {
            sequence: last.sequence,
            end: last.end as u64,
            zeroed: last.bytes.len() as u64,
            head_end: 0,
            segment_bytes: self.config.segment_bytes,
        };
        // The head of the segment may be what was torn, and marks with it. They
        // join the last batch, since one sync covers both.
        let marks = tail::encode_marks(tail.sequence, tail.end, last.batch as u64, &self.marks);
        if !marks.is_empty() {
            tail.write(file, &[io::IoSlice::new(&marks)], marks.len() as u64)?;
            tail.end += marks.len() as u64;
        }
        file.sync()?;
        self.disk.sync_dir(self.dir)?;
        Ok(tail)
    }

    fn remove(&self, path: PathBuf) -> Result<(), JournalError> {
        // Durable at once: if the file came back, the segment before it would
        // pass for one that was finished.
        let removed = self.disk.remove(&path);
        let removed = removed.and_then(|()| self.disk.sync_dir(self.dir));
        removed.map_err(|error| self.io("remove", path, error))
    }

    fn damaged(&self, sequence: u64, offset: usize, what: impl Into<String>) -> JournalError {
        JournalError::Damaged {
            file: segment::path(self.dir, sequence),
            offset: offset as u64,
            what: what.into(),
        }
    }

    fn io(&self, doing: &'static str, file: PathBuf, error: io::Error) -> JournalError {
        JournalError::Io {
            doing,
            file,
            source: Arc::new(error),
        }
    }
}
