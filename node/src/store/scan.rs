//! Finding the records of a segment without help from an index.
//!
//! A damaged record costs itself only: the scan goes on at the next intact
//! header. The bytes of a blob may look like a record, so after a loss of step
//! a record counts only if its bytes hash to its digest.

use std::io;

use weir_cluster::{Digest, journal::disk::DiskFile};

use super::record::{ALIGN, HEADER_MAX, Header, MAGIC, header_len, record_len, u32_at};

/// Bytes read at a time; more than the longest record.
const WINDOW: usize = 2 << 20;

/// What the disk cannot read is skipped in steps of its smallest block.
const UNREADABLE_STEP: u64 = 4 << 10;

/// What is found, in order of offset.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Record {
        offset: u64,
        digest: Digest,
        time: u32,
    },
    /// Bytes from `offset` on are no intact record; their digest if it can be told.
    Bad { offset: u64, digest: Option<Digest> },
}

/// How far the bytes of blobs are checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verify {
    Checksums,
    /// The digest as well.
    Digests,
}

/// How a scan ended.
pub(super) struct Scanned {
    /// Where the last intact record ends.
    pub(super) end: u64,
    /// What follows it and is no intact record: a write that was cut off, or damage.
    pub(super) rest: Vec<Found>,
    /// Whether some of that could not be read, so that nothing can be said of it.
    pub(super) unreadable: bool,
}

/// Visits the records from `start` up to the last intact one.
pub(super) fn scan(
    file: &dyn DiskFile,
    start: u64,
    verify: Verify,
    mut visit: impl FnMut(Found),
) -> io::Result<Scanned> {
    let mut window = Window {
        file,
        len: file.len()?,
        start: 0,
        bytes: Vec::new(),
    };
    let mut in_step = true;
    let mut end = start;
    let mut at = start;
    let mut unreadable = false;
    // Bad records are told only when an intact one follows.
    let mut bad: Vec<Found> = Vec::new();
    while at < window.len {
        let header = match window.get(at, HEADER_MAX) {
            Ok(bytes) if bytes.len() >= 4 && u32_at(bytes, 0) == MAGIC => Header::parse(bytes),
            Ok(_) => None,
            Err(_) => {
                unreadable = true;
                note_gap(&mut bad, &mut in_step, at);
                at = (at / UNREADABLE_STEP + 1) * UNREADABLE_STEP;
                continue;
            }
        };
        let Some(header) = header else {
            note_gap(&mut bad, &mut in_step, at);
            at += ALIGN;
            continue;
        };
        let (offset, size) = (at, header.size());
        let body = window.get(offset + header_len(size) as u64, size as usize);
        unreadable |= body.is_err();
        let intact = body.is_ok_and(|body| {
            header.matches(body)
                && ((in_step && verify == Verify::Checksums) || Digest::of(body) == header.digest)
        });
        if intact {
            bad.drain(..).for_each(&mut visit);
            visit(Found::Record {
                offset,
                digest: header.digest,
                time: header.time,
            });
            at += record_len(size);
            end = at;
            unreadable = false;
        } else if in_step {
            bad.push(Found::Bad {
                offset,
                digest: Some(header.digest),
            });
            // Its length is covered by the header's own checksum.
            at += record_len(size);
        } else {
            // Out of step it may be no record at all.
            at += ALIGN;
        }
    }
    Ok(Scanned {
        end,
        rest: bad,
        unreadable,
    })
}

/// Whether a file holds nothing but zeros from `start` on: room that was
/// allocated and never written.
pub(super) fn is_unwritten(file: &dyn DiskFile, start: u64) -> io::Result<bool> {
    let mut at = start;
    let mut bytes = vec![0; WINDOW];
    loop {
        let read = file.read_at(&mut bytes, at)?;
        if bytes[..read].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if read < bytes.len() {
            return Ok(true);
        }
        at += read as u64;
    }
}

fn note_gap(bad: &mut Vec<Found>, in_step: &mut bool, offset: u64) {
    if *in_step {
        bad.push(Found::Bad {
            offset,
            digest: None,
        });
        *in_step = false;
    }
}

/// A piece of a file in memory.
struct Window<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// `len` bytes at `at`; fewer only at the end of the file.
    fn get(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let end = at.saturating_add(len as u64).min(self.len).max(at);
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            // A block that cannot be read must not cost what lies before it: then
            // just what is wanted is read.
            self.fill(at, WINDOW)
                .or_else(|_| self.fill(at, (end - at) as usize))?;
        }
        let from = (at - self.start) as usize;
        let to = ((end - self.start) as usize).min(self.bytes.len());
        Ok(self.bytes.get(from..to).unwrap_or_default())
    }

    fn fill(&mut self, at: u64, len: usize) -> io::Result<()> {
        self.start = at;
        self.bytes.resize(len, 0);
        let read = self.file.read_at(&mut self.bytes, at);
        self.bytes.truncate(*read.as_ref().unwrap_or(&0));
        read.map(drop)
    }
}
