//! A cluster of Raft nodes in one process, over real connections.

mod slow_link;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use rand::{SeedableRng, rngs::SmallRng};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};
use weir_cluster::{
    ClusterId, Digest, NodeId,
    blob::memory_store::MemoryStore,
    journal::disk::{Disk, RealDisk},
    peer::{
        Report, Start,
        dial::{Dial, plain},
        server::{PeerParts, PeerService},
    },
    placement::view,
    raft::{Barred, Consensus, RaftConfig, RaftConsensus, Setup},
    state::{Command, Member, MemberStatus, RefKey, RefKind, RefValue, Response, Settings},
};

const CLUSTER: ClusterId = ClusterId(42);

/// How long anything may take in the end: far more than it does.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    dir: TempDir,
    config: RaftConfig,
    /// Of the links between nodes, each way.
    delay: Duration,
    dials: Arc<AtomicUsize>,
    initial_nodes: u32,
    nodes: BTreeMap<usize, Node>,
    members: Vec<(NodeId, Member)>,
}

struct Node {
    consensus: Arc<RaftConsensus>,
    /// Whether it has checked in and said so.
    announced: Arc<AtomicBool>,
    /// Ends when it may not take part any more.
    taking_part: JoinHandle<Barred>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Cluster {
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, 10_000).await
    }

    /// A first node, and others that join it.
    pub(crate) async fn start_with(count: usize, snapshot_entries: u64) -> Self {
        let config = RaftConfig {
            snapshot_entries,
            ..RaftConfig::default()
        };
        Self::start_over(count, config, Duration::ZERO).await
    }

    /// The same over links that take `delay` each way.
    pub(crate) async fn start_over(count: usize, config: RaftConfig, delay: Duration) -> Self {
        let mut cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            config,
            delay,
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
        let (index, listener) = self.new_member().await;
        let (id, member) = self.members[index].clone();
        if index > 0 {
            let command = Command::AddMember {
                id,
                member: member.clone(),
            };
            self.agree(command).await;
        }
        self.run(index, listener).await;
        if index == 0 {
            let settings = Settings {
                initial_nodes: self.initial_nodes,
                ..Settings::default()
            };
            self.node(0).found(settings, member).await.unwrap();
        }
    }

    /// Adds a node in the place of another, of the same name.
    pub(crate) async fn replace(&mut self, old: usize) -> usize {
        let (index, listener) = self.new_member().await;
        let name = self.members[old].1.name.clone();
        self.members[index].1.name = name;
        let (id, member) = self.members[index].clone();
        let old = self.id(old);
        self.agree(Command::Replace { old, id, member }).await;
        self.run(index, listener).await;
        index
    }

    /// Has a command done, through any node that runs.
    pub(crate) async fn agree(&self, command: Command) {
        let node = self.nodes().next().unwrap();
        let answer = node.propose(command).await.unwrap();
        assert!(matches!(answer, Response::Done { .. }), "{answer:?}");
    }

    async fn new_member(&mut self) -> (usize, TcpListener) {
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
        self.members.push((id, member));
        (index, listener)
    }

    async fn run(&mut self, index: usize, listener: TcpListener) {
        let root = self.node_dir(index);
        std::fs::create_dir_all(root.join("raft")).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(root.join("raft")));
        let dials = Arc::clone(&self.dials);
        let delay = self.delay;
        let dial: Dial = Arc::new(move |address| {
            dials.fetch_add(1, Ordering::SeqCst);
            async move {
                if delay.is_zero() {
                    return plain()(address).await;
                }
                let address = slow_link::slow(address, delay).await;
                plain()(address.map_err(|error| error.to_string())?).await
            }
            .boxed()
        });
        let setup = Setup {
            cluster: CLUSTER,
            me: self.members[index].0,
            config: self.config.clone(),
            disk: Arc::clone(&disk),
            state_dir: root.join("state"),
            dial,
            removal: Default::default(),
        };
        let log = weir_cluster::raft::LogStore::open(disk, Default::default()).unwrap();
        let consensus = RaftConsensus::start(setup, log).await.unwrap();
        let checking = Arc::clone(&consensus);
        let me = self.members[index].0;
        let peer = PeerService::new(PeerParts {
            cluster: CLUSTER,
            me,
            local: Arc::new(MemoryStore::new()),
            view: view::watch(me, consensus.state()),
            report: Arc::new(Report::default),
            offered: mpsc::channel(1).0,
            check_in: Arc::new(move |node, start| checking.check_in(node, start)),
            scrub: Arc::new(|| {}),
            foreground: Default::default(),
        });
        let announced = Arc::new(AtomicBool::new(false));
        let taking_part = tokio::spawn(take_part(
            Arc::clone(&consensus),
            self.members[index].clone(),
            begin_boot(&root),
            Arc::clone(&announced),
        ));
        let stop = CancellationToken::new();
        let server = Server::builder()
            .add_service(peer.into_server())
            .add_service(consensus.service())
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                stop.clone().cancelled_owned(),
            );
        let server = tokio::spawn(async move { server.await.unwrap() });
        let node = Node {
            consensus,
            announced,
            taking_part,
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
        node.taking_part.abort();
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
            node.taking_part.abort();
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

    pub(crate) fn id(&self, index: usize) -> NodeId {
        self.members[index].0
    }

    pub(crate) fn address(&self, index: usize) -> String {
        self.members[index].1.peer_address.clone()
    }

    /// Whether a node has checked in and the cluster knows of its start.
    pub(crate) fn has_announced(&self, index: usize) -> bool {
        self.nodes[&index].announced.load(Ordering::SeqCst)
    }

    pub(crate) async fn announced(&self, index: usize) {
        until("the node has checked in", || async {
            self.has_announced(index)
        })
        .await;
    }

    /// Why a node may not take part, once it has heard so.
    pub(crate) async fn barred(&mut self, index: usize) -> Barred {
        let taking_part = &mut self.nodes.get_mut(&index).unwrap().taking_part;
        let barred = tokio::time::timeout(LIMIT, taking_part).await;
        barred.expect("the node may still take part").unwrap()
    }

    /// Copies a node's directory, as it is now.
    pub(crate) fn copy_dir(&self, index: usize) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_files(&self.node_dir(index), copy.path());
        copy
    }

    /// Puts a copy of its directory in the place of a node's directory.
    pub(crate) fn restore_dir(&self, index: usize, copy: &TempDir) {
        fs::remove_dir_all(self.node_dir(index)).unwrap();
        copy_files(copy.path(), &self.node_dir(index));
    }

    fn node_dir(&self, index: usize) -> PathBuf {
        self.dir.path().join(index.to_string())
    }
}

/// What a node does beside Raft: checks in, announces itself, and listens
/// whether it was removed.
async fn take_part(
    consensus: Arc<RaftConsensus>,
    (id, member): (NodeId, Member),
    start: Start,
    announced: Arc<AtomicBool>,
) -> Barred {
    if let Err(barred) = consensus.arrive(&start).await {
        return barred;
    }
    let command = Command::Announce {
        id,
        peer_address: member.peer_address,
        client_address: member.client_address,
        admin_address: member.admin_address,
        boot: start.boot,
        known_boots: start.known_boots.clone(),
    };
    loop {
        match consensus.propose(command.clone()).await {
            Ok(Response::Done { .. }) => break,
            // The first node is not in the table before it has founded the cluster.
            other => tracing::debug!(?other, "not announced yet"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    announced.store(true, Ordering::SeqCst);
    consensus.expelled(&start).await
}

/// Writes the next start down beside those before it.
fn begin_boot(root: &Path) -> Start {
    let file = root.join("boots");
    let text = fs::read_to_string(&file).unwrap_or_default();
    let boot = rand::random::<u64>().max(1);
    fs::write(&file, format!("{text}{boot}\n")).unwrap();
    Start {
        boot,
        known_boots: text.lines().map(|line| line.parse().unwrap()).collect(),
        last_log_index: 0,
    }
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_files(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
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
