//! What a check found.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::Serialize;
use weir_cluster::Digest;

/// Most damages that are listed one by one; the count has all.
const LISTED_MAX: usize = 1000;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FsckReport {
    /// Intact blobs in segments, each counted once.
    pub small_blobs: u64,
    /// Intact blobs in files.
    pub large_blobs: u64,
    /// Bytes of the intact blobs.
    pub bytes: u64,
    /// Damaged records and files, and entries of the checkpoint that lead to
    /// no intact record.
    pub damaged: u64,
    /// The first of the damages, a line each.
    pub damages: Vec<String>,
    /// Whether there is a checkpoint that can be read.
    pub checkpoint: bool,
}

/// Where an intact copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Record { segment: u32, offset: u64 },
    File(PathBuf),
}

/// What a store holds: what it would serve if it were opened now. A small copy
/// that was given up is not among it, though its record stays in its segment
/// until the cleaner comes by.
pub type Holdings = BTreeMap<Digest, Place>;

impl FsckReport {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damaged == 0
    }

    pub(super) fn damage(&mut self, what: String) {
        self.damaged += 1;
        if self.damages.len() < LISTED_MAX {
            self.damages.push(what);
        }
    }
}

impl fmt::Display for FsckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} small and {} large blobs, {} bytes, {} damaged; checkpoint {}",
            self.small_blobs,
            self.large_blobs,
            self.bytes,
            self.damaged,
            if self.checkpoint {
                "read"
            } else {
                "absent or unreadable"
            },
        )?;
        for damage in &self.damages {
            writeln!(f, "damaged: {damage}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Record { segment, offset } => write!(f, "segment {segment} offset {offset}"),
            Place::File(path) => write!(f, "{}", path.display()),
        }
    }
}
