//! What a node does for its copies beside serving them: repair and scrub, each
//! following what the cluster has agreed on.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use weir_cluster::{
    NodeId,
    blob::Lease,
    peer::{Offered, Peers},
    placement::view::View,
    raft::Consensus,
    repair::{INTERVAL, Repair, RepairParts},
    replication::Replicated,
    state::ClusterState,
};

use crate::store::LocalStore;

/// Blobs that other nodes hold for this one and that wait to be fetched;
/// beyond it they are offered again.
const OFFERS_WAITING: usize = 64 << 10;

/// What upkeep works with.
pub(crate) struct UpkeepParts {
    pub(crate) me: NodeId,
    pub(crate) store: Arc<LocalStore>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) consensus: Arc<dyn Consensus>,
    pub(crate) view: watch::Receiver<Arc<View>>,
}

/// Begins both; they end with the runtime. Where to tell repair what other
/// nodes hold for this one comes with it.
pub(crate) fn start(
    parts: UpkeepParts,
    replicated: &Replicated,
) -> (Arc<Repair>, mpsc::Sender<Offered>) {
    let (offered, offers) = mpsc::channel(OFFERS_WAITING);
    let states = parts.consensus.state();
    // Taken once, here; a second upkeep of the same gateway would hear nothing.
    let lacking = replicated
        .take_lacking()
        .unwrap_or_else(|| mpsc::channel(1).1);
    let repair = Repair::start(RepairParts {
        me: parts.me,
        local: Arc::clone(&parts.store) as _,
        peers: parts.peers,
        consensus: parts.consensus,
        view: parts.view,
        offers,
        lacking,
        foreground: replicated.foreground(),
        interval: INTERVAL,
    });
    let repair = Arc::new(repair);
    tokio::spawn(refetch_damaged(
        Arc::clone(&parts.store),
        Arc::clone(&repair),
    ));
    tokio::spawn(follow_settings(parts.store, states));
    (repair, offered)
}

/// A copy that was found damaged is brought again at once.
async fn refetch_damaged(store: Arc<LocalStore>, repair: Arc<Repair>) {
    let damaged = store.damage_notify();
    drop(store);
    loop {
        damaged.notified().await;
        repair.wake();
    }
}

/// Keeps leases and the pace of scrubbing as they are agreed.
async fn follow_settings(store: Arc<LocalStore>, mut states: watch::Receiver<Arc<ClusterState>>) {
    loop {
        let settings = states.borrow_and_update().settings.clone();
        store.set_scrub_interval(Duration::from_secs(settings.scrub_seconds.into()));
        store.set_lease(Lease {
            seconds: settings.lease_seconds,
        });
        if states.changed().await.is_err() {
            return;
        }
    }
}
