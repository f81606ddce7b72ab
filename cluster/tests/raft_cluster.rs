//! Nodes of a cluster agree over real connections on loopback.
//!
//! Protects P3 (an acknowledged change is found through every node and
//! survives restarts), P4 (calls wait through an election) and P9 (nodes come
//! and go; one that was removed, or is an older copy of itself, does not vote).

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use support::{Cluster, set_ref, until};
use weir_cluster::{
    Error,
    peer::{
        Peers,
        client::GrpcPeers,
        dial::{Dial, plain},
        identity::Removal,
    },
    raft::{Barred, Consensus, RaftConfig},
    state::{Command, MemberStatus, Response},
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

/// An answer to entries may take longer than a heartbeat: a slow fsync, or a
/// long way. Here it takes between three quarters of one and a whole one, so
/// that only what openraft gives for entries is too short.
#[tokio::test(flavor = "multi_thread")]
async fn entries_arrive_over_links_that_are_slow_beside_heartbeats() {
    let config = RaftConfig {
        heartbeat_ms: 380,
        election_min_ms: 1_500,
        election_max_ms: 3_000,
        ..RaftConfig::default()
    };
    let mut cluster = Cluster::start_over(3, config, Duration::from_millis(150)).await;
    cluster.settle(3).await;
    for number in 0..3 {
        let (key, command) = set_ref(&format!("uri-{number}"), number);
        let node = cluster.node(number as usize);
        node.propose(command).await.unwrap();
        assert!(node.applied_ref(&key).unwrap().is_some());
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_drains_hands_over_and_leaves_without_loss() {
    let mut cluster = Cluster::start(3).await;
    cluster.settle(3).await;
    let (key, command) = set_ref("before", 1);
    cluster.agree(command).await;
    let leader = cluster.leader();
    let id = cluster.id(leader);
    let other = (leader + 1) % 3;
    let term = cluster.node(other).roles().term;
    cluster.agree(Command::Drain { id, on: true }).await;
    until("another leads", || async {
        let roles = cluster.node(other).roles();
        roles.leader.is_some_and(|leader| leader != id)
    })
    .await;
    let roles = cluster.node(other).roles();
    assert_eq!(
        roles.term,
        term + 1,
        "one election, called by the old leader"
    );
    assert_eq!(roles.voters.len(), 3, "nobody can vote in its place");
    // A fourth comes, and votes in its place.
    cluster.join().await;
    until("the new node votes and the old one does not", || async {
        let roles = cluster.node(other).roles();
        roles.voters.len() == 3 && !roles.voters.contains(&id)
    })
    .await;
    cluster.agree(Command::Remove { id, force: true }).await;
    assert_eq!(cluster.barred(leader).await, Barred::Removed { node: id });
    until("it is out of Raft", || async {
        let roles = cluster.node(other).roles();
        !roles.learners.contains(&id) && !roles.voters.contains(&id)
    })
    .await;
    cluster.kill(leader).await;
    for node in cluster.nodes() {
        node.barrier().await.unwrap();
        assert!(node.applied_ref(&key).unwrap().is_some());
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_removed_leaves_voters_behind() {
    // Two nodes: the one that votes alone is taken out.
    let mut cluster = Cluster::start(2).await;
    cluster.settle(2).await;
    let leader = cluster.leader();
    let (id, other) = (cluster.id(leader), 1 - leader);
    cluster.agree(Command::Remove { id, force: true }).await;
    assert_eq!(cluster.barred(leader).await, Barred::Removed { node: id });
    cluster.kill(leader).await;
    until("the other leads alone", || async {
        let roles = cluster.node(other).roles();
        roles.leader == Some(cluster.id(other)) && roles.voters == [cluster.id(other)]
    })
    .await;
    let (_, command) = set_ref("after", 1);
    cluster.agree(command).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_voter_is_replaced_and_its_old_data_disturbs_nobody() {
    let mut cluster = Cluster::start(3).await;
    cluster.settle(3).await;
    let leader = cluster.leader();
    let dead = (leader + 1) % 3;
    let id = cluster.id(dead);
    cluster.kill(dead).await;
    let new = cluster.replace(dead).await;
    let new_id = cluster.id(new);
    until("the new node votes in its place", || async {
        cluster.nodes().all(|node| {
            let roles = node.roles();
            roles.voters.contains(&new_id)
                && !roles.voters.contains(&id)
                && !roles.learners.contains(&id)
                && roles.voters.len() == 3
        })
    })
    .await;
    let term = cluster.node(leader).roles().term;
    // The dead one comes back with the data it had.
    cluster.start_again(dead).await;
    assert_eq!(cluster.barred(dead).await, Barred::Removed { node: id });
    let (_, command) = set_ref("after", 1);
    cluster.agree(command).await;
    let roles = cluster.node(leader).roles();
    assert_eq!((roles.term, roles.leader), (term, Some(cluster.id(leader))));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_removed_ends_and_is_refused_by_the_others() {
    let mut cluster = Cluster::start(3).await;
    cluster.settle(3).await;
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let id = cluster.id(follower);
    let states = cluster.node(follower).state();
    cluster.agree(Command::Remove { id, force: true }).await;
    assert_eq!(cluster.barred(follower).await, Barred::Removed { node: id });
    // What it asks of the others tells it the same.
    let removal = Removal::default();
    let peers = GrpcPeers::new(id, states, plain()).listening(removal.clone());
    until("another node refuses it", || async {
        let answer = peers.report(cluster.id(leader)).await;
        answer.is_err_and(|error| error.to_string().contains("was removed"))
    })
    .await;
    removal.heard().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_a_directory_is_refused() {
    let mut cluster = Cluster::start(3).await;
    cluster.settle(3).await;
    let leader = cluster.leader();
    let victim = (leader + 1) % 3;
    cluster.announced(victim).await;
    let early = cluster.copy_dir(victim);
    // A copy from before a start that was announced.
    cluster.kill(victim).await;
    cluster.start_again(victim).await;
    cluster.announced(victim).await;
    let late = cluster.copy_dir(victim);
    for number in 0..20 {
        let (_, command) = set_ref("later", number);
        cluster.agree(command).await;
    }
    cluster.node(victim).barrier().await.unwrap();
    let term = cluster.node(leader).roles().term;
    for (copy, expected) in [(early, "has started since"), (late, "on disk before")] {
        cluster.kill(victim).await;
        cluster.restore_dir(victim, &copy);
        cluster.start_again(victim).await;
        let barred = cluster.barred(victim).await;
        assert!(barred.to_string().contains(expected), "{barred}");
        assert!(barred.to_string().contains("weir join"), "{barred}");
    }
    let roles = cluster.node(leader).roles();
    assert_eq!((roles.term, roles.leader), (term, Some(cluster.id(leader))));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_from_when_the_node_was_alone_ends_when_another_voter_calls() {
    let mut cluster = Cluster::start(1).await;
    cluster.settle(1).await;
    cluster.announced(0).await;
    let copy = cluster.copy_dir(0);
    cluster.join().await;
    cluster.join().await;
    cluster.settle(3).await;
    cluster.kill(0).await;
    cluster.restore_dir(0, &copy);
    cluster.start_again(0).await;
    let barred = cluster.barred(0).await;
    assert!(barred.to_string().contains("knows nothing of"), "{barred}");
    cluster.kill(0).await;
    let (_, command) = set_ref("after", 1);
    cluster.agree(command).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_finds_nobody_waits_and_goes_on_with_a_majority() {
    let mut cluster = Cluster::start(3).await;
    cluster.settle(3).await;
    let (key, command) = set_ref("kept", 1);
    cluster.agree(command).await;
    cluster.node(0).barrier().await.unwrap();
    for node in 0..3 {
        cluster.announced(node).await;
        cluster.kill(node).await;
    }
    cluster.start_again(0).await;
    let term = cluster.node(0).roles().term;
    let dials = cluster.dials();
    until("it has asked several times", || async {
        cluster.dials() > dials + 6
    })
    .await;
    assert!(!cluster.has_announced(0));
    assert_eq!(cluster.node(0).roles().term, term, "it called no election");
    // Two are a majority: they check in with each other, and go on.
    cluster.start_again(1).await;
    cluster.announced(0).await;
    cluster.announced(1).await;
    assert!(cluster.node(0).applied_ref(&key).unwrap().is_some());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_led_to_another_node_is_looked_up_again() {
    let mut cluster = Cluster::start(2).await;
    cluster.settle(2).await;
    let states = cluster.node(0).state();
    let (right, wrong) = (cluster.address(1), cluster.address(0));
    let looked_up = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&looked_up);
    // The name leads elsewhere until it is looked up a third time.
    let dial: Dial = Arc::new(move |_| {
        let time = count.fetch_add(1, Ordering::SeqCst);
        plain()(if time < 2 {
            wrong.clone()
        } else {
            right.clone()
        })
    });
    let peers = GrpcPeers::new(cluster.id(0), states, dial);
    let to = cluster.id(1);
    let error = peers.report(to).await.unwrap_err();
    assert!(error.to_string().contains("this is node"), "{error}");
    until("the right node answers", || async {
        peers.report(to).await.is_ok()
    })
    .await;
    assert!(
        looked_up.load(Ordering::SeqCst) < 20,
        "dialled in a hot loop"
    );
    cluster.stop().await;
}

#[cfg(debug_assertions)]
mod planted {
    use weir_cluster::planted::{Suite, run};

    #[test]
    fn each_bug_is_caught_by_its_test() {
        run::each_is_caught(Suite::Raft);
    }
}
