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

use tokio::sync::watch;

use crate::NodeId;

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

/// A node that should not be there: it takes part in this node's Raft, and this
/// one, which votes alone, has never heard of it. So this node's directory is a
/// copy from before the others came. Clones share it.
#[derive(Clone)]
pub(super) struct Stranger {
    seen: watch::Sender<Option<NodeId>>,
}

impl Default for Stranger {
    fn default() -> Self {
        let seen = watch::Sender::new(None);
        Self { seen }
    }
}

impl Stranger {
    pub(super) fn saw(&self, node: NodeId) {
        self.seen
            .send_if_modified(|seen| seen.replace(node) != Some(node));
    }

    /// Returns once one was seen.
    pub(super) async fn seen(&self) -> NodeId {
        let mut seen = self.seen.subscribe();
        loop {
            if let Some(node) = *seen.borrow_and_update() {
                return node;
            }
            // The sender is this value.
            let _ = seen.changed().await;
        }
    }
}
