//! A node's sockets: opened first, closed last.
//!
//! Three listeners, so that clients never reach what is between nodes or for
//! operators:
//!
//! - client: the public services;
//! - peer: blobs and Raft between nodes;
//! - admin: status, joining, health.
//!
//! Stopping goes from the outside in: the health service says that this node
//! goes, leadership is handed over, clients are told to go elsewhere (GOAWAY)
//! and get `DRAIN_LIMIT` to finish, then Raft, the peer listener and the store
//! stop.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tracing::{error, info, warn};

use crate::{
    assemble::Node,
    config::{Config, ListenConfig},
    data_dir::DataDir,
    telemetry,
};

/// How long clients may take to finish what is under way when a node stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Streams a connection may have open at once. BuildStream opens tens, a
/// proxy in front of a build farm some hundreds.
const STREAMS_PER_CONNECTION: u32 = 512;

/// Idle connections are pinged, so that those whose client vanished go away.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(10);

/// HTTP/2 frames we take. Clients at home in Go and C++ send 16 KiB whatever
/// we allow; peers and Rust clients use fewer, larger frames.
const FRAME_BYTES: u32 = 1 << 20;

struct Sockets {
    client: TcpListener,
    peer: TcpListener,
    admin: TcpListener,
}

/// A listener that serves until it is told to stop.
struct Served {
    task: JoinHandle<Result<(), tonic::transport::Error>>,
    stop: CancellationToken,
}

/// Runs a node until SIGTERM or SIGINT, or until it may not take part any more:
/// that is an error.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    raise_open_files();
    let data = DataDir::open(&config.node.data)?;
    let sockets = Sockets::open(&config.listen).await?;
    let (node, routes, boots) = Node::start(&config, &data).await?;
    // Peers first: this node may have to take part in an election before it
    // can serve anybody.
    let peer = Served::start(sockets.peer, routes.peer);
    let admin = Served::start(sockets.admin, routes.admin);
    let client = Served::start(sockets.client, routes.client);
    info!(
        node = %data.identity().node,
        name = config.node.name,
        client = %config.listen.client,
        peer = %config.listen.peer,
        admin = %config.listen.admin,
        "serving"
    );
    let mut taking_part = node.take_part(boots);
    let barred = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        barred = &mut taking_part => Some(barred?),
    };
    taking_part.abort();
    if let Some(error) = &barred {
        error!(%error, "this node may not take part in the cluster");
    }
    info!("stopping");
    node.leave().await;
    client.stop().await;
    telemetry::raft_ends();
    node.stop_agreement().await;
    peer.stop().await;
    admin.stop().await;
    node.close().await?;
    info!("stopped");
    barred.map_or(Ok(()), Err)
}

/// Allows as many open files as the system grants. The store keeps each segment
/// open, and each client is a socket; many systems begin with 1,024.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, open_files = ?limit.current, "the limit of open files stays as it is");
    }
}

impl Sockets {
    async fn open(config: &ListenConfig) -> anyhow::Result<Self> {
        Ok(Self {
            client: listen("listen.client", config.client).await?,
            peer: listen("listen.peer", config.peer).await?,
            admin: listen("listen.admin", config.admin).await?,
        })
    }
}

async fn listen(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; is another node running, or does {key} name a port that is taken?")
    })
}

impl Served {
    fn start(listener: TcpListener, routes: Routes) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        // Answers go out as several small writes; without this each would wait
        // for the client's delayed acknowledgement.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder()
            .http2_adaptive_window(Some(true))
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .max_frame_size(FRAME_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_LIMIT))
            .accept_http1(true)
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, stopped);
        Self {
            task: tokio::spawn(server),
            stop,
        }
    }

    /// Takes no more requests, and waits a while for those under way.
    async fn stop(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(DRAIN_LIMIT, &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
        }
    }
}
