//! A node: what survives its process, and its process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, task::AbortHandle};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::{
    network::{Listener, Network, address},
    world::World,
};
use crate::{
    ClusterId, NodeId,
    blob::memory_store::MemoryStore,
    journal::{
        JournalConfig,
        sim_disk::{Keep, SimDisk},
    },
    outside,
    peer::{
        Report, Start,
        client::GrpcPeers,
        identity::Removal,
        server::{PeerParts, PeerService},
    },
    placement::view,
    raft::{
        Applied, Barred, Consensus, LogConfig, LogStore, MemoryRows, RaftConfig, RaftConsensus,
        Setup,
    },
    repair::{Repair, RepairParts},
    replication::Replicated,
    state::{Command, Member, Response, Settings},
};

const CLUSTER: ClusterId = ClusterId(42);

/// Between looks of repair. Shorter than in earnest, so that runs are short.
const REPAIR_INTERVAL: Duration = Duration::from_secs(5);
/// Few entries, so that snapshots are made and sent, and segments removed.
const SNAPSHOT_ENTRIES: u64 = 80;
const SEGMENT_BYTES: u64 = 16 << 10;
const CACHE_BYTES: usize = 8 << 10;

/// What is on a node's disk.
#[derive(Clone)]
pub(super) struct Volume {
    disk: SimDisk,
    /// A cache: whole after a process has ended, gone after a power cut.
    rows: Applied,
    boots: Vec<u64>,
}

impl Volume {
    pub(super) fn new() -> Self {
        Self {
            disk: SimDisk::new(),
            rows: Applied::default(),
            boots: Vec::new(),
        }
    }

    /// The volume as it is now, or as a power cut leaves it.
    fn left(&self, rows: &MemoryRows, power_cut: bool) -> Self {
        let keep = match power_cut {
            true => Keep::Sampled(outside::random()),
            false => Keep::Everything,
        };
        Self {
            disk: self.disk.after_power_cut(self.disk.operations(), keep),
            rows: match power_cut {
                true => Applied::default(),
                false => rows.applied(),
            },
            boots: self.boots.clone(),
        }
    }
}

/// How a node begins.
pub(super) struct Identity {
    pub(super) number: usize,
    pub(super) id: NodeId,
    pub(super) member: Member,
    pub(super) founds: Option<Settings>,
    pub(super) store: MemoryStore,
}

/// A running process. Clones are the same.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) life: CancellationToken,
    pub(super) consensus: Arc<RaftConsensus>,
    pub(super) gateway: Replicated,
    announced: Arc<AtomicBool>,
    entered: Arc<AtomicBool>,
    barred: Arc<std::sync::Mutex<Option<Barred>>>,
    tasks: Arc<Vec<AbortHandle>>,
    volume: Volume,
    rows: Arc<MemoryRows>,
    _repair: Arc<Repair>,
}

/// Starts a process on a volume. An error says why the volume cannot be used.
pub(super) async fn start(
    identity: &Identity,
    mut volume: Volume,
    network: &Network,
    world: &World,
) -> Result<Process, String> {
    let (number, me) = (identity.number, identity.id);
    let life = CancellationToken::new();
    let (watching, watched) = (life.clone(), world.clone());
    let watcher = move |applied: &Applied| {
        // A process that has ended may still work a little.
        if !watching.is_cancelled() {
            watched.applied(number, applied);
        }
    };
    let rows = MemoryRows::new(volume.rows.clone(), Arc::new(watcher));
    let rows = Arc::new(rows);
    let log = LogConfig {
        journal: JournalConfig {
            segment_bytes: SEGMENT_BYTES,
            ..JournalConfig::new("log")
        },
        cache_bytes: CACHE_BYTES,
    };
    let log = LogStore::open(Arc::new(volume.disk.clone()), log);
    let log = log.map_err(|error| error.to_string())?;
    let removal = Removal::default();
    let dial = network.dial(number, life.clone());
    let setup = Setup {
        cluster: CLUSTER,
        me,
        config: RaftConfig {
            snapshot_entries: SNAPSHOT_ENTRIES,
            ..RaftConfig::default()
        },
        disk: Arc::new(volume.disk.clone()),
        state_dir: std::path::PathBuf::new(),
        dial: dial.clone(),
        removal: removal.clone(),
    };
    let consensus = RaftConsensus::start_simulated(setup, Arc::clone(&rows), log).await;
    let consensus = consensus.map_err(|error| error.to_string())?;
    let view = view::watch(me, consensus.state());
    let peers = GrpcPeers::new(me, consensus.state(), dial).listening(removal);
    let peers = Arc::new(peers);
    let store = Arc::new(identity.store.clone());
    let gateway = Replicated::new(
        me,
        Arc::clone(&store) as _,
        Arc::clone(&peers) as _,
        view.clone(),
    );
    let (offered, offers) = mpsc::channel(64);
    let repair = Repair::start(RepairParts {
        me,
        local: Arc::clone(&store) as _,
        peers,
        consensus: Arc::clone(&consensus) as _,
        view: view.clone(),
        offers,
        lacking: gateway.take_lacking().expect("nobody else takes them"),
        foreground: gateway.foreground(),
        interval: REPAIR_INTERVAL,
    });
    let checking = Arc::clone(&consensus);
    let peer = PeerService::new(PeerParts {
        cluster: CLUSTER,
        me,
        local: store,
        view,
        report: Arc::new(Report::default),
        offered,
        check_in: Arc::new(move |node, start| checking.check_in(node, start)),
        scrub: Arc::new(|| {}),
        foreground: gateway.foreground(),
    });
    let services = Routes::new(peer.into_server()).add_service(consensus.service());
    let listener = Listener {
        services: services.prepare(),
        life: life.clone(),
    };
    network.listen(number, listener);
    let begun = Start {
        boot: outside::random::<u64>().max(1),
        known_boots: volume.boots.clone(),
        last_log_index: 0,
    };
    volume.boots.push(begun.boot);
    let (leading, leads) = (Arc::clone(&consensus), world.clone());
    let (watching, of) = (life.clone(), number);
    let leading = tokio::spawn(async move {
        let told = |term| {
            if !watching.is_cancelled() {
                leads.leads(of, term);
            }
        };
        leading.tell_terms_led(told).await;
    });
    let (announced, entered) = (Arc::default(), Arc::default());
    let barred = Arc::default();
    let taking_part = tokio::spawn(take_part(
        Arc::clone(&consensus),
        (me, identity.member.clone(), identity.founds.clone()),
        begun,
        Arc::clone(&entered),
        Arc::clone(&announced),
        Arc::clone(&barred),
    ));
    world.trace(format_args!("node {number} starts"));
    let tasks = [leading, taking_part];
    Ok(Process {
        life,
        consensus,
        gateway,
        announced,
        entered,
        barred,
        tasks: Arc::new(tasks.iter().map(|task| task.abort_handle()).collect()),
        volume,
        rows,
        _repair: Arc::new(repair),
    })
}

impl Process {
    /// Whether the cluster knows of its start.
    pub(super) fn has_announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }

    /// Whether it takes part in Raft.
    pub(super) fn has_entered(&self) -> bool {
        self.entered.load(Ordering::Relaxed)
    }

    /// Why it may not take part.
    pub(super) fn barred(&self) -> Option<Barred> {
        let barred = self.barred.lock();
        barred.ok().and_then(|barred| barred.clone())
    }

    /// A copy of its volume as it is now.
    pub(super) fn copy_volume(&self) -> Volume {
        self.volume.left(&self.rows, false)
    }

    /// Ends it, and gives the volume that it leaves. What it has in memory goes
    /// on for a moment, cut off from disk and network.
    pub(super) fn end(self, power_cut: bool) -> Volume {
        self.life.cancel();
        let left = self.volume.left(&self.rows, power_cut);
        for task in &*self.tasks {
            task.abort();
        }
        tokio::spawn(async move { self.consensus.shutdown().await });
        left
    }
}

/// What a node does beside Raft: checks in, founds, announces itself, and
/// listens whether it was removed.
async fn take_part(
    consensus: Arc<RaftConsensus>,
    (id, member, founds): (NodeId, Member, Option<Settings>),
    start: Start,
    entered: Arc<AtomicBool>,
    announced: Arc<AtomicBool>,
    barred: Arc<std::sync::Mutex<Option<Barred>>>,
) {
    let bar = |why: Barred| {
        if let Ok(mut barred) = barred.lock() {
            *barred = Some(why);
        }
    };
    if let Err(why) = consensus.arrive(&start).await {
        return bar(why);
    }
    entered.store(true, Ordering::Relaxed);
    let announcing = async {
        if let Some(settings) = founds {
            while consensus
                .found(settings.clone(), member.clone())
                .await
                .is_err()
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        let command = Command::Announce {
            id,
            peer_address: address_of(&member),
            client_address: member.client_address.clone(),
            admin_address: member.admin_address.clone(),
            boot: start.boot,
            known_boots: start.known_boots.clone(),
        };
        loop {
            match consensus.propose(command.clone()).await {
                Ok(Response::Done { .. }) => break,
                Ok(Response::Refused { reason })
                    if consensus.state().borrow().removed.contains(&id) =>
                {
                    let _ = reason;
                    return Barred::Removed { node: id };
                }
                Ok(Response::Refused { reason }) => {
                    return Barred::Outdated {
                        node: id,
                        why: reason,
                    };
                }
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        announced.store(true, Ordering::Relaxed);
        std::future::pending().await
    };
    let why = tokio::select! {
        why = announcing => why,
        why = consensus.expelled(&start) => why,
    };
    bar(why);
}

fn address_of(member: &Member) -> String {
    member.peer_address.clone()
}

/// The row of the node table of a node.
pub(super) fn member(number: usize, zone: usize) -> Member {
    let mut member = crate::state::tests::member(&format!("n{number}"), &format!("z{zone}"));
    member.peer_address = address(number);
    member
}
