//! Reading: every byte is checked before it leaves.
//!
//! A copy whose checksum does not match, or that the disk cannot read, is taken
//! out of the index and set aside, so that the blob counts as missing here and
//! is brought again.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, stream};
use weir_cluster::{
    Digest, Error,
    blob::{BlobStream, CHUNK_BYTES},
    journal::disk::{DiskFile, is_about_the_process, read_exact_at},
};

use super::{
    core::Core,
    files::{self, Trailer},
    index::Location,
    quarantine::Defect,
    record::{ALIGN, Header, header_len, record_len},
};

/// Chunks of a stream under way to or from the disk: the one that is sent and
/// one read ahead.
const CHUNKS_AHEAD: usize = 2;

/// How bytes are told from those that were stored.
const MISMATCH: &str = "checksum does not match";

/// How often a blob is looked up again because it moved meanwhile. Each time
/// takes a whole pass of the cleaner.
const LOOKUPS_MAX: u32 = 8;

/// Reads the whole blob from its segment.
pub(super) fn read_small(core: &Core, digest: &Digest) -> Result<Bytes, Error> {
    for _ in 0..LOOKUPS_MAX {
        let Some(location) = core.index.locate(digest) else {
            return Err(Error::NotFound(*digest));
        };
        let Some(segment) = core.segments.get(location.segment) else {
            continue;
        };
        return match read_record(&*segment.file, digest, location.offset) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(core.set_aside_small(digest, location, &Defect::Bytes(MISMATCH))),
            Err(error) => Err(core.set_aside_small(digest, location, &Defect::Unread(error))),
        };
    }
    Err(Error::Internal(format!(
        "{digest} is in a segment that is gone"
    )))
}

/// Reads the blob's record; `None` if the record is not intact or another's.
pub(super) fn read_record(
    file: &dyn DiskFile,
    digest: &Digest,
    offset: u32,
) -> io::Result<Option<Bytes>> {
    let size = digest.size as u32;
    let record = read_exact_at(file, record_len(size) as usize, u64::from(offset) * ALIGN)?;
    let body = header_len(size)..header_len(size) + size as usize;
    let intact = Header::parse(&record)
        .is_some_and(|header| header.digest == *digest && header.matches(&record[body.clone()]));
    Ok(intact.then(|| Bytes::from(record).slice(body)))
}

/// Where blobs are, in the order in which they are on the disk.
pub(super) fn in_disk_order(core: &Core, digests: &[Digest]) -> Vec<usize> {
    let mut order: Vec<(Option<Location>, usize)> = digests
        .iter()
        .map(|digest| core.index.locate(digest))
        .zip(0..)
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(_, index)| index).collect()
}

/// An open large blob.
pub(super) struct OpenFile {
    core: Arc<Core>,
    file: Arc<dyn DiskFile>,
    trailer: Trailer,
}

impl OpenFile {
    pub(super) fn open(core: Arc<Core>, digest: &Digest) -> Result<Self, Error> {
        if !core.index.contains(digest) {
            return Err(Error::NotFound(*digest));
        }
        let file = match core.volume.disk.open(&files::path(digest)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Evicted just now, or gone without the store's doing: with the
                // whole volume, if it is not there, which is no damage.
                core.volume.check_root()?;
                return Err(if core.index.contains(digest) {
                    core.set_aside_large(digest, &Defect::Bytes("its file is gone"))
                } else {
                    Error::NotFound(*digest)
                });
            }
            Err(error) if is_about_the_process(&error) => {
                return Err(Error::io(format!("cannot open blob {digest}"), error));
            }
            Err(error) => {
                return Err(core.set_aside_large(digest, &Defect::Unread(error)));
            }
        };
        match files::read_trailer(&*file, digest) {
            Ok(Some(trailer)) => Ok(Self {
                core,
                file,
                trailer,
            }),
            Ok(None) => Err(core.set_aside_large(digest, &Defect::Bytes("trailer is damaged"))),
            Err(error) => Err(core.set_aside_large(digest, &Defect::Unread(error))),
        }
    }

    /// Reads a part that lies between two multiples of [`CHUNK_BYTES`].
    pub(super) fn read(&self, part: std::ops::Range<u64>) -> Result<Bytes, Error> {
        let digest = &self.trailer.digest;
        let start = part.start / files::CHUNK * files::CHUNK;
        let end = part.end.next_multiple_of(files::CHUNK).min(digest.size);
        let bytes = read_exact_at(&*self.file, (end - start) as usize, start)
            .map_err(|error| self.core.set_aside_large(digest, &Defect::Unread(error)))?;
        if !self
            .trailer
            .matches((start / files::CHUNK) as usize, &bytes)
        {
            return Err(self.core.set_aside_large(digest, &Defect::Bytes(MISMATCH)));
        }
        let wanted = (part.start - start) as usize..(part.end - start) as usize;
        Ok(Bytes::from(bytes).slice(wanted))
    }

    /// Has the next read of a part come from the disk.
    pub(super) fn uncache(&self, part: std::ops::Range<u64>) {
        self.file.uncache(part.start, part.end - part.start);
    }

    /// The bytes of a range, read on blocking threads.
    pub(super) fn stream(self, range: std::ops::Range<u64>) -> BlobStream {
        let open = Arc::new(self);
        let parts = stream::iter(parts_of(range)).map(move |part| {
            let open = open.clone();
            tokio::task::spawn_blocking(move || open.read(part))
        });
        let read = parts.buffered(CHUNKS_AHEAD).map(|joined| match joined {
            Ok(outcome) => outcome,
            Err(error) => Err(Error::Internal(format!("read: {error}"))),
        });
        // Nothing comes after an error.
        Box::pin(read.scan(false, |failed, outcome| {
            let item = (!*failed).then_some(outcome);
            *failed = matches!(item, Some(Err(_)));
            futures::future::ready(item)
        }))
    }
}

/// Cuts a range at multiples of [`CHUNK_BYTES`].
fn parts_of(range: std::ops::Range<u64>) -> impl Iterator<Item = std::ops::Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let chunk = CHUNK_BYTES as u64;
        let end = (at / chunk + 1).saturating_mul(chunk).min(range.end);
        let part = at..end;
        at = end;
        (!part.is_empty()).then_some(part)
    })
}
