//! What was found damaged and set aside.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;
use weir_cluster::Digest;

/// Damaged blobs that are remembered by digest; a volume with more of them
/// than this needs a new disk, not a longer list.
const REMEMBERED_MAX: usize = 10_000;

/// What is wrong with a copy.
#[derive(Debug)]
pub(super) enum Defect {
    /// Bytes are there, and not those that were stored; how that was seen.
    Bytes(&'static str),
    /// The disk gave none.
    Unread(io::Error),
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Defect::Bytes(seen) => f.write_str(seen),
            Defect::Unread(error) => error.fmt(f),
        }
    }
}

/// The damaged blobs since the start.
#[derive(Default)]
pub(super) struct Quarantine {
    // A std mutex: held for list operations only, never across an await.
    held: Mutex<VecDeque<Digest>>,
    total: AtomicU64,
    noted: Arc<Notify>,
}

impl Quarantine {
    /// Remembers a damaged copy; `digest` is `None` if it cannot be told whose.
    pub(super) fn note(&self, digest: Option<Digest>, place: &str) {
        match digest {
            Some(digest) => tracing::error!(%digest, place, "damaged copy set aside"),
            None => tracing::error!(place, "damaged bytes passed over"),
        }
        self.total.fetch_add(1, Relaxed);
        {
            let mut held = self.lock();
            if let Some(digest) = digest
                && !held.contains(&digest)
            {
                if held.len() == REMEMBERED_MAX {
                    held.pop_front();
                }
                held.push_back(digest);
            }
        }
        self.noted.notify_one();
    }

    /// The digests that are remembered, oldest first.
    pub(super) fn digests(&self) -> Vec<Digest> {
        self.lock().iter().copied().collect()
    }

    /// How many damages were noted.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Told of each.
    pub(super) fn notify(&self) -> Arc<Notify> {
        self.noted.clone()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Digest>> {
        self.held.lock().expect("no panic while the list is locked")
    }
}
