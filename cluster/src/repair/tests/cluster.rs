//! A cluster in one process: real gateways, real repair and real agreed state
//! over stores in memory and peers with faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

use crate::{
    Digest, NodeId,
    blob::{
        BlobStore, ByteRange, Inventory, collect, conformance::sample, memory_store::MemoryStore,
        put_bytes,
    },
    peer::{
        Peers, RepairReport,
        faulty_peers::{Faults, FaultyPeers},
    },
    placement::view::View,
    raft::{Consensus, memory::MemoryConsensus},
    repair::{Foreground, Repair, RepairParts},
    replication::Replicated,
    state::{ClusterState, Command, Member, Response, Settings, tests::member},
};

/// Between looks; short, so that tests end soon.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);
/// Longest (paused) time that anything may take to settle.
const PATIENCE: Duration = Duration::from_secs(900);

pub(super) fn id(number: u64) -> NodeId {
    NodeId(number)
}

/// Which state each node is shown.
pub(super) struct Screen {
    peers: FaultyPeers,
    views: BTreeMap<NodeId, watch::Sender<Arc<View>>>,
    /// Nodes that do not hear of changes.
    deaf: Mutex<BTreeSet<NodeId>>,
}

impl Screen {
    fn show(&self, state: &Arc<ClusterState>) {
        let deaf = self.deaf.lock().unwrap().clone();
        // The tables are computed once and shared: they depend on no node.
        let mut known = self
            .views
            .values()
            .map(|view| view.borrow().clone())
            .max_by_key(|view| view.epoch());
        for (node, sender) in self.views.iter().filter(|(node, _)| !deaf.contains(node)) {
            let view = Arc::new(View::from_state(*node, state, known.as_deref()));
            self.peers.set_epoch(*node, view.epoch());
            sender.send_replace(Arc::clone(&view));
            known = Some(view);
        }
    }
}

pub(super) struct Cluster {
    pub(super) stores: BTreeMap<NodeId, MemoryStore>,
    pub(super) peers: FaultyPeers,
    pub(super) consensus: Arc<MemoryConsensus>,
    screen: Arc<Screen>,
    zones: Vec<String>,
    gateways: BTreeMap<NodeId, Replicated>,
    repairs: BTreeMap<NodeId, Repair>,
    pub(super) acknowledged: Vec<Digest>,
    next_blob: u64,
    follower: AbortHandle,
}

impl Cluster {
    /// A node for each zone; the first `active` are members and owners.
    pub(super) fn new(zones: &[&str], active: usize, replicas: u32, write_quorum: u32) -> Self {
        let zones: Vec<String> = zones.iter().map(|zone| (*zone).to_owned()).collect();
        let settings = Settings {
            replicas,
            write_quorum,
            repair_bytes_per_second: 0,
            ..Settings::default()
        };
        let members = (1..=active as u64)
            .map(|number| (id(number), member_of(number, &zones)))
            .collect();
        let consensus = Arc::new(MemoryConsensus::founded(settings, members).unwrap());
        let state = consensus.state().borrow().clone();
        let stores: BTreeMap<_, _> = (1..=zones.len() as u64)
            .map(|number| (id(number), MemoryStore::new()))
            .collect();
        let shared = |(node, store): (&NodeId, &MemoryStore)| {
            (*node, Arc::new(store.clone()) as Arc<dyn Inventory>)
        };
        let peers = FaultyPeers::new(stores.iter().map(shared).collect());
        let mut known: Option<Arc<View>> = None;
        let views = stores.keys().map(|node| {
            let view = Arc::new(View::from_state(*node, &state, known.as_deref()));
            peers.set_epoch(*node, view.epoch());
            known = Some(Arc::clone(&view));
            (*node, watch::Sender::new(view))
        });
        let screen = Arc::new(Screen {
            views: views.collect(),
            peers: peers.clone(),
            deaf: Mutex::default(),
        });
        let mut states = consensus.state();
        let following = Arc::clone(&screen);
        let follower = tokio::spawn(async move {
            while states.changed().await.is_ok() {
                let state = states.borrow_and_update().clone();
                following.show(&state);
            }
        });
        let mut cluster = Self {
            stores,
            peers,
            consensus,
            screen,
            zones,
            gateways: BTreeMap::new(),
            repairs: BTreeMap::new(),
            acknowledged: Vec::new(),
            next_blob: 0,
            follower: follower.abort_handle(),
        };
        for number in 1..=cluster.zones.len() as u64 {
            cluster.start(number);
        }
        cluster
    }

    /// Four settled nodes with one blob: its content, its owners, and the node
    /// that does not own it.
    pub(super) async fn with_one_blob() -> (Self, Bytes, Vec<u64>, u64) {
        let cluster = Self::new(&["a", "b", "c", "a"], 4, 3, 2);
        let content = sample(1, 1_000);
        let put = put_bytes(cluster.gateway(1), content.clone()).await;
        put.unwrap();
        cluster.settle().await;
        let (owners, strangers): (Vec<_>, Vec<_>) =
            (1..=4).partition(|number| !cluster.store(*number).digests().is_empty());
        (cluster, content, owners, strangers[0])
    }

    /// Starts a node's process, anew if it runs.
    pub(super) fn start(&mut self, number: u64) {
        let peers = Arc::new(self.peers.clone());
        self.start_with(number, peers);
    }

    /// The same over other peers.
    pub(super) fn start_with(&mut self, number: u64, peers: Arc<dyn Peers>) {
        let me = id(number);
        self.repairs.remove(&me);
        let local = Arc::new(self.stores[&me].clone());
        let view = self.screen.views[&me].subscribe();
        let gateway = Replicated::new(
            me,
            Arc::clone(&local) as _,
            Arc::new(self.peers.clone()),
            view.clone(),
        );
        let (sender, offers) = mpsc::channel(64);
        self.peers.set_offers(me, sender);
        let repair = Repair::start(RepairParts {
            me,
            local,
            peers,
            consensus: Arc::clone(&self.consensus) as _,
            view,
            offers,
            lacking: gateway.take_lacking().unwrap(),
            foreground: Foreground::default(),
            interval: INTERVAL,
        });
        self.gateways.insert(me, gateway);
        self.repairs.insert(me, repair);
    }

    /// Ends a node's process; its store stays.
    pub(super) fn kill(&mut self, number: u64) {
        self.repairs.remove(&id(number));
        let down = true;
        let faults = Faults {
            down,
            ..Faults::default()
        };
        self.peers.set(id(number), faults);
    }

    /// Starts a node's process after [`Self::kill`].
    pub(super) fn revive(&mut self, number: u64) {
        self.peers.set(id(number), Faults::default());
        self.start(number);
    }

    /// Has a node hear of no change, or of all again.
    pub(super) fn set_deaf(&self, number: u64, deaf: bool) {
        let mut all = self.screen.deaf.lock().unwrap();
        match deaf {
            true => all.insert(id(number)),
            false => all.remove(&id(number)),
        };
        drop(all);
        self.screen.show(&self.state());
    }

    pub(super) fn state(&self) -> Arc<ClusterState> {
        self.consensus.state().borrow().clone()
    }

    pub(super) fn view(&self) -> Arc<View> {
        let latest = self.screen.views.values().map(|view| view.borrow().clone());
        latest.max_by_key(|view| view.epoch()).unwrap()
    }

    pub(super) fn gateway(&self, number: u64) -> &Replicated {
        &self.gateways[&id(number)]
    }

    pub(super) fn report(&self, number: u64) -> RepairReport {
        self.repairs[&id(number)].report()
    }

    pub(super) fn repair(&self, number: u64) -> &Repair {
        &self.repairs[&id(number)]
    }

    pub(super) fn store(&self, number: u64) -> &MemoryStore {
        &self.stores[&id(number)]
    }

    pub(super) async fn try_propose(&self, command: Command) -> Response {
        let response = self.consensus.propose(command).await.unwrap();
        self.screen.show(&self.state());
        response
    }

    pub(super) async fn propose(&self, command: Command) {
        let response = self.try_propose(command.clone()).await;
        assert!(
            matches!(response, Response::Done { .. }),
            "{command:?}: {response:?}"
        );
    }

    /// Has a node join and own its share.
    pub(super) async fn join(&self, number: u64) {
        let member = member_of(number, &self.zones);
        let node = id(number);
        self.propose(Command::AddMember { id: node, member }).await;
        self.propose(Command::Activate { nodes: vec![node] }).await;
    }

    pub(super) async fn drain(&self, number: u64) {
        let id = id(number);
        self.propose(Command::Drain { id, on: true }).await;
    }

    pub(super) async fn remove(&self, number: u64, force: bool) {
        let id = id(number);
        self.propose(Command::Remove { id, force }).await;
    }

    /// A dead node's place is given to an empty one, which owns nothing yet.
    pub(super) async fn replace(&self, old: u64, new: u64) {
        let (old, id) = (id(old), id(new));
        let member = self.members()[&old].clone();
        self.propose(Command::Replace { old, id, member }).await;
    }

    pub(super) async fn set_rate(&self, repair_bytes_per_second: u64) {
        let settings = Settings {
            repair_bytes_per_second,
            ..self.state().settings.clone()
        };
        self.propose(Command::Settle { settings }).await;
    }

    pub(super) async fn set_replicas(&self, replicas: u32) {
        let settings = Settings {
            replicas,
            ..self.state().settings.clone()
        };
        self.propose(Command::Settle { settings }).await;
    }

    /// Uploads blobs through a gateway; all are acknowledged.
    pub(super) async fn write(&mut self, number: u64, count: u64) {
        for _ in 0..count {
            self.try_write(number).await.unwrap();
        }
    }

    /// Uploads one blob; every 20th is large.
    pub(super) async fn try_write(&mut self, number: u64) -> Result<Digest, crate::Error> {
        self.next_blob += 1;
        let len = match self.next_blob % 20 {
            0 => (1 << 20) + self.next_blob as usize,
            _ => 10 + self.next_blob as usize % 3_000,
        };
        let bytes = sample(self.next_blob, len);
        let digest = put_bytes(self.gateway(number), bytes).await?;
        self.acknowledged.push(digest);
        Ok(digest)
    }

    pub(super) fn members(&self) -> BTreeMap<NodeId, Member> {
        self.state().members.clone()
    }

    /// Members whose process runs.
    pub(super) fn running(&self) -> Vec<NodeId> {
        let members = self.members();
        let runs = |node: &&NodeId| self.repairs.contains_key(node);
        members.keys().filter(runs).copied().collect()
    }

    /// What is still not as it should be in the end; empty when all is.
    pub(super) fn unfinished(&self) -> Vec<String> {
        let (state, view) = (self.state(), self.view());
        let mut found = Vec::new();
        if state.epochs.len() > 1 {
            let marks = &state.epochs.last().unwrap().handed_off;
            found.push(format!(
                "{} epochs alive, marked by {marks:?}",
                state.epochs.len()
            ));
        }
        let all: BTreeSet<Digest> = self.acknowledged.iter().copied().collect();
        for node in state.members.keys() {
            let held: BTreeSet<Digest> = self.stores[node].digests().into_iter().collect();
            let owned = |digest: &&Digest| view.owns(*node, **digest);
            let lacking = all
                .iter()
                .filter(owned)
                .filter(|digest| !held.contains(digest))
                .count();
            let surplus = held.iter().filter(|digest| !owned(digest)).count();
            if lacking + surplus > 0 {
                let report = self.repairs.get(node).map(Repair::report);
                found.push(format!(
                    "{node:?} lacks {lacking}, has {surplus} too many: {report:?}"
                ));
            }
        }
        for node in self.running() {
            let report = self.repairs[&node].report();
            if !report.settled {
                found.push(format!("{node:?} is not settled: {report:?}"));
            }
        }
        found
    }

    /// Waits until every replica is where it belongs, then checks everything.
    pub(super) async fn settle(&self) {
        let begun = tokio::time::Instant::now();
        loop {
            let unfinished = self.unfinished();
            if unfinished.is_empty() {
                break;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "not settled:\n{}",
                unfinished.join("\n")
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.check_placed();
        self.check_readable().await;
    }

    /// Copies of a blob are on R nodes, in different zones where there are enough.
    fn check_placed(&self) {
        let view = self.view();
        let zones = view.current().unwrap().zones().len();
        for digest in &self.acknowledged {
            let owners: Vec<_> = view.owners(*digest).collect();
            assert_eq!(owners.len(), view.replicas());
            let spread: BTreeSet<_> = owners.iter().map(|owner| view.zone(*owner)).collect();
            assert_eq!(spread.len(), owners.len().min(zones));
        }
    }

    /// Every acknowledged blob can be read through every running member.
    pub(super) async fn check_readable(&self) {
        for node in self.running() {
            for digest in &self.acknowledged {
                let stream = self.gateways[&node].get(*digest, ByteRange::ALL).await;
                let stream = stream.unwrap_or_else(|error| panic!("{node:?}: {error}"));
                let bytes = collect(stream).await.unwrap();
                assert_eq!(bytes.len() as u64, digest.size);
            }
        }
    }

    pub(super) fn fetched(&self) -> (u64, u64) {
        let reports = self.repairs.values().map(Repair::report);
        reports.fold((0, 0), |(blobs, bytes), report| {
            (blobs + report.fetched_blobs, bytes + report.fetched_bytes)
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

pub(super) fn member_of(number: u64, zones: &[String]) -> Member {
    member(&format!("n{number}"), &zones[number as usize - 1])
}
