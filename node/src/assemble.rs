//! The whole stack of a node, written out.
//!
//! ```text
//!   client port      api ──────────────┬──► Replicated ──┬──► LocalStore
//!                                      │                 └──► GrpcPeers ⇢ other nodes
//!                                      └──► RaftConsensus ⇢ other nodes
//!   peer port        PeerService ──► LocalStore       Raft ──► RaftConsensus
//!   admin port       admin ──► RaftConsensus, View, GrpcPeers, LocalStore
//! ```

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{info, warn};
use weir_cluster::{
    NodeId,
    blob::BlobStore,
    journal::{
        JournalError,
        disk::{Disk, RealDisk},
        reserve::ReservedDisk,
    },
    peer::{
        Peers,
        client::GrpcPeers,
        dial::plain,
        identity::Removal,
        server::{PeerParts, PeerService, ReportSource, ScrubTrigger},
    },
    placement::view,
    raft::{Barred, Consensus, LogStore, RaftConsensus, Setup, StartError},
    replication::Replicated,
    state::{Command, Member, MemberStatus, Response},
};

use crate::{
    admin::{Admin, AdminParts},
    api::{self, ApiParts},
    config::{AdvertiseConfig, Config},
    data_dir::{Boots, DataDir, Identity, Origin},
    store::LocalStore,
    upkeep::{self, UpkeepParts},
};

/// Before a node tells its address again to a cluster without a leader.
const ANNOUNCE_RETRY: Duration = Duration::from_secs(1);

/// How often the room kept for Raft is looked after.
const REFILL_INTERVAL: Duration = Duration::from_secs(10);

/// A running node, without its sockets.
pub struct Node {
    identity: Identity,
    member: Member,
    store: Arc<LocalStore>,
    consensus: Arc<RaftConsensus>,
    health: HealthReporter,
}

/// What each listener serves.
pub struct NodeRoutes {
    pub client: Routes,
    pub peer: Routes,
    pub admin: Routes,
}

impl Node {
    /// Opens what is on disk and puts the parts together. Nothing is served and
    /// no other node is waited for.
    pub async fn start(
        config: &Config,
        data: &DataDir,
    ) -> anyhow::Result<(Self, NodeRoutes, Boots)> {
        let identity = data.identity().clone();
        let (cluster, me) = (identity.cluster, identity.node);
        let member = member(config);

        // First, since it makes room on a full disk.
        let raft_dir = data.subfolder("raft")?;
        let (raft, log) = open_raft(&raft_dir, &identity.name).await?;
        tokio::spawn(keep_reserve(raft.clone()));
        let boots = data.begin_boot()?;

        let blobs = disk(&data.subfolder("blobs")?);
        let store_config = config.store.clone();
        let opening = move || LocalStore::open(store_config, blobs);
        let store = tokio::task::spawn_blocking(opening)
            .await?
            .context("cannot open the blob store")?;

        let removal = Removal::default();
        let setup = Setup {
            cluster,
            me,
            config: config.raft.clone(),
            disk: Arc::new(raft.clone()),
            state_dir: data.subfolder("state")?,
            dial: plain(),
            removal: removal.clone(),
        };
        let started = RaftConsensus::start(setup, log).await;
        let consensus = started.map_err(|error| cannot_take_part(error, &identity.name))?;

        let view = view::watch(me, consensus.state());
        let peers = GrpcPeers::new(me, consensus.state(), plain()).listening(removal);
        let peers: Arc<dyn Peers> = Arc::new(peers);
        let local: Arc<dyn BlobStore> = Arc::clone(&store) as _;
        let replicated = Replicated::new(me, local, Arc::clone(&peers), view.clone());
        let parts = UpkeepParts {
            me,
            store: Arc::clone(&store),
            peers: Arc::clone(&peers),
            consensus: Arc::clone(&consensus) as _,
            view: view.clone(),
        };
        let (repair, offered) = upkeep::start(parts, &replicated);
        let foreground = replicated.foreground();
        let api = api::services(ApiParts {
            store: Arc::new(replicated),
            consensus: Arc::clone(&consensus) as _,
            config: config.api.clone(),
        })
        .await?;

        let comparing = Arc::clone(&repair);
        let reporting = Arc::clone(&store);
        let report: ReportSource = Arc::new(move || {
            let mut report = reporting.report();
            report.repair = repair.report();
            let lacking = raft.lacking();
            if lacking > 0 && report.volume == "ok" {
                let mib = lacking >> 20;
                report.volume = format!("full: {mib} MiB kept for raft are in use or lacking");
            }
            report
        });
        let scrubbing = Arc::clone(&store);
        let scrub: ScrubTrigger = Arc::new(move || {
            scrubbing.scrub_now();
            comparing.wake();
        });
        let checking = Arc::clone(&consensus);
        let peer = PeerService::new(PeerParts {
            cluster,
            me,
            local: Arc::clone(&store) as _,
            view: view.clone(),
            report: Arc::clone(&report),
            offered,
            check_in: Arc::new(move |node, start| checking.check_in(node, start)),
            scrub: Arc::clone(&scrub),
            foreground,
        });
        let admin = Admin::start(AdminParts {
            me,
            cluster,
            consensus: Arc::clone(&consensus) as _,
            view,
            peers,
            report,
            scrub,
        });
        let routes = NodeRoutes {
            client: api.routes,
            peer: Routes::new(peer.into_server()).add_service(consensus.service()),
            admin: admin.routes(),
        };
        let node = Self {
            identity,
            member,
            store,
            consensus,
            health: api.health,
        };
        Ok((node, routes, boots))
    }

    /// Begins to take part in the cluster, in the background: checks in, founds
    /// the cluster if it is to, and announces this start. What is returned ends
    /// when this node may not take part, or no longer.
    pub fn take_part(&self, boots: Boots) -> JoinHandle<anyhow::Error> {
        let consensus = Arc::clone(&self.consensus);
        let (identity, member) = (self.identity.clone(), self.member.clone());
        tokio::spawn(async move {
            let start = boots.start().clone();
            if let Err(barred) = consensus.arrive(&start).await {
                return barred.into();
            }
            let founding_and_announcing = async {
                if let Origin::Founder { settings } = identity.origin {
                    while let Err(error) = consensus.found(settings.clone(), member.clone()).await {
                        info!(%error, "the cluster is not founded yet");
                        tokio::time::sleep(ANNOUNCE_RETRY).await;
                    }
                }
                announce(&consensus, identity.node, &member, boots).await
            };
            tokio::select! {
                error = founding_and_announcing => error,
                barred = consensus.expelled(&start) => barred.into(),
            }
        })
    }

    /// Tells clients and the other nodes that this node goes.
    pub async fn leave(&self) {
        let gone = ServingStatus::NotServing;
        self.health.set_service_status("", gone).await;
        self.consensus.hand_over().await;
    }

    /// Stops taking part in Raft.
    pub async fn stop_agreement(&self) {
        self.consensus.shutdown().await;
    }

    /// Closes what is on disk.
    pub async fn close(self) -> anyhow::Result<()> {
        let store = self.store;
        tokio::task::spawn_blocking(move || store.close()).await?;
        Ok(())
    }
}

fn disk(root: &Path) -> Arc<dyn Disk> {
    Arc::new(RealDisk::new(root))
}

/// Opens what Raft must not lose. Damage is an error that says what to do.
async fn open_raft(dir: &Path, name: &str) -> anyhow::Result<(ReservedDisk, LogStore)> {
    let plain = disk(dir);
    let opening = move || -> anyhow::Result<_> {
        let disk = ReservedDisk::open(plain, ReservedDisk::DEFAULT_BYTES)
            .context("cannot keep room for Raft")?;
        let log = LogStore::open(Arc::new(disk.clone()), Default::default())?;
        Ok((disk, log))
    };
    let opened = tokio::task::spawn_blocking(opening).await?;
    opened.map_err(|error| {
        let damaged = matches!(error.downcast_ref(), Some(JournalError::Damaged { .. }));
        let what = format!("cannot open the Raft journal in {}", dir.display());
        if !damaged {
            return error.context(what);
        }
        anyhow!("{what}: {error}. {}", rejoin(name))
    })
}

/// What to do with a node whose part of what was agreed is damaged.
fn rejoin(name: &str) -> String {
    format!(
        "Do this: run `weir node remove --dead {name}` on another node of the cluster, choose an \
         empty folder as node.data, and run `weir join`. The other nodes have all that was agreed, \
         and this one gets its blobs from them"
    )
}

/// Why Raft did not start: settings and threads are mended in place; what is
/// damaged on disk, a snapshot and the state that it would restore, is not.
fn cannot_take_part(error: StartError, name: &str) -> anyhow::Error {
    match error {
        StartError::Config(_) | StartError::Threads(_) => error.into(),
        damaged => anyhow!(
            "what was agreed cannot be read back from this node's disk. {}: {:#}",
            rejoin(name),
            anyhow::Error::from(damaged)
        ),
    }
}

/// Takes the room kept for Raft back when there is some again.
async fn keep_reserve(raft: ReservedDisk) {
    loop {
        tokio::time::sleep(REFILL_INTERVAL).await;
        let raft = raft.clone();
        // It blocks for one call to the file system.
        if tokio::task::spawn_blocking(move || raft.refill())
            .await
            .is_err()
        {
            return;
        }
    }
}

/// This node's row of the node table.
fn member(config: &Config) -> Member {
    let (node, told, listen) = (&config.node, &config.advertise, &config.listen);
    let address = AdvertiseConfig::address;
    Member {
        name: node.name.clone(),
        zone: node.zone.clone(),
        host: node.host.clone(),
        weight: node.weight,
        peer_address: address(told.peer.as_ref(), listen.peer, &node.host),
        client_address: address(told.client.as_ref(), listen.client, &node.host),
        admin_address: address(told.admin.as_ref(), listen.admin, &node.host),
        status: MemberStatus::Joining,
        boot: 0,
    }
}

/// Tells the cluster that this node has started, and where it is reached.
/// Ends only if that is refused: the node may not take part.
async fn announce(
    consensus: &RaftConsensus,
    me: NodeId,
    member: &Member,
    mut boots: Boots,
) -> anyhow::Error {
    let command = Command::Announce {
        id: me,
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
        admin_address: member.admin_address.clone(),
        boot: boots.start().boot,
        known_boots: boots.start().known_boots.clone(),
    };
    // Not after a barrier: where the leader does not know this node's address
    // yet, nothing new is applied here before it has been told.
    let refusal = loop {
        match consensus.propose(command.clone()).await {
            Ok(Response::Done { .. }) => break None,
            Ok(Response::Refused { reason }) => break Some(reason),
            Err(error) => info!(%error, "the cluster does not know of this start yet"),
        }
        tokio::time::sleep(ANNOUNCE_RETRY).await;
    };
    if let Some(why) = refusal {
        if consensus.state().borrow().removed.contains(&me) {
            return Barred::Removed { node: me }.into();
        }
        return Barred::Outdated { node: me, why }.into();
    }
    info!("the cluster knows of this start and this node's addresses");
    if let Some(known) = consensus.state().borrow().members.get(&me)
        && (known.zone != member.zone || known.host != member.host || known.weight != member.weight)
    {
        warn!("zone, host or weight in weir.toml differ from the node table, which counts");
    }
    // A mark that is not written costs nothing but memory of older starts.
    let marked = tokio::task::spawn_blocking(move || boots.announced()).await;
    if let Ok(Err(error)) = marked {
        warn!(%error, "cannot take down that this start is known");
    }
    std::future::pending().await
}
