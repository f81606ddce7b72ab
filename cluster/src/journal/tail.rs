//! The end of the newest segment, and how a segment begins.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    num::NonZeroU8,
    path::Path,
};

use super::{
    JournalConfig, Record,
    disk::{Disk, DiskFile},
    record,
    segment::Header,
};

/// How far ahead of the records a segment is filled with zeros. Every so many
/// bytes a sync writes the file's length as well; more would make that sync slow.
const ZEROS_AHEAD_BYTES: u64 = 4 << 20;

pub(super) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The latest mark of each kind.
pub(super) type Marks = BTreeMap<u8, Vec<u8>>;

/// Where the newest segment is written.
pub(super) struct Tail {
    pub(super) sequence: u64,
    /// Where the next record goes.
    pub(super) end: u64,
    /// Up to where the file is zeros behind `end`.
    pub(super) zeroed: u64,
    /// Where what was written when the segment began ends.
    pub(super) head_end: u64,
    pub(super) segment_bytes: u64,
}

impl Tail {
    /// Whether nothing was appended to the segment since it began.
    pub(super) fn is_fresh(&self) -> bool {
        self.end == self.head_end
    }

    /// Writes at the end without moving it, and zeros ahead when they run out.
    pub(super) fn write(
        &mut self,
        file: &dyn DiskFile,
        parts: &[IoSlice<'_>],
        len: u64,
    ) -> io::Result<()> {
        file.write_parts_at(parts, self.end)?;
        let end = self.end + len;
        if end > self.zeroed {
            let ahead = self.segment_bytes.saturating_sub(end);
            let ahead = ahead.min(ZEROS_AHEAD_BYTES);
            write_zeros(file, end, ahead)?;
            self.zeroed = end + ahead;
        }
        Ok(())
    }
}

/// Begins a segment in a new file: when this returns it is durable, with the
/// marks at its head.
pub(super) fn begin_segment(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    config: &JournalConfig,
    sequence: u64,
    previous_end: u64,
    marks: &Marks,
) -> io::Result<Tail> {
    let header = Header {
        sequence,
        previous_end,
    };
    let mut head = header.encode().to_vec();
    // The head is a batch that begins at 0.
    head.extend(encode_marks(sequence, head.len() as u64, 0, marks));
    let mut tail = Tail {
        sequence,
        end: 0,
        zeroed: 0,
        head_end: head.len() as u64,
        segment_bytes: config.segment_bytes,
    };
    tail.write(file, &[IoSlice::new(&head)], head.len() as u64)?;
    tail.end = tail.head_end;
    file.sync()?;
    disk.sync_dir(&config.dir)?;
    Ok(tail)
}

/// The marks as records that begin at `offset`, in a batch that began at `batch`.
pub(super) fn encode_marks(sequence: u64, offset: u64, batch: u64, marks: &Marks) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, payload) in marks {
        // Every mark was a record, so its kind is not 0.
        let Some(kind) = NonZeroU8::new(*kind) else {
            continue;
        };
        let at = offset + out.len() as u64;
        let record = Record {
            kind,
            payload: payload.clone(),
        };
        let header = record::header(sequence, at as u32, batch as u32, &record);
        let end = out.len() + record::stored_len(payload.len());
        out.extend(header);
        out.extend(payload);
        out.resize(end, 0);
    }
    out
}

/// Creates a folder that is durable, with those above it.
pub(super) fn create_dir(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.create_dir(dir)?;
    for above in dir.ancestors().skip(1) {
        disk.sync_dir(above)?;
    }
    Ok(())
}

pub(super) fn write_zeros(file: &dyn DiskFile, from: u64, len: u64) -> io::Result<()> {
    let mut parts = Vec::new();
    let mut left = len as usize;
    while left > 0 {
        let part = left.min(ZEROS.len());
        parts.push(IoSlice::new(&ZEROS[..part]));
        left -= part;
    }
    if parts.is_empty() {
        return Ok(());
    }
    file.write_parts_at(&parts, from)
}
