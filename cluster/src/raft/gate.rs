//! Whether this node takes part in Raft yet.
//!
//! Raft itself runs from the beginning, but until the gate is open its messages
//! neither leave this node nor reach it: a node that was removed, or whose
//! directory is an older copy, must not vote before it has heard so. See
//! [`super::arrival`].

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Closed at first, and never closed again. Clones are the same gate.
#[derive(Clone, Default)]
pub(super) struct Gate {
    open: Arc<AtomicBool>,
}

impl Gate {
    /// Why nothing may pass while it is closed.
    pub(super) const CLOSED: &str = "the node has not checked in with the cluster yet";

    pub(super) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }
}
