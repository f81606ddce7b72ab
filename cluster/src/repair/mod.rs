//! Repair: makes replicas equal owners. The only mover of copies.
//!
//! ```text
//!            every other member               every owner of a slot not owned here
//!   look ──► summaries ─┬─► lists ──► copies    offer ──► verdicts
//!    ▲                  │     what I own           │        what I do not own
//!    │                  ▼       and lack           ▼
//!    └── wait ◄─── mark: nothing lacking      drop: all hold or decline
//! ```
//!
//! Joins, drains, removals, replacements, a node that returns, bit rot and
//! stand-ins are one loop on each node, which knows of none of them: an owner
//! fetches what it lacks, and who is no owner drops what every owner holds or
//! has declined. Promised:
//!
//! - a copy is dropped only on the word of all current owners, given at the
//!   epoch that this node is still at;
//! - the handoff mark is set only when every other member has shown, at the
//!   current epoch, what it holds, and nothing of it is lacking here. Each
//!   node answers from the asker's epoch on, and acknowledges no write under an
//!   older one from then on: nothing slips behind;
//! - nothing is remembered that matters: a process that ends at any moment
//!   begins again with a look;
//! - an idle cluster pays one small message for each pair and interval, and
//!   what clients write arrives once: only what still differs at a second look
//!   is fetched, unless somebody has said that it is lacking.
//!
//! Not promised: when. A member that is down holds up the mark until it comes
//! back or an operator removes it, as it may hold what nobody else has.
//!
//! What decides is pure: [`plan`] what to fetch, [`ballot`] what to drop,
//! [`budget`] how fast.

pub mod account;
pub mod ballot;
pub mod budget;
mod fetch;
mod inbox;
mod offer;
mod pace;
pub mod plan;
mod progress;
mod pull;
#[cfg(test)]
mod tests;
mod worker;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::AbortHandle,
};

pub use budget::Foreground;
use progress::Progress;

use crate::{
    NodeId,
    blob::Inventory,
    peer::{Offered, Peers, RepairReport},
    placement::view::View,
    raft::Consensus,
    replication::Lacking,
};

/// Between looks while there is nothing to do: a look costs a small message for
/// each member, and finds what no note has told of.
pub const INTERVAL: Duration = Duration::from_secs(30);

/// What repair works with.
pub struct RepairParts {
    pub me: NodeId,
    pub local: Arc<dyn Inventory>,
    pub peers: Arc<dyn Peers>,
    /// Takes the handoff marks.
    pub consensus: Arc<dyn Consensus>,
    pub view: watch::Receiver<Arc<View>>,
    /// What other nodes hold for this one.
    pub offers: mpsc::Receiver<Offered>,
    /// What owners were seen to lack.
    pub lacking: mpsc::Receiver<Lacking>,
    /// What is done for clients, to which repair yields.
    pub foreground: Foreground,
    /// See [`INTERVAL`].
    pub interval: Duration,
}

/// Repair on one node. Stops when dropped; nothing has to be finished.
pub struct Repair {
    progress: Arc<Progress>,
    woken: Arc<Notify>,
    task: AbortHandle,
}

impl Repair {
    /// Begins to look. To be called within a Tokio runtime.
    #[must_use]
    pub fn start(parts: RepairParts) -> Self {
        let progress = Arc::<Progress>::default();
        let woken = Arc::<Notify>::default();
        let worker = worker::Worker::new(parts, Arc::clone(&progress), Arc::clone(&woken));
        Self {
            progress,
            woken,
            task: tokio::spawn(worker.run()).abort_handle(),
        }
    }

    /// What it has before it, and what it has done. Cheap.
    #[must_use]
    pub fn report(&self) -> RepairReport {
        self.progress.report()
    }

    /// Has it look again now: a copy was found damaged, or there is room again.
    pub fn wake(&self) {
        self.woken.notify_one();
    }
}

impl Drop for Repair {
    fn drop(&mut self) {
        self.task.abort();
    }
}
