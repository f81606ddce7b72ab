//! A cluster of Raft nodes in one process, over real connections.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use rand::{SeedableRng, rngs::SmallRng};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};
use weir_cluster::{
    ClusterId, Digest, NodeId,
    journal::disk::{Disk, RealDisk},
    peer::dial::{Dial, plain},
    raft::{Consensus, RaftConfig, RaftConsensus, Setup},
    state::{Command, Member, MemberStatus, RefKey, RefKind, RefValue, Response, Settings},
};

const CLUSTER: ClusterId = ClusterId(42);

/// How long anything may take in the end: far more than it does.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    dir: TempDir,
    config: RaftConfig,
    dials: Arc<AtomicUsize>,
    initial_nodes: u32,
    nodes: BTreeMap<usize, Node>,
    members: Vec<(NodeId, Member)>,
}

struct Node {
    consensus: Arc<RaftConsensus>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Cluster {
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, 10_000).await
    }

    /// A first node, and others that join it.
    pub(crate) async fn start_with(count: usize, snapshot_entries: u64) -> Self {
        let mut cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            config: RaftConfig {
                snapshot_entries,
                ..RaftConfig::default()
            },
            dials: Arc::default(),
            initial_nodes: count as u32,
            nodes: BTreeMap::new(),
            members: Vec::new(),
        };
        cluster.join().await;
        for _ in 1..count {
            cluster.join().await;
        }
        cluster
    }

    /// Adds a node.
    pub(crate) async fn join(&mut self) {
        let index = self.members.len();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let id = NodeId::mint(&mut SmallRng::seed_from_u64(index as u64));
        let member = Member {
            name: format!("n{index}"),
            zone: format!("z{index}"),
            host: format!("h{index}"),
            weight: 1,
            peer_address: address,
            client_address: "127.0.0.1:1".into(),
            admin_address: "127.0.0.1:2".into(),
            status: MemberStatus::Joining,
            boot: 0,
        };
        if index > 0 {
            let command = Command::AddMember {
                id,
                member: member.clone(),
            };
            let answer = self.node(0).propose(command).await.unwrap();
            assert!(matches!(answer, Response::Done { .. }), "{answer:?}");
        }
        self.members.push((id, member.clone()));
        self.run(index, listener).await;
        if index == 0 {
            let settings = Settings {
                initial_nodes: self.initial_nodes,
                ..Settings::default()
            };
            self.node(0).found(settings, member).await.unwrap();
        }
    }

    async fn run(&mut self, index: usize, listener: TcpListener) {
        let root = self.node_dir(index);
        std::fs::create_dir_all(root.join("raft")).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(root.join("raft")));
        let dials = Arc::clone(&self.dials);
        let dial: Dial = Arc::new(move |address| {
            dials.fetch_add(1, Ordering::SeqCst);
            plain()(address).boxed()
        });
        let setup = Setup {
            cluster: CLUSTER,
            me: self.members[index].0,
            config: self.config.clone(),
            disk: Arc::clone(&disk),
            state_dir: root.join("state"),
            dial,
        };
        let log = weir_cluster::raft::LogStore::open(disk, Default::default()).unwrap();
        let consensus = RaftConsensus::start(setup, log).await.unwrap();
        let stop = CancellationToken::new();
        let server = Server::builder()
            .add_service(consensus.service())
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                stop.clone().cancelled_owned(),
            );
        let server = tokio::spawn(async move { server.await.unwrap() });
        let node = Node {
            consensus,
            stop,
            server,
        };
        self.nodes.insert(index, node);
    }

    pub(crate) fn node(&self, index: usize) -> &RaftConsensus {
        &self.nodes[&index].consensus
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &RaftConsensus> {
        self.nodes.values().map(|node| &*node.consensus)
    }

    /// Waits until so many nodes are active and the cluster is led.
    pub(crate) async fn settle(&mut self, count: usize) {
        for node in self.nodes() {
            until("every node is active and votes", || async {
                let state = node.state().borrow().clone();
                let active = state
                    .members
                    .values()
                    .filter(|m| m.status == MemberStatus::Active);
                let voters = node.roles().voters.len();
                active.count() == count && voters == count - usize::from(count.is_multiple_of(2))
            })
            .await;
        }
    }

    pub(crate) fn leader(&self) -> usize {
        let leader = self.nodes().find_map(|node| node.roles().leader).unwrap();
        self.members
            .iter()
            .position(|(id, _)| *id == leader)
            .unwrap()
    }

    /// Ends a node without a word to the others.
    pub(crate) async fn kill(&mut self, index: usize) {
        let node = self.nodes.remove(&index).unwrap();
        node.server.abort();
        let _ = node.server.await;
        node.consensus.shutdown().await;
    }

    /// Starts a node at its old address.
    pub(crate) async fn start_again(&mut self, index: usize) {
        let address = self.members[index].1.peer_address.clone();
        let mut listener = None;
        until("the old port is free", || async {
            TcpListener::bind(&address).await.is_ok()
        })
        .await;
        listener.replace(TcpListener::bind(&address).await.unwrap());
        self.run(index, listener.unwrap()).await;
    }

    pub(crate) async fn stop(mut self) {
        for node in std::mem::take(&mut self.nodes).into_values() {
            node.stop.cancel();
            node.consensus.shutdown().await;
            let _ = node.server.await;
        }
    }

    pub(crate) fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    pub(crate) fn has_snapshot(&self, index: usize) -> bool {
        let dir = self.node_dir(index).join("raft/snapshots");
        std::fs::read_dir(dir).unwrap().count() > 0
    }

    /// Overwrites the middle of every file of the applied state.
    pub(crate) fn damage_state(&self, index: usize) {
        let dir = self.node_dir(index).join("state/rows");
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let mut bytes = std::fs::read(&path).unwrap();
                let middle = bytes.len() / 4..bytes.len() * 3 / 4;
                bytes[middle].fill(0xa5);
                std::fs::write(&path, bytes).unwrap();
            }
        }
    }

    fn node_dir(&self, index: usize) -> PathBuf {
        self.dir.path().join(index.to_string())
    }
}

/// A command that sets one ref, and its key.
pub(crate) fn set_ref(uri: &str, value: u64) -> (RefKey, Command) {
    let key = RefKey::new(RefKind::Blob, "", uri, vec![]);
    let value = RefValue {
        digest: Digest::of(&value.to_be_bytes()),
        manifest: None,
        expire_at: None,
        pushed_at: 0,
    };
    let keys = vec![key.clone()];
    (key, Command::SetRefs { keys, value })
}

/// Looks again and again until it holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    let waiting = async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, waiting).await;
    assert!(waited.is_ok(), "still not so after {LIMIT:?}: {what}");
}
