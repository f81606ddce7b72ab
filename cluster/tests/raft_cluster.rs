//! Nodes of a cluster agree over real connections on loopback.
//!
//! Protects P3 (an acknowledged change is found through every node and
//! survives restarts) and P4 (calls wait through an election).

mod support;

use std::time::Duration;

use support::{Cluster, set_ref, until};
use weir_cluster::{
    Error,
    raft::Consensus,
    state::{MemberStatus, Response},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_any_node_proposes_every_node_finds() {
    let mut cluster = Cluster::start(3).await;
    cluster.settle(3).await;
    for (number, node) in cluster.nodes().enumerate() {
        let (key, command) = set_ref(&format!("uri-{number}"), number as u64);
        let answer = node.propose(command).await.unwrap();
        let Response::Done { revision } = answer else {
            panic!("{answer:?}");
        };
        // Applied here already, and elsewhere after a barrier.
        assert_eq!(node.applied_ref(&key).unwrap().unwrap().revision, revision);
        for other in cluster.nodes() {
            other.barrier().await.unwrap();
            assert_eq!(other.applied_ref(&key).unwrap().unwrap().revision, revision);
        }
    }
    let state = cluster.node(0).state().borrow().clone();
    assert!(
        state
            .members
            .values()
            .all(|m| m.status == MemberStatus::Active)
    );
    // The nodes that began together became owners in one epoch.
    assert_eq!(state.epochs.len(), 1, "{:?}", state.epochs);
    assert_eq!(state.epochs[0].nodes.len(), 3);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_takes_over_and_calls_wait_for_it() {
    let mut cluster = Cluster::start(3).await;
    cluster.settle(3).await;
    let (key, command) = set_ref("before", 1);
    cluster.node(0).propose(command).await.unwrap();
    let leader = cluster.leader();
    cluster.kill(leader).await;
    // Both calls begin while nobody leads.
    let survivor = (leader + 1) % 3;
    cluster.node(survivor).barrier().await.unwrap();
    assert!(cluster.node(survivor).applied_ref(&key).unwrap().is_some());
    let (key, command) = set_ref("after", 2);
    cluster.node(survivor).propose(command).await.unwrap();
    cluster.start_again(leader).await;
    cluster.node(leader).barrier().await.unwrap();
    assert!(cluster.node(leader).applied_ref(&key).unwrap().is_some());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_calls_fail_in_time_and_say_why() {
    let mut cluster = Cluster::start(3).await;
    cluster.settle(3).await;
    let (key, command) = set_ref("kept", 1);
    cluster.node(0).propose(command).await.unwrap();
    cluster.node(2).barrier().await.unwrap();
    cluster.kill(0).await;
    cluster.kill(1).await;
    let (_, command) = set_ref("refused", 2);
    let error = cluster.node(2).propose(command).await.unwrap_err();
    assert!(matches!(error, Error::NoQuorum(_)), "{error}");
    let error = cluster.node(2).barrier().await.unwrap_err();
    assert!(
        error.to_string().contains("cannot confirm a read"),
        "{error}"
    );
    // What was applied stays readable.
    assert!(cluster.node(2).applied_ref(&key).unwrap().is_some());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_is_back_after_all_nodes_restart() {
    let mut cluster = Cluster::start(3).await;
    cluster.settle(3).await;
    let mut keys = Vec::new();
    for number in 0..50 {
        let (key, command) = set_ref(&format!("uri-{number}"), number);
        cluster
            .node(number as usize % 3)
            .propose(command)
            .await
            .unwrap();
        keys.push(key);
    }
    for node in 0..3 {
        cluster.kill(node).await;
    }
    // The applied state of one is damaged on top.
    cluster.damage_state(1);
    for node in 0..3 {
        cluster.start_again(node).await;
    }
    for node in cluster.nodes() {
        until("a leader answers", || async {
            node.barrier().await.is_ok()
        })
        .await;
        for key in &keys {
            assert!(node.applied_ref(key).unwrap().is_some(), "{key:?}");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_late_catches_up_by_snapshot() {
    let mut cluster = Cluster::start_with(1, 20).await;
    let mut keys = Vec::new();
    for number in 0..500 {
        let (key, command) = set_ref(&format!("uri-{number}"), number);
        cluster.node(0).propose(command).await.unwrap();
        keys.push(key);
    }
    cluster.join().await;
    cluster.settle(2).await;
    let late = cluster.node(1);
    late.barrier().await.unwrap();
    for key in &keys {
        assert!(late.applied_ref(key).unwrap().is_some(), "{key:?}");
    }
    assert!(
        cluster.has_snapshot(1),
        "it came by the log and not by a snapshot"
    );
    // And the same again after a restart from that snapshot.
    cluster.kill(1).await;
    cluster.start_again(1).await;
    cluster.node(1).barrier().await.unwrap();
    assert!(cluster.node(1).applied_ref(&keys[0]).unwrap().is_some());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_peer_is_not_dialled_in_a_hot_loop() {
    let mut cluster = Cluster::start(3).await;
    cluster.settle(3).await;
    let leader = cluster.leader();
    let victim = (leader + 1) % 3;
    cluster.kill(victim).await;
    let before = cluster.dials();
    // Traffic goes on meanwhile; what is counted is dials, and not time.
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        let (_, command) = set_ref("busy", 1);
        cluster.node(leader).propose(command).await.unwrap();
    }
    let dials = cluster.dials() - before;
    assert!(dials < 200, "{dials} dials in two seconds");
    cluster.stop().await;
}
