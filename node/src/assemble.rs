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

use anyhow::Context;
use tokio::sync::mpsc;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{info, warn};
use weir_cluster::{
    NodeId,
    blob::BlobStore,
    journal::disk::{Disk, RealDisk},
    membership::check_in,
    peer::{
        Peers,
        client::GrpcPeers,
        dial::plain,
        server::{PeerParts, PeerService, ReportSource, ScrubTrigger},
    },
    placement::view,
    raft::{Consensus, LogStore, RaftConsensus, Setup},
    replication::Replicated,
    state::{Command, Member, MemberStatus},
};

use crate::{
    admin::{Admin, AdminParts},
    api::{self, ApiParts},
    config::{AdvertiseConfig, Config},
    data_dir::{DataDir, Identity, Origin},
    store::LocalStore,
};

/// Before a node tells its address again to a cluster without a leader.
const ANNOUNCE_RETRY: Duration = Duration::from_secs(1);

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
    pub async fn start(config: &Config, data: &DataDir) -> anyhow::Result<(Self, NodeRoutes)> {
        let identity = data.identity().clone();
        let (cluster, me) = (identity.cluster, identity.node);
        let member = member(config);

        let blobs = disk(&data.subfolder("blobs")?);
        let store_config = config.store.clone();
        let opening = move || LocalStore::open(store_config, blobs);
        let store = tokio::task::spawn_blocking(opening)
            .await?
            .context("cannot open the blob store")?;

        let raft = disk(&data.subfolder("raft")?);
        let journal = Arc::clone(&raft);
        let log = tokio::task::spawn_blocking(move || LogStore::open(journal, Default::default()))
            .await?
            .context("cannot open the Raft journal")?;
        let setup = Setup {
            cluster,
            me,
            config: config.raft.clone(),
            disk: raft,
            state_dir: data.subfolder("state")?,
            dial: plain(),
        };
        let consensus = RaftConsensus::start(setup, log).await?;

        let view = view::watch(me, consensus.state());
        let peers: Arc<dyn Peers> = Arc::new(GrpcPeers::new(me, consensus.state(), plain()));
        let local: Arc<dyn BlobStore> = Arc::clone(&store) as _;
        let replicated = Replicated::new(me, local.clone(), Arc::clone(&peers), view.clone());
        let api = api::services(ApiParts {
            store: Arc::new(replicated),
            consensus: Arc::clone(&consensus) as _,
            config: config.api.clone(),
        })
        .await?;

        let reporting = Arc::clone(&store);
        let report: ReportSource = Arc::new(move || reporting.report());
        let scrub: ScrubTrigger = Arc::new(|| {});
        let (offered, _offers) = mpsc::channel(16);
        let checking = Arc::clone(&consensus);
        let peer = PeerService::new(PeerParts {
            cluster,
            me,
            local: Arc::clone(&store) as _,
            view: view.clone(),
            report: Arc::clone(&report),
            offered,
            check_in: Arc::new(move |node, start| {
                check_in(&checking.state().borrow(), node, start, None)
            }),
            scrub: Arc::clone(&scrub),
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
        Ok((node, routes))
    }

    /// Begins to take part in the cluster, in the background: founds it, or
    /// tells it where this node is reached now.
    pub fn take_part(&self) {
        let consensus = Arc::clone(&self.consensus);
        let (identity, member) = (self.identity.clone(), self.member.clone());
        tokio::spawn(async move {
            if let Origin::Founder { settings } = identity.origin {
                while let Err(error) = consensus.found(settings.clone(), member.clone()).await {
                    info!(%error, "the cluster is not founded yet");
                    tokio::time::sleep(ANNOUNCE_RETRY).await;
                }
            }
            announce(&consensus, identity.node, &member).await;
        });
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

/// Tells the cluster where this node is reached, unless it knows.
async fn announce(consensus: &RaftConsensus, me: NodeId, member: &Member) {
    loop {
        // What is applied here may be old: this node may have been away.
        if consensus.barrier().await.is_err() {
            tokio::time::sleep(ANNOUNCE_RETRY).await;
            continue;
        }
        let state = consensus.state().borrow().clone();
        let Some(known) = state.members.get(&me) else {
            warn!("this node is not in the node table: was it removed from the cluster?");
            return;
        };
        if known.zone != member.zone || known.host != member.host || known.weight != member.weight {
            warn!("zone, host or weight in weir.toml differ from the node table, which counts");
        }
        let here = [
            &member.peer_address,
            &member.client_address,
            &member.admin_address,
        ];
        if here
            == [
                &known.peer_address,
                &known.client_address,
                &known.admin_address,
            ]
        {
            return;
        }
        let command = Command::Announce {
            id: me,
            peer_address: member.peer_address.clone(),
            client_address: member.client_address.clone(),
            admin_address: member.admin_address.clone(),
            boot: 1,
            known_boots: Vec::new(),
        };
        match consensus.propose(command).await {
            Ok(_) => return info!("the cluster knows this node's addresses"),
            Err(error) => info!(%error, "the cluster does not know this node's addresses yet"),
        }
    }
}
