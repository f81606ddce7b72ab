//! Three nodes over real connections on loopback.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tokio_stream::wrappers::TcpListenerStream;
use weir_cluster::{
    ClusterId, Digest, Epoch, Error, NodeId,
    blob::{
        BlobStore, BlobStream, ByteRange, Lease, Put, Upload, Verified, collect, conformance,
        memory_store::MemoryStore, put_bytes,
    },
    peer::{
        CheckIn, Peers, Report,
        client::GrpcPeers,
        dial::plain,
        server::{PeerParts, PeerService, transport},
    },
    placement::view::View,
    repair::Foreground,
    replication::Replicated,
    state::{ClusterState, EpochPlan, Member, MemberStatus, Share},
};

const CLUSTER: ClusterId = ClusterId(0xfeed);

struct Node {
    store: MemoryStore,
    view: watch::Sender<Arc<View>>,
    replicated: Replicated,
    peers: GrpcPeers,
    server: AbortHandle,
}

/// Nodes 1 to 3 in zones of their own.
async fn start() -> (BTreeMap<u64, Node>, watch::Sender<Arc<ClusterState>>) {
    let mut state = ClusterState {
        cluster: Some(CLUSTER),
        ..ClusterState::default()
    };
    let mut listeners = BTreeMap::new();
    let mut shares = BTreeMap::new();
    for id in 1..=3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let member = Member {
            name: format!("node-{id}"),
            zone: format!("zone-{id}"),
            host: String::new(),
            weight: 1,
            peer_address: listener.local_addr().unwrap().to_string(),
            client_address: String::new(),
            admin_address: String::new(),
            status: MemberStatus::Active,
            boot: 0,
        };
        let share = Share {
            zone: member.zone.clone(),
            host: String::new(),
            weight: 1,
        };
        shares.insert(NodeId(id), share);
        state.members.insert(NodeId(id), member);
        listeners.insert(id, listener);
    }
    state.epochs.push(EpochPlan {
        epoch: Epoch(1),
        replicas: 3,
        nodes: shares,
        handed_off: BTreeSet::new(),
    });
    let state = Arc::new(state);
    let (states, receiver) = watch::channel(Arc::clone(&state));
    let mut nodes = BTreeMap::new();
    for (id, listener) in listeners {
        let me = NodeId(id);
        let store = MemoryStore::new();
        let (view, views) = watch::channel(Arc::new(View::from_state(me, &state, None)));
        let report = Arc::new(move || Report {
            blobs: id,
            volume: "ok".into(),
            ..Report::default()
        });
        let local = Arc::new(store.clone());
        let service = PeerService::new(PeerParts {
            cluster: CLUSTER,
            me,
            local: local.clone(),
            view: views.clone(),
            report,
            offered: mpsc::channel(16).0,
            check_in: Arc::new(|_, _| CheckIn::Welcome { by_leader: false }),
            scrub: Arc::new(|| {}),
            foreground: Foreground::default(),
        });
        let server = transport()
            .add_service(service.into_server())
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(server).abort_handle();
        let peers = GrpcPeers::new(me, receiver.clone(), plain());
        let replicated = Replicated::new(me, local, Arc::new(peers.clone()), views);
        let node = Node {
            store,
            view,
            replicated,
            peers,
            server,
        };
        nodes.insert(id, node);
    }
    (nodes, states)
}

/// A peer's store, through the client alone.
struct Remote(GrpcPeers, NodeId);

#[async_trait::async_trait]
impl BlobStore for Remote {
    async fn find_missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<u32>, Error> {
        self.0.find_missing(self.1, Epoch(1), digests, lease).await
    }

    async fn get(&self, digest: Digest, range: ByteRange) -> Result<BlobStream, Error> {
        self.0.get(self.1, digest, range).await
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        self.0.get_batch(self.1, digests).await.unwrap()
    }

    async fn put(&self, digest: Digest) -> Result<Put, Error> {
        self.0.put(self.1, Epoch(1), digest).await
    }

    async fn put_batch(&self, blobs: Vec<Verified>) -> Vec<Result<(), Error>> {
        self.0.put_batch(self.1, Epoch(1), &blobs).await.unwrap()
    }
}

async fn begin(peers: &GrpcPeers, to: u64, digest: Digest) -> Box<dyn Upload> {
    match peers.put(NodeId(to), Epoch(1), digest).await.unwrap() {
        Put::Upload(upload) => upload,
        Put::Present => panic!("present though never stored"),
    }
}

#[tokio::test]
async fn a_store_behind_the_wire_keeps_what_every_store_keeps() {
    let (nodes, _states) = start().await;
    conformance::check(&Remote(nodes[&1].peers.clone(), NodeId(2))).await;
    assert!(!nodes[&2].store.digests().is_empty());
    assert!(nodes[&1].store.digests().is_empty());
    let report = nodes[&1].peers.report(NodeId(3)).await.unwrap();
    assert_eq!((report.blobs, &*report.volume), (3, "ok"));
}

#[tokio::test]
async fn the_cluster_keeps_what_every_store_keeps() {
    let (nodes, _states) = start().await;
    conformance::check(&nodes[&1].replicated).await;
    let bytes = conformance::sample(1, 5 << 20);
    let digest = put_bytes(&nodes[&2].replicated, bytes.clone())
        .await
        .unwrap();
    let stream = nodes[&3]
        .replicated
        .get(digest, ByteRange::ALL)
        .await
        .unwrap();
    assert!(collect(stream).await.unwrap() == bytes);
}

#[tokio::test]
async fn a_node_that_is_not_meant_refuses() {
    let (nodes, states) = start().await;
    let peers = &nodes[&1].peers;
    let mut wrong = ClusterState::clone(&states.borrow());
    // At node 2's address is now node 3.
    let moved = wrong.members[&NodeId(3)].peer_address.clone();
    wrong.members.get_mut(&NodeId(2)).unwrap().peer_address = moved;
    states.send_replace(Arc::new(wrong.clone()));
    let error = peers.report(NodeId(2)).await.unwrap_err();
    assert!(error.to_string().contains("this is node"), "{error}");
    wrong.cluster = Some(ClusterId(1));
    states.send_replace(Arc::new(wrong));
    let error = peers.report(NodeId(3)).await.unwrap_err();
    assert!(error.to_string().contains("this is cluster"), "{error}");
    let error = peers.report(NodeId(9)).await.unwrap_err();
    assert!(error.to_string().contains("not a member"), "{error}");
}

#[tokio::test]
async fn epochs_are_checked_at_the_start_and_at_the_commit() {
    let (nodes, states) = start().await;
    let peers = &nodes[&1].peers;
    let blob = Verified::of(conformance::sample(7, 100));
    let digest = blob.digest();
    let mut leaving = begin(peers, 2, digest).await;
    leaving.write(blob.bytes().clone()).await.unwrap();
    let mut staying = begin(peers, 3, digest).await;
    staying.write(blob.bytes().clone()).await.unwrap();
    // A new epoch in which node 2 owns nothing.
    let mut newer = ClusterState::clone(&states.borrow());
    let mut plan = newer.epochs[0].clone();
    plan.epoch = Epoch(2);
    plan.nodes.remove(&NodeId(2));
    newer.epochs.push(plan);
    let newer = Arc::new(newer);
    for id in 2..=3 {
        let view = View::from_state(NodeId(id), &newer, None);
        nodes[&id].view.send_replace(Arc::new(view));
    }
    let error = leaving.commit().await.unwrap_err();
    assert!(matches!(error, Error::StaleEpoch { .. }), "{error}");
    assert!(nodes[&2].store.digests().is_empty());
    staying.commit().await.unwrap();
    let blobs = [blob];
    let errors = [
        peers.put(NodeId(2), Epoch(1), digest).await.err(),
        peers.put_batch(NodeId(2), Epoch(1), &blobs).await.err(),
        peers
            .find_missing(NodeId(2), Epoch(1), &[digest], Lease::SHORT)
            .await
            .err(),
    ];
    for error in errors {
        assert!(matches!(error, Some(Error::StaleEpoch { .. })), "{error:?}");
    }
    // An epoch that a node has not seen yet is served, after a while.
    let stored = peers.put_batch(NodeId(3), Epoch(3), &blobs).await.unwrap();
    assert!(stored[0].is_ok());
}

#[tokio::test]
async fn a_peer_that_is_gone_fails_fast_and_is_done_without() {
    let (nodes, states) = start().await;
    let peers = &nodes[&1].peers;
    peers.report(NodeId(2)).await.unwrap();
    nodes[&2].server.abort();
    // Connections that were accepted outlive the listener: gone is a node at
    // whose address nobody listens.
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut moved = ClusterState::clone(&states.borrow());
    let member = moved.members.get_mut(&NodeId(2)).unwrap();
    member.peer_address = unused.local_addr().unwrap().to_string();
    drop(unused);
    states.send_replace(Arc::new(moved.clone()));
    for _ in 0..3 {
        let error = peers.report(NodeId(2)).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
    let bytes = conformance::sample(3, 3 << 20);
    let digest = put_bytes(&nodes[&1].replicated, bytes).await.unwrap();
    assert!(nodes[&3].store.digests().contains(&digest));
    // At another address it is asked at once: no backoff is carried over.
    let elsewhere = moved.members[&NodeId(3)].peer_address.clone();
    moved.members.get_mut(&NodeId(2)).unwrap().peer_address = elsewhere;
    states.send_replace(Arc::new(moved));
    let error = peers.report(NodeId(2)).await.unwrap_err();
    assert!(error.to_string().contains("this is node"), "{error}");
}

#[tokio::test]
async fn bytes_that_do_not_match_are_refused_by_the_owner() {
    let (nodes, _states) = start().await;
    let peers = &nodes[&1].peers;
    let digest = Digest::of(&conformance::sample(4, 3 << 20));
    let mut upload = begin(peers, 2, digest).await;
    upload.write(conformance::sample(5, 3 << 20)).await.unwrap();
    let error = upload.commit().await.unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    // More than was announced ends the upload.
    let mut upload = begin(peers, 2, digest).await;
    let refused = async {
        loop {
            if let Err(error) = upload.write(conformance::sample(6, 1 << 20)).await {
                return error;
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(60), refused).await;
    let error = refused.expect("an endless upload is refused");
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    assert!(nodes[&2].store.digests().is_empty());
}

#[tokio::test]
async fn a_peer_that_takes_connections_and_says_nothing_is_unreachable() {
    let (nodes, states) = start().await;
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut moved = ClusterState::clone(&states.borrow());
    let member = moved.members.get_mut(&NodeId(2)).unwrap();
    member.peer_address = mute.local_addr().unwrap().to_string();
    states.send_replace(Arc::new(moved));
    let error = nodes[&1].peers.report(NodeId(2)).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let blob = Verified::of(conformance::sample(8, 1000));
    let digest = blob.digest();
    let stored = nodes[&1].replicated.put_batch(vec![blob]).await;
    assert!(stored[0].is_ok(), "{stored:?}");
    let missing = nodes[&1]
        .replicated
        .find_missing(&[digest], Lease::SHORT)
        .await;
    assert!(missing.unwrap().is_empty());
}
