//! What goes wrong meanwhile, and what quiet costs.

use std::time::Duration;

use super::cluster::{Cluster, INTERVAL, id};
use crate::{
    blob::{BlobStore, put_bytes},
    peer::faulty_peers::{Faults, Verb},
    state::Command,
};

#[tokio::test(start_paused = true)]
async fn an_idle_cluster_costs_one_small_message_for_each_pair_and_interval() {
    let mut cluster = Cluster::new(&["a", "b", "c", "d"], 3, 3, 2);
    cluster.write(1, 50).await;
    cluster.join(4).await;
    cluster.settle().await;
    tokio::time::sleep(INTERVAL * 2).await;
    cluster.peers.reset_calls();
    tokio::time::sleep(INTERVAL * 10).await;
    for number in 1..=4 {
        let looks = cluster.peers.calls(id(number), Verb::Summaries);
        // Three askers, ten intervals give or take a fifth.
        assert!((20..=39).contains(&looks), "{looks} looks at node {number}");
        for verb in [
            Verb::List,
            Verb::Offer,
            Verb::Read,
            Verb::ReadBatch,
            Verb::Get,
        ] {
            assert_eq!(
                cluster.peers.calls(id(number), verb),
                0,
                "{verb:?} on node {number}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_owner_says_so_and_goes_on_when_there_is_room() {
    let mut cluster = Cluster::new(&["a", "b", "c", "d"], 3, 3, 2);
    cluster.write(1, 100).await;
    cluster.store(4).set_limit(Some(20_000));
    cluster.join(4).await;
    tokio::time::sleep(INTERVAL * 20).await;
    let report = cluster.report(4);
    assert!(report.trouble.contains("full"), "{report:?}");
    assert!(!report.settled && report.lacking_blobs > 0, "{report:?}");
    assert_eq!(
        cluster.state().epochs.len(),
        2,
        "the old owners are still needed"
    );
    cluster.check_readable().await;
    cluster.store(4).set_limit(None);
    cluster.repair(4).wake();
    cluster.settle().await;
}

#[tokio::test(start_paused = true)]
async fn old_blobs_are_declined_once_and_dropped_where_they_are_not_owned() {
    let mut cluster = Cluster::new(&["a", "b", "c", "d"], 3, 3, 2);
    cluster.write(1, 40).await;
    cluster.settle().await;
    cluster.store(4).set_horizon(0);
    for number in 1..=3 {
        cluster.store(number).set_idle(100);
    }
    cluster.acknowledged.clear();
    cluster.join(4).await;
    cluster.settle().await;
    assert_eq!(cluster.store(4).digests(), []);
}

/// A cluster with one blob that two of its three owners have lost. A stranger
/// has a copy that one of the two declines for its age, and the other has no
/// room for.
struct Undecided {
    cluster: Cluster,
    declining: u64,
    full: u64,
    stranger: u64,
}

impl Undecided {
    async fn new() -> Self {
        let (cluster, content, owners, stranger) = Cluster::with_one_blob().await;
        let (declining, full) = (owners[0], owners[1]);
        for number in 1..=4 {
            cluster.store(number).set_idle(100);
        }
        cluster.store(declining).set_horizon(0);
        cluster.store(full).set_limit(Some(0));
        for owner in [declining, full] {
            cluster.store(owner).clear();
        }
        put_bytes(cluster.store(stranger), content).await.unwrap();
        tokio::time::sleep(INTERVAL * 5).await;
        let trouble = cluster.report(full).trouble;
        assert!(trouble.contains("full"), "{trouble}");
        let undecided = Self {
            cluster,
            declining,
            full,
            stranger,
        };
        assert_eq!(undecided.copies(), [0, 0, 1]);
        undecided
    }

    /// How many the two owners and the stranger hold.
    fn copies(&self) -> [usize; 3] {
        [self.declining, self.full, self.stranger]
            .map(|number| self.cluster.store(number).digests().len())
    }
}

/// Found by the scenarios: what had been declined was not fetched when it was
/// wanted again, and its copies elsewhere stayed for an hour.
#[tokio::test(start_paused = true)]
async fn what_was_declined_is_fetched_when_there_is_room_and_it_is_offered() {
    let undecided = Undecided::new().await;
    let store = |number| undecided.cluster.store(number);
    store(undecided.declining).set_horizon(u32::MAX);
    store(undecided.full).set_horizon(0);
    tokio::time::sleep(INTERVAL * 10).await;
    assert_eq!(undecided.copies(), [1, 0, 0]);
}

/// What an owner wants it may decline by the time it would fetch it.
#[tokio::test(start_paused = true)]
async fn what_is_wanted_no_more_is_offered_again_and_given_up() {
    let undecided = Undecided::new().await;
    undecided.cluster.store(undecided.full).set_horizon(0);
    tokio::time::sleep(INTERVAL * 10).await;
    assert_eq!(undecided.copies(), [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_down_holds_the_mark_up_until_it_is_back_or_removed() {
    for removed in [false, true] {
        let mut cluster = Cluster::new(&["a", "b", "c", "a", "b"], 4, 3, 2);
        cluster.write(1, 40).await;
        cluster.settle().await;
        cluster.kill(4);
        cluster.join(5).await;
        cluster.write(2, 20).await;
        tokio::time::sleep(INTERVAL * 20).await;
        assert_eq!(cluster.state().epochs.len(), 2);
        let report = cluster.report(5);
        assert!(
            report.trouble.contains("node n4 gives no account"),
            "{report:?}"
        );
        match removed {
            true => cluster.remove(4, true).await,
            false => cluster.revive(4),
        }
        cluster.settle().await;
    }
}

/// It owns nothing any more, so nobody waits for its own mark: that the others
/// ask everyone is all that keeps what only it may hold.
#[tokio::test(start_paused = true)]
async fn a_draining_member_that_is_down_holds_the_mark_up() {
    let mut cluster = Cluster::new(&["a", "b", "c", "a"], 4, 3, 2);
    cluster.write(1, 40).await;
    cluster.settle().await;
    cluster.kill(4);
    cluster.drain(4).await;
    tokio::time::sleep(INTERVAL * 20).await;
    assert_eq!(cluster.state().epochs.len(), 2);
    cluster.revive(4);
    cluster.settle().await;
    assert_eq!(cluster.store(4).digests(), []);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hears_late_of_an_epoch_loses_nothing() {
    let mut cluster = Cluster::new(&["a", "b", "c", "d"], 3, 3, 2);
    cluster.write(1, 40).await;
    cluster.set_deaf(2, true);
    cluster.join(4).await;
    // Through the gateway that does not know of the epoch, and the others.
    for number in [2, 1, 2, 4, 2] {
        let _ = cluster.try_write(number).await;
    }
    tokio::time::sleep(INTERVAL * 5).await;
    assert_eq!(
        cluster.state().epochs.len(),
        2,
        "node 2 gave no account yet"
    );
    cluster.set_deaf(2, false);
    cluster.settle().await;
}

#[tokio::test(start_paused = true)]
async fn other_sources_serve_for_those_that_fail() {
    let healthy = Faults::default();
    let second = Duration::from_secs(1);
    for faults in [
        Faults {
            corrupt: true,
            ..healthy
        },
        Faults {
            breaks_after: Some(1_000),
            ..healthy
        },
        Faults {
            ends_after: Some(1_000),
            ..healthy
        },
        Faults {
            chunk_delay: second * 60,
            ..healthy
        },
        Faults {
            delay: second,
            ..healthy
        },
    ] {
        let mut cluster = Cluster::new(&["a", "b", "c", "a"], 3, 3, 2);
        cluster.write(1, 60).await;
        cluster.settle().await;
        // The nearest source of node 4.
        cluster.peers.set(id(1), faults);
        cluster.join(4).await;
        tokio::time::sleep(INTERVAL * 10).await;
        let report = cluster.report(4);
        assert_eq!(report.lacking_blobs, 0, "{faults:?}: {report:?}");
        cluster.peers.heal();
        cluster.settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn silence_and_lost_answers_delay_and_lose_nothing() {
    let healthy = Faults::default();
    for faults in [
        Faults {
            silent: true,
            ..healthy
        },
        Faults {
            loses_answers: true,
            ..healthy
        },
        Faults {
            down: true,
            ..healthy
        },
    ] {
        let mut cluster = Cluster::new(&["a", "b", "c", "d"], 3, 3, 2);
        cluster.write(1, 40).await;
        cluster.peers.set(id(2), faults);
        cluster.join(4).await;
        tokio::time::sleep(INTERVAL * 10).await;
        assert_eq!(cluster.state().epochs.len(), 2, "{faults:?}");
        cluster.peers.heal();
        cluster.settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_rots_away_is_fetched_again() {
    let mut cluster = Cluster::new(&["a", "b", "c", "d"], 4, 3, 2);
    cluster.write(1, 40).await;
    cluster.settle().await;
    let digest = cluster.acknowledged[7];
    let view = cluster.view();
    let owner = view.owners(digest).next().unwrap();
    assert!(cluster.stores[&owner].remove(digest));
    cluster.repair(owner.0).wake();
    cluster.settle().await;
    // A read that meets the gap tells its owner, long before the next look.
    assert!(cluster.stores[&owner].remove(digest));
    let reader = (1..=4).find(|number| id(*number) == owner).unwrap();
    let _ = cluster.gateway(reader).get_batch(&[digest]).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(cluster.stores[&owner].digests().contains(&digest));
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_is_not_fetched_as_well() {
    let mut cluster = Cluster::new(&["a", "b", "c"], 3, 3, 2);
    cluster.write(1, 20).await;
    cluster.settle().await;
    let before = cluster.fetched();
    let second = Duration::from_secs(1);
    // Every write is on two nodes for a while before it is on the third.
    let delay = second / 2;
    cluster.peers.set(
        id(3),
        Faults {
            delay,
            ..Faults::default()
        },
    );
    for _ in 0..60 {
        cluster.write(1, 1).await;
        tokio::time::sleep(second).await;
    }
    cluster.peers.heal();
    cluster.settle().await;
    assert_eq!(cluster.fetched(), before);
}

#[tokio::test(start_paused = true)]
async fn an_owners_word_of_an_older_epoch_drops_nothing() {
    let mut cluster = Cluster::new(&["a", "b", "c", "d"], 4, 3, 2);
    cluster.write(1, 60).await;
    cluster.settle().await;
    let before = cluster.store(4).digests();
    let second = Duration::from_secs(1);
    cluster.drain(4).await;
    let epoch = cluster.view().epoch();
    // The owners fetch what node 4 holds. From then on they answer late, and do
    // not hear that it is called back meanwhile.
    for number in 1..=3 {
        cluster.set_deaf(number, true);
        let delay = second;
        cluster.peers.set(
            id(number),
            Faults {
                delay,
                ..Faults::default()
            },
        );
    }
    while cluster.peers.calls(id(1), Verb::Offer) == 0 {
        tokio::time::sleep(second / 10).await;
    }
    assert_eq!(cluster.view().epoch(), epoch);
    assert_eq!(cluster.store(4).digests(), before, "not yet");
    cluster
        .propose(Command::Drain {
            id: id(4),
            on: false,
        })
        .await;
    cluster
        .propose(Command::Activate { nodes: vec![id(4)] })
        .await;
    tokio::time::sleep(second * 20).await;
    assert_eq!(cluster.store(4).digests(), before, "nothing went");
    assert_eq!(cluster.report(4).fetched_blobs, 0);
    cluster.peers.heal();
    for number in 1..=3 {
        cluster.set_deaf(number, false);
    }
    cluster.settle().await;
}

#[tokio::test(start_paused = true)]
async fn the_rate_that_is_set_is_kept() {
    let mut cluster = Cluster::new(&["a", "b", "c", "d"], 3, 3, 2);
    cluster.write(1, 100).await;
    cluster.settle().await;
    let rate = 1 << 20;
    cluster.set_rate(rate).await;
    cluster.join(4).await;
    let begun = tokio::time::Instant::now();
    cluster.settle().await;
    let bytes: u64 = cluster
        .store(4)
        .digests()
        .iter()
        .map(|digest| digest.size)
        .sum();
    let least = Duration::from_secs_f64(bytes as f64 / rate as f64);
    assert!(
        begun.elapsed() + Duration::from_secs(1) >= least,
        "{bytes} in {:?}",
        begun.elapsed()
    );
    assert!(cluster.report(4).fetched_bytes == bytes);
}
