//! Messages that must be refused, over a real connection.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code,
    transport::{Server, server::TcpIncoming},
};
use weir_proto::cluster::raft_client::RaftClient;

use super::*;
use crate::{
    journal::disk::{Disk, RealDisk},
    peer::dial::plain,
    raft::{
        Consensus, LogStore, RaftConsensus, Setup,
        rows::tests::{key, value},
        types::{CommittedLeaderId, SnapshotMeta},
    },
    state::{Command, Response as Applied, Settings, tests::member},
};

const CLUSTER: ClusterId = ClusterId(1);
const ME: NodeId = NodeId(7);

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_another_node_and_a_torn_snapshot_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let raft_dir = dir.path().join("raft");
    std::fs::create_dir(&raft_dir).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&raft_dir));
    let log = LogStore::open(Arc::clone(&disk), Default::default()).unwrap();
    let setup = Setup {
        cluster: CLUSTER,
        me: ME,
        config: Default::default(),
        disk,
        state_dir: dir.path().join("state"),
        dial: plain(),
        removal: Default::default(),
    };
    let node = RaftConsensus::start(setup, log).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let server = Server::builder()
        .add_service(node.service())
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.clone().cancelled_owned());
    let server = tokio::spawn(server);
    node.found(Settings::default(), member("one", "a"))
        .await
        .unwrap();
    let mut client = RaftClient::new(plain()(address).await.unwrap());

    // A snapshot from a leader of a later term, which would be taken if it were whole.
    let last = LogId {
        leader_id: CommittedLeaderId { term: 90 },
        index: 9_000,
    };
    let head = SnapshotHead {
        vote: Vote::new_committed(90, 8),
        meta: SnapshotMeta {
            last_log_id: Some(last),
            ..SnapshotMeta::default()
        },
    };
    let head = wire::encode(&head);
    for data in ["", "WEIRSNAP\u{1}\0\0\0", "nothing that anybody wrote"] {
        let chunks = [
            SnapshotChunk {
                head: head.clone().into(),
                ..SnapshotChunk::default()
            },
            SnapshotChunk {
                data: data.into(),
                ..SnapshotChunk::default()
            },
        ];
        let mut request = Request::new(futures::stream::iter(chunks));
        identity::stamp(&mut request, CLUSTER, NodeId(8), ME);
        let status = client.install_snapshot(request).await.unwrap_err();
        assert_eq!(status.code(), Code::DataLoss, "{status}");
    }
    let snapshots = std::fs::read_dir(raft_dir.join("snapshots")).unwrap();
    assert_eq!(snapshots.count(), 0, "a refused snapshot stays on disk");

    // Well formed, but meant for another node or cluster.
    for (cluster, to) in [(CLUSTER, NodeId(8)), (ClusterId(2), ME)] {
        let data = wire::encode(&VoteRequest::<TypeConfig>::new(Vote::new(91, 8), None));
        let mut request = Request::new(Message { data: data.into() });
        identity::stamp(&mut request, cluster, NodeId(8), to);
        let status = client.vote(request).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    }

    // None of it kept the node from its work, or reached its term.
    let command = Command::SetRefs {
        keys: vec![key(1)],
        value: value(1),
    };
    let answer = node.propose(command).await.unwrap();
    assert!(matches!(answer, Applied::Done { .. }), "{answer:?}");
    assert!(node.roles().term < 90);
    stop.cancel();
    node.shutdown().await;
    drop(client);
    server.await.unwrap().unwrap();
}
