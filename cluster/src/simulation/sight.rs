//! Scripts about who is told to lead, while some nodes do not hear others.

use std::{collections::BTreeSet, time::Duration};

use rand::seq::IteratorRandom;
use tokio::time::{Instant, sleep};

use super::{Outcome, cluster, cluster::Cluster, simulate};
use crate::{
    NodeId, outside,
    raft::Consensus,
    state::{Command, Response},
};

const NODES: usize = 5;
/// How long nothing is wrong.
const QUIET: Duration = Duration::from_secs(5);
/// Until those that are cut off tell of no leader: two election timeouts.
const SILENCE: Duration = Duration::from_millis(1_500);
/// Until another is elected.
const ELECTION: Duration = Duration::from_secs(5);

/// A minority is cut off, in turn with the leader and without: it tells of no
/// leader, and the majority of one. While nothing is wrong all tell of the same.
pub(crate) fn minority(seed: u64) -> Outcome {
    simulate(seed, |cluster| async move {
        let leader = begin(&cluster).await;
        let quiet = Instant::now();
        while quiet.elapsed() < QUIET {
            expect(&cluster, "in a quiet cluster", &everyone(), Some(leader));
            sleep(Duration::from_millis(10)).await;
        }
        let others = everyone().into_iter().filter(|number| *number != leader);
        let drawn = others.choose_multiple(&mut outside::rng(), 2);
        let mut apart: BTreeSet<usize> = drawn.into_iter().collect();
        if seed.is_multiple_of(2) {
            apart.pop_first();
            apart.insert(leader);
        }
        let rest = &everyone() - &apart;
        for a in &apart {
            for b in &rest {
                cluster.network.cut(*a, *b);
                cluster.network.cut(*b, *a);
            }
        }
        sleep(SILENCE).await;
        expect(&cluster, "in a minority", &apart, None);
        elected(&cluster, &rest).await;
        expect(&cluster, "in a minority", &apart, None);
        cluster.heal().await;
        elected(&cluster, &everyone()).await;
    })
}

/// The leader reaches others, and no majority reaches it: another is elected.
pub(crate) fn leader_in_the_way(seed: u64) -> Outcome {
    simulate(seed, |cluster| async move {
        let leader = begin(&cluster).await;
        let mut rest = everyone();
        rest.remove(&leader);
        if seed.is_multiple_of(2) {
            cluster
                .world()
                .trace(format_args!("nothing reaches node {leader}"));
            for other in &rest {
                cluster.network.cut(*other, leader);
            }
        } else {
            // One goes on hearing it, and without that one there is no majority.
            let ended = rest.pop_first().expect("there are five");
            cluster.end(ended, true);
            let between = rest.first().copied();
            for other in rest.iter().filter(|other| Some(**other) != between) {
                cluster.network.cut(*other, leader);
                cluster.network.cut(leader, *other);
            }
        }
        elected(&cluster, &rest).await;
        let proposer = rest.iter().find_map(|number| cluster.process(*number));
        let proposer = proposer.expect("all of them run");
        let nothing = Command::RemoveRefs { refs: Vec::new() };
        let answer = proposer.consensus.propose(nothing).await;
        if !matches!(answer, Ok(Response::Done { .. })) {
            let what = format!("nothing is agreed without node {leader}: {answer:?}");
            cluster.world().violation(what);
        }
        cluster.heal().await;
        elected(&cluster, &everyone()).await;
    })
}

fn everyone() -> BTreeSet<usize> {
    (0..NODES).collect()
}

/// Starts a cluster in which all nodes vote. Who leads it.
async fn begin(cluster: &Cluster) -> usize {
    cluster.begin(NODES).await;
    let all_vote = || {
        everyone().iter().all(|number| {
            let process = cluster.process(*number);
            process.is_some_and(|process| process.consensus.roles().voters.len() == NODES)
        })
    };
    if !cluster::within(ELECTION, all_vote).await {
        cluster.world().violation("not all nodes vote".into());
    }
    elected(cluster, &everyone()).await
}

/// Waits until these nodes tell of the same leader, and it is one of them.
async fn elected(cluster: &Cluster, numbers: &BTreeSet<usize>) -> usize {
    let leader = || {
        let told: BTreeSet<_> = numbers
            .iter()
            .map(|number| told(cluster, *number))
            .collect();
        let leader = told.first().copied().flatten()?;
        let is_one = told.len() == 1 && numbers.contains(&leader);
        is_one.then_some(leader)
    };
    if !cluster::within(ELECTION, || leader().is_some()).await {
        let what = format!("nodes {numbers:?} tell of no leader among them");
        cluster.world().violation(what);
    }
    leader().unwrap_or_default()
}

/// The number of the leader that a node tells of.
fn told(cluster: &Cluster, number: usize) -> Option<usize> {
    let leader: NodeId = cluster.process(number)?.consensus.roles().leader?;
    let nodes = cluster.nodes();
    let found = nodes.iter().find(|(_, node)| node.identity.id == leader);
    found.map(|(number, _)| *number)
}

fn expect(cluster: &Cluster, when: &str, numbers: &BTreeSet<usize>, leader: Option<usize>) {
    for number in numbers {
        let told = told(cluster, *number);
        if told != leader {
            let what = format!("{when} node {number} tells of leader {told:?}, not {leader:?}");
            cluster.world().violation(what);
        }
    }
}
