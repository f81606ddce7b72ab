//! The nodes of a run, their phases, and what must hold in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{Rng, seq::IteratorRandom};
use tokio::time::{Instant, sleep, timeout};

use super::{
    clients::ref_key,
    network::Network,
    node::{self, Identity, Process, Volume},
    world::World,
};
use crate::{
    Digest, Error, NodeId,
    blob::{BlobStore, ByteRange, collect, memory_store::MemoryStore},
    outside,
    placement::view::View,
    raft::{Barred, Consensus},
    state::{ClusterState, Command, MemberStatus, Response, Settings},
};

/// How long a cluster without faults may take to be whole.
const PATIENCE: Duration = Duration::from_secs(300);
const ZONES: usize = 3;

/// A cluster. Clones are the same.
#[derive(Clone)]
pub(super) struct Cluster {
    world: World,
    pub(super) network: Network,
    // A std mutex: never held across an await.
    nodes: Arc<Mutex<BTreeMap<usize, Node>>>,
}

pub(super) struct Node {
    pub(super) identity: Arc<Identity>,
    /// What it leaves while no process runs.
    volume: Option<Volume>,
    process: Option<Process>,
    /// It was removed, or its volume is lost: it does not come back.
    pub(super) gone: bool,
    /// It may be told that it was removed.
    may_go: bool,
}

impl Cluster {
    pub(super) fn new() -> Self {
        let world = World::new();
        Self {
            network: Network::new(world.clone()),
            world,
            nodes: Arc::default(),
        }
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    pub(super) fn nodes(&self) -> MutexGuard<'_, BTreeMap<usize, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Founds the cluster with so many nodes and waits until it is whole.
    pub(super) async fn begin(&self, count: usize) {
        let settings = Settings {
            replicas: 3,
            write_quorum: 2,
            initial_nodes: count as u32,
            ..Settings::default()
        };
        let first = self.add(Some(settings));
        self.start(first).await;
        // Before it is founded, nobody can be entered in the node table.
        let founded = || {
            self.process(first)
                .is_some_and(|process| process.has_announced())
        };
        if !within(PATIENCE, founded).await {
            return self.world.violation("the cluster is not founded".into());
        }
        for _ in 1..count {
            let number = self.add(None);
            self.agree(self.joining(number)).await;
            self.start(number).await;
        }
        self.converge().await;
    }

    /// A new node with an empty volume.
    pub(super) fn add(&self, founds: Option<Settings>) -> usize {
        let mut nodes = self.nodes();
        let number = nodes.len();
        let identity = Identity {
            number,
            id: NodeId::mint(&mut outside::rng()),
            member: node::member(number, number % ZONES),
            founds,
            store: MemoryStore::new(),
        };
        let node = Node {
            identity: Arc::new(identity),
            volume: Some(Volume::new()),
            process: None,
            gone: false,
            may_go: false,
        };
        nodes.insert(number, node);
        number
    }

    pub(super) fn joining(&self, number: usize) -> Command {
        let identity = &self.nodes()[&number].identity;
        let (id, member) = (identity.id, identity.member.clone());
        Command::AddMember { id, member }
    }

    /// A node is about to be removed.
    pub(super) fn expect_to_go(&self, number: usize) {
        if let Some(node) = self.nodes().get_mut(&number) {
            node.may_go = true;
        }
    }

    /// Starts a node's process, unless it runs or is gone.
    pub(super) async fn start(&self, number: usize) {
        let (identity, volume) = {
            let mut nodes = self.nodes();
            let Some(node) = nodes.get_mut(&number).filter(|node| !node.gone) else {
                return;
            };
            let Some(volume) = node.volume.take() else {
                return;
            };
            (Arc::clone(&node.identity), volume)
        };
        match node::start(&identity, volume, &self.network, &self.world).await {
            Ok(process) => {
                if let Some(node) = self.nodes().get_mut(&number) {
                    node.process = Some(process);
                }
            }
            Err(why) => self
                .world
                .violation(format!("node {number} cannot start: {why}")),
        }
    }

    /// Starts a process of a node on another volume than its own.
    pub(super) async fn start_copy(&self, number: usize, volume: Volume) -> Option<Process> {
        let identity = Arc::clone(&self.nodes()[&number].identity);
        let started = node::start(&identity, volume, &self.network, &self.world).await;
        started.ok()
    }

    /// Ends a node's process, with or without its power.
    pub(super) fn end(&self, number: usize, power_cut: bool) {
        let mut nodes = self.nodes();
        let Some(node) = nodes.get_mut(&number) else {
            return;
        };
        let Some(process) = node.process.take() else {
            return;
        };
        match power_cut {
            true => self.network.darken(number),
            false => self.network.close(number),
        }
        node.volume = Some(process.end(power_cut));
        let how = if power_cut {
            "loses power"
        } else {
            "is killed"
        };
        self.world.trace(format_args!("node {number} {how}"));
    }

    /// Ends a node for ever.
    pub(super) fn retire(&self, number: usize) {
        self.end(number, false);
        if let Some(node) = self.nodes().get_mut(&number) {
            node.gone = true;
            node.volume = None;
        }
    }

    /// Lets go of everything: processes know the network, and it knows them.
    pub(super) fn forget(&self) {
        let nodes = std::mem::take(&mut *self.nodes());
        self.network.forget();
        drop(nodes);
    }

    /// Numbers of the nodes whose process runs.
    pub(super) fn running(&self) -> Vec<usize> {
        let nodes = self.nodes();
        let running = nodes.iter().filter(|(_, node)| node.process.is_some());
        running.map(|(number, _)| *number).collect()
    }

    pub(super) fn ended(&self) -> Vec<usize> {
        let nodes = self.nodes();
        let ended = nodes
            .iter()
            .filter(|(_, node)| node.process.is_none() && !node.gone);
        ended.map(|(number, _)| *number).collect()
    }

    pub(super) fn process(&self, number: usize) -> Option<Process> {
        self.nodes().get(&number)?.process.clone()
    }

    /// One that runs, drawn.
    pub(super) fn any(&self) -> Option<(usize, Process)> {
        let number = self.running().into_iter().choose(&mut outside::rng())?;
        Some((number, self.process(number)?))
    }

    /// The agreed state as the node knows it that has applied most.
    pub(super) fn state(&self) -> Arc<ClusterState> {
        let running = self.running();
        let processes = running.iter().filter_map(|number| self.process(*number));
        let most = processes.max_by_key(|process| process.consensus.roles().last_applied);
        most.map(|process| process.consensus.state().borrow().clone())
            .unwrap_or_default()
    }

    /// Has a command done, through any node; why not if it is refused.
    pub(super) async fn try_agree(&self, command: Command) -> Result<(), String> {
        loop {
            if let Some((_, process)) = self.any() {
                let proposing = process.consensus.propose(command.clone());
                let answer = tokio::select! {
                    biased;
                    () = process.life.cancelled() => None,
                    answer = proposing => answer.ok(),
                };
                match answer {
                    Some(Response::Done { .. }) => return Ok(()),
                    Some(Response::Refused { reason }) => return Err(reason),
                    None => {}
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub(super) async fn agree(&self, command: Command) {
        if let Err(reason) = self.try_agree(command.clone()).await {
            self.world
                .violation(format!("{command:?} is refused: {reason}"));
        }
    }

    /// Ends every fault, and starts what has ended.
    pub(super) async fn heal(&self) {
        self.world.trace(format_args!("all is healed"));
        self.network.heal();
        for number in self.ended() {
            self.start(number).await;
        }
    }

    /// Waits until all that was agreed is done, and each blob on its owners.
    pub(super) async fn converge(&self) {
        let begun = Instant::now();
        loop {
            self.look_at_barred();
            let open = self.unfinished();
            if open.is_empty() {
                let took = begun.elapsed().as_millis();
                self.world.trace(format_args!("whole after {took} ms"));
                return;
            }
            if begun.elapsed() > PATIENCE || !self.world.is_good() {
                let open = open.join("; ");
                return self
                    .world
                    .violation(format!("not whole after {PATIENCE:?}: {open}"));
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// Who was told that it may not take part has to have been removed.
    pub(super) fn look_at_barred(&self) {
        for number in self.running() {
            let Some(barred) = self.process(number).and_then(|process| process.barred()) else {
                continue;
            };
            let may_go = self.nodes()[&number].may_go;
            match barred {
                Barred::Removed { .. } if may_go => self.retire(number),
                barred => self.world.violation(format!("node {number}: {barred}")),
            }
        }
    }

    fn unfinished(&self) -> Vec<String> {
        let mut open = Vec::new();
        let state = self.state();
        let view = View::from_state(NodeId(0), &state, self.any_view().as_deref());
        if state.epochs.len() != 1 {
            open.push(format!("{} epochs", state.epochs.len()));
        }
        let blobs: BTreeSet<Digest> = self.world.record().blobs.iter().copied().collect();
        let mut leaders = BTreeSet::new();
        let nodes = self.nodes();
        for (id, member) in &state.members {
            let name = &member.name;
            if member.status != MemberStatus::Active {
                open.push(format!("{name} is {:?}", member.status));
            }
            let node = nodes.values().find(|node| node.identity.id == *id);
            let Some(process) = node.and_then(|node| node.process.as_ref()) else {
                open.push(format!("{name} does not run"));
                continue;
            };
            if !process.has_announced() {
                open.push(format!("{name} is not announced"));
            }
            let roles = process.consensus.roles();
            leaders.insert(roles.leader);
            let store = &node.expect("it has a process").identity.store;
            let held: BTreeSet<Digest> = store.digests().into_iter().collect();
            let lacks = blobs
                .iter()
                .filter(|b| view.owns(*id, **b) && !held.contains(b))
                .count();
            let surplus = held.iter().filter(|b| !view.owns(*id, **b)).count();
            if lacks + surplus > 0 {
                open.push(format!("{name} lacks {lacks} and has {surplus} too many"));
            }
        }
        if leaders.len() != 1 || leaders.contains(&None) {
            open.push(format!("leaders {leaders:?}"));
        }
        open
    }

    fn any_view(&self) -> Option<Arc<View>> {
        let running = self.running();
        let views = running
            .iter()
            .filter_map(|number| Some(self.process(*number)?.gateway.view()));
        views.max_by_key(|view| view.epoch())
    }

    /// Reads all that was acknowledged through every node.
    pub(super) async fn read_all(&self) {
        let blobs = self.world.record().blobs.clone();
        let keys = self.world.record().history.keys();
        for number in self.running() {
            let Some(process) = self.process(number) else {
                continue;
            };
            for digest in &blobs {
                if let Err(error) = read_blob(&process, *digest).await {
                    let what = format!("blob {digest} cannot be read through node {number}");
                    self.world.violation(format!("{what}: {error}"));
                }
            }
            for key in &keys {
                let begun = self.world.record().history.read_begins();
                let read = async {
                    process.consensus.barrier().await?;
                    process.consensus.applied_ref(&ref_key(*key))
                };
                match read.await {
                    Ok(seen) => {
                        let seen = seen.map(|seen| (seen.revision, seen.value.pushed_at));
                        self.world.record().history.read(*key, begun, seen);
                    }
                    Err(error) => self.world.violation(format!(
                        "ref {key} cannot be read through {number}: {error}"
                    )),
                }
            }
        }
    }
}

/// Reads a blob through a node's gateway.
pub(super) async fn read_blob(process: &Process, digest: Digest) -> Result<(), Error> {
    let stream = process.gateway.get(digest, ByteRange::ALL).await?;
    let bytes = collect(stream).await?;
    if Digest::of(&bytes) != digest {
        return Err(Error::Corrupt(digest));
    }
    Ok(())
}

/// Waits for something, but not for ever.
pub(super) async fn within(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(limit, waiting).await.is_ok()
}

/// A pause of about so many milliseconds.
pub(super) async fn pause(millis: std::ops::Range<u64>) {
    let millis = outside::rng().random_range(millis);
    sleep(Duration::from_millis(millis)).await;
}
