//! What was found damaged and set aside.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use weir_cluster::Digest;

/// Damaged blobs that are remembered by digest; a volume with more of them
/// than this needs a new disk, not a longer list.
const REMEMBERED_MAX: usize = 10_000;

/// The damaged blobs since the start.
#[derive(Default)]
pub(super) struct Quarantine {
    // A std mutex: held for list operations only, never across an await.
    held: Mutex<VecDeque<Digest>>,
}

impl Quarantine {
    /// Remembers a damaged copy; `digest` is `None` if it cannot be told whose.
    pub(super) fn note(&self, digest: Option<Digest>, place: &str) {
        match digest {
            Some(digest) => tracing::error!(%digest, place, "damaged copy set aside"),
            None => tracing::error!(place, "damaged bytes passed over"),
        }
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

    /// The digests that are remembered, oldest first.
    pub(super) fn digests(&self) -> Vec<Digest> {
        self.lock().iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Digest>> {
        self.held.lock().expect("no panic while the list is locked")
    }
}
