//! Some nodes in one process.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::watch;

use crate::{
    ClusterId, Digest, Epoch, NodeId,
    blob::{Inventory, memory_store::MemoryStore},
    peer::faulty_peers::{Faults, FaultyPeers},
    placement::view::View,
    replication::Replicated,
    state::{ClusterState, EpochPlan, Member, MemberStatus, Settings, Share},
};

pub(crate) fn node(id: u64) -> NodeId {
    NodeId(id)
}

/// Nodes 1, 2, … in these zones, in one epoch.
pub(crate) fn state_of(zones: &[&str], replicas: u32, write_quorum: u32) -> Arc<ClusterState> {
    let mut state = ClusterState {
        cluster: Some(ClusterId(1)),
        settings: Settings {
            replicas,
            write_quorum,
            ..Settings::default()
        },
        ..ClusterState::default()
    };
    let mut nodes = BTreeMap::new();
    for (id, zone) in (1..).map(node).zip(zones) {
        let host = format!("host-{id}");
        let member = Member {
            name: format!("node-{id}"),
            zone: (*zone).into(),
            host: host.clone(),
            weight: 1,
            peer_address: String::new(),
            client_address: String::new(),
            admin_address: String::new(),
            status: MemberStatus::Active,
            boot: 0,
        };
        state.members.insert(id, member);
        let share = Share {
            zone: (*zone).into(),
            host,
            weight: 1,
        };
        nodes.insert(id, share);
    }
    state.epochs.push(EpochPlan {
        epoch: Epoch(1),
        replicas,
        nodes,
        handed_off: BTreeSet::new(),
    });
    Arc::new(state)
}

/// A further epoch with these members.
pub(crate) fn epoch_of(state: &ClusterState, ids: &[u64]) -> Arc<ClusterState> {
    let mut state = state.clone();
    let shares = ids.iter().map(|id| {
        let member = &state.members[&node(*id)];
        let share = Share {
            zone: member.zone.clone(),
            host: member.host.clone(),
            weight: member.weight,
        };
        (node(*id), share)
    });
    let last = state.epochs.last().unwrap();
    let plan = EpochPlan {
        epoch: Epoch(last.epoch.0 + 1),
        replicas: last.replicas,
        nodes: shares.collect(),
        handed_off: BTreeSet::new(),
    };
    state.epochs.push(plan);
    Arc::new(state)
}
pub(crate) struct Network {
    pub(crate) stores: BTreeMap<NodeId, MemoryStore>,
    pub(crate) peers: FaultyPeers,
    pub(crate) state: Arc<ClusterState>,
    views: BTreeMap<NodeId, watch::Sender<Arc<View>>>,
    gateways: BTreeMap<NodeId, Replicated>,
}

impl Network {
    /// One node for each zone given, R = 3, W = 2.
    pub(crate) fn new(zones: &[&str]) -> Self {
        Self::with(zones, zones.len(), 3, 2)
    }

    /// Nodes of which only the first `placed` take part in the first epoch.
    pub(crate) fn with(zones: &[&str], placed: usize, replicas: u32, write_quorum: u32) -> Self {
        let mut state = ClusterState::clone(&state_of(zones, replicas, write_quorum));
        state.epochs[0]
            .nodes
            .retain(|id, _| id.0 as usize <= placed);
        let state = Arc::new(state);
        let stores: BTreeMap<_, _> = state
            .members
            .keys()
            .map(|id| (*id, MemoryStore::new()))
            .collect();
        let peers = FaultyPeers::new(
            stores
                .iter()
                .map(|(id, store)| (*id, Arc::new(store.clone()) as Arc<dyn Inventory>))
                .collect(),
        );
        let mut views = BTreeMap::new();
        let mut gateways = BTreeMap::new();
        for (id, store) in &stores {
            let view = Arc::new(View::from_state(*id, &state, None));
            let (sender, receiver) = watch::channel(view);
            views.insert(*id, sender);
            let (local, peers) = (Arc::new(store.clone()), Arc::new(peers.clone()));
            gateways.insert(*id, Replicated::new(*id, local, peers, receiver));
        }
        Self {
            stores,
            peers,
            state,
            views,
            gateways,
        }
    }

    pub(crate) fn gateway(&self, id: u64) -> &Replicated {
        &self.gateways[&node(id)]
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.gateway(1).view()
    }

    pub(crate) fn fault(&self, node: NodeId, faults: Faults) {
        self.peers.set(node, faults);
    }

    pub(crate) fn down(&self, node: NodeId) {
        let down = true;
        self.fault(
            node,
            Faults {
                down,
                ..Faults::default()
            },
        );
    }

    /// Shows the agreed state to one node.
    pub(crate) fn show(&self, id: u64, state: &Arc<ClusterState>) {
        self.peers
            .set_epoch(node(id), state.epochs.last().unwrap().epoch);
        self.views[&node(id)].send_modify(|view| {
            *view = Arc::new(View::from_state(node(id), state, Some(view)));
        });
    }

    pub(crate) fn holders(&self, digest: Digest) -> Vec<NodeId> {
        let holds = |(_, store): &(&NodeId, &MemoryStore)| store.digests().contains(&digest);
        self.stores
            .iter()
            .filter(holds)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Waits until so many nodes hold a blob.
    pub(crate) async fn held_by(&self, digest: Digest, count: usize) {
        while self.holders(digest).len() < count {
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    /// Owners of a blob other than the gateway, node 1.
    pub(crate) fn other_owners(&self, digest: Digest) -> Vec<NodeId> {
        let view = self.view();
        view.owners(digest)
            .filter(|owner| *owner != node(1))
            .collect()
    }
}
