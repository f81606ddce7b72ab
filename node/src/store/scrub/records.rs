//! Records of one segment: which are read at once, and whether they are intact.

use std::collections::VecDeque;

use weir_cluster::{Digest, journal::disk::DiskFile};

use crate::store::{
    index::Location,
    quarantine::Defect,
    read::read_record,
    record::{ALIGN, Header, header_len, record_len},
};

/// Bytes that a step reads at most, but for a record that is longer.
const STEP_BYTES: u64 = 1 << 20;

/// What is wrong with a record that is read and not intact.
pub(super) const MISMATCH: Defect = Defect::Bytes("bytes do not match");

/// Takes records from the front that can be read at once.
pub(super) fn take_group(waiting: &mut VecDeque<(Location, Digest)>) -> Vec<(Location, Digest)> {
    let mut group: Vec<(Location, Digest)> = Vec::new();
    while let Some((location, digest)) = waiting.front() {
        let end = u64::from(location.offset) * ALIGN + record_len(digest.size as u32);
        let start = group.first().unwrap_or(&(*location, *digest)).0;
        if !group.is_empty() && end - u64::from(start.offset) * ALIGN > STEP_BYTES {
            break;
        }
        group.extend(waiting.pop_front());
    }
    group
}

/// Whether `bytes` begin with the intact record of a blob.
pub(super) fn is_record(bytes: &[u8], digest: &Digest) -> bool {
    let size = digest.size as usize;
    let body = header_len(digest.size as u32);
    Header::parse(bytes).is_some_and(|header| {
        let body = bytes.get(body..body + size);
        header.digest == *digest
            && body.is_some_and(|body| header.matches(body) && Digest::of(body) == *digest)
    })
}

/// Reads one record again, alone.
pub(super) fn verify_one(
    file: &dyn DiskFile,
    location: &Location,
    digest: &Digest,
) -> Result<(), Defect> {
    match read_record(file, digest, location.offset) {
        Ok(Some(body)) if Digest::of(&body) == *digest => Ok(()),
        Ok(_) => Err(MISMATCH),
        Err(error) => Err(Defect::Unread(error)),
    }
}
