//! How far verifying has come, as it is written down.
//!
//! `scrub.state` is 84 bytes: magic u32, version u32, passes finished u64,
//! store time the last pass began u32, flags u32, last segment done u32, first
//! segment that is not of the pass u32, hash of the last file done, blobs u64,
//! bytes u64, CRC-32C of all that u32. It is a help: without it a pass begins
//! anew.

use std::{io, path::Path};

use weir_cluster::journal::disk::{Disk, read_exact_at, replace_file};

use crate::store::record::{u32_at, u64_at};

pub(super) const PATH: &str = "scrub.state";

const LEN: usize = 84;
const MAGIC: u32 = u32::from_le_bytes(*b"WrSc");
const VERSION: u32 = 1;

const RUNNING: u32 = 1;
const HURRIED: u32 = 2;
const EVER: u32 = 4;
const IN_FILES: u32 = 8;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Passes finished, ever.
    pub(super) passes: u64,
    /// Store time at which the last pass began.
    pub(super) began: Option<u32>,
    pub(super) running: bool,
    pub(super) hurried: bool,
    pub(super) place: Place,
    /// Segments from here on were begun later than the pass.
    pub(super) until: u32,
    /// Verified in this pass.
    pub(super) blobs: u64,
    pub(super) bytes: u64,
}

/// What a pass has done: segments in order, then files in order of hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// All segments up to this one.
    Segments(u32),
    /// All files up to this hash.
    Files([u8; 32]),
}

impl Default for Place {
    fn default() -> Self {
        Self::Segments(0)
    }
}

impl State {
    /// What was written down last, if it can be read.
    pub(super) fn load(disk: &dyn Disk) -> Self {
        let read = disk
            .open(Path::new(PATH))
            .and_then(|file| read_exact_at(&*file, LEN, 0));
        match read {
            Ok(bytes) => Self::parse(&bytes).unwrap_or_default(),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, "cannot tell how far verifying had come");
                }
                Self::default()
            }
        }
    }

    pub(super) fn save(&self, disk: &dyn Disk) -> io::Result<()> {
        replace_file(disk, Path::new(PATH), &self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let (segment, hash, in_files) = match self.place {
            Place::Segments(number) => (number, [0; 32], 0),
            Place::Files(hash) => (u32::MAX, hash, IN_FILES),
        };
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let flags = in_files
            | flag(self.running, RUNNING)
            | flag(self.hurried, HURRIED)
            | flag(self.began.is_some(), EVER);
        let mut out = Vec::with_capacity(LEN);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.passes.to_le_bytes());
        for number in [self.began.unwrap_or(0), flags, segment, self.until] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&hash);
        out.extend_from_slice(&self.blobs.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let intact = bytes.len() == LEN
            && u32_at(bytes, 0) == MAGIC
            && u32_at(bytes, 4) == VERSION
            && u32_at(bytes, LEN - 4) == crc32c::crc32c(&bytes[..LEN - 4]);
        let flags = u32_at(bytes, 20);
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[32..64]);
        intact.then(|| Self {
            passes: u64_at(bytes, 8),
            began: (flags & EVER != 0).then(|| u32_at(bytes, 16)),
            running: flags & RUNNING != 0,
            hurried: flags & HURRIED != 0,
            place: match flags & IN_FILES {
                0 => Place::Segments(u32_at(bytes, 24)),
                _ => Place::Files(hash),
            },
            until: u32_at(bytes, 28),
            blobs: u64_at(bytes, 64),
            bytes: u64_at(bytes, 72),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_and_other_bytes_are_none() {
        let state = State {
            passes: 3,
            began: Some(5),
            running: true,
            hurried: false,
            place: Place::Segments(7),
            until: 9,
            blobs: 11,
            bytes: 13,
        };
        let in_files = State {
            place: Place::Files([0xab; 32]),
            hurried: true,
            ..state.clone()
        };
        for state in [State::default(), state, in_files] {
            let bytes = state.encode();
            assert_eq!(State::parse(&bytes), Some(state));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(State::parse(&flipped), None, "bit {bit}");
            }
        }
    }
}
