//! Whole clusters in one thread, on paused time, with one seed for everything.
//!
//! The code is the real one: openraft over our log and journal, the state
//! machine, the upkeep of members, check-in, gateways and repair, the services
//! with their encoded messages. Simulated are what lies under it: the network (`network`: delays,
//! cuts one way and both ways, connections that break), the disk of Raft (a
//! [`SimDisk`](crate::journal::sim_disk::SimDisk) that loses power), the clock
//! (Tokio's, paused), chance and threads ([`crate::outside`]). The applied
//! state's rows and the blobs are in memory: the store has tests of its own.
//!
//! A run has three phases. While faults happen (`faults`) and an operator
//! changes the cluster (`operator`), clients (`clients`) push, fetch and read.
//! Then all is healed, and within a bounded time the cluster has to be led and
//! each blob on its owners. At last all that was acknowledged is read through
//! every node. What must hold at every moment is checked as it happens
//! (`world`), and what clients were told at the end (`history`).
//!
//! The same seed gives the same run, with a trace that is equal byte by byte.

mod clients;
mod cluster;
mod faults;
mod history;
mod line;
mod network;
mod node;
mod operator;
mod sight;
mod tests;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use rand::Rng;

use crate::outside;
use cluster::Cluster;

/// How long faults happen, at least and at most.
const FAULTS: std::ops::Range<u64> = 5_000..20_000;

/// What came of a run.
pub(crate) struct Outcome {
    /// Each event, one a line, with its time in milliseconds.
    pub(crate) trace: String,
    /// What should not have been; none in a good run.
    pub(crate) violations: Vec<String>,
    pub(crate) simulated: Duration,
    pub(crate) counts: world::Counts,
}

/// A run of a cluster under faults.
pub(crate) fn run(seed: u64) -> Outcome {
    simulate(seed, |cluster| async move {
        let count = outside::rng().random_range(3..=5);
        cluster.begin(count).await;
        let clients = clients::start(&cluster);
        let faults = Duration::from_millis(outside::rng().random_range(FAULTS));
        let operator = operator::start(&cluster);
        tokio::time::timeout(faults, faults::run(&cluster))
            .await
            .ok();
        cluster.heal().await;
        operator.finish(&cluster).await;
        clients.stop().await;
        cluster.converge().await;
        cluster.read_all().await;
    })
}

/// All nodes lose power at once, again and again, while clients work.
pub(crate) fn power_cuts(seed: u64) -> Outcome {
    simulate(seed, |cluster| async move {
        cluster.begin(3).await;
        let clients = clients::start(&cluster);
        for _ in 0..5 {
            cluster::pause(500..1_500).await;
            for number in cluster.running() {
                cluster.end(number, true);
            }
            cluster.heal().await;
        }
        clients.stop().await;
        cluster.converge().await;
        cluster.read_all().await;
    })
}

/// Every connection breaks while nobody uses it.
pub(crate) fn broken_connections(seed: u64) -> Outcome {
    simulate(seed, |cluster| async move {
        cluster.begin(4).await;
        let clients = clients::start(&cluster);
        cluster::pause(2_000..3_000).await;
        clients.stop().await;
        cluster.converge().await;
        // Through every node, so that each has connections to all others.
        for _ in 0..3 {
            cluster.read_all().await;
            for number in cluster.running() {
                cluster.network.reset(number);
            }
        }
    })
}

/// An older copy of a node's volume is started while nobody hears it, and is
/// heard later: it must not take part.
pub(crate) fn older_copy(seed: u64) -> Outcome {
    simulate(seed, |cluster| async move {
        cluster.begin(3).await;
        let number = outside::rng().random_range(0..3);
        let Some(copy) = cluster.process(number).map(|process| process.copy_volume()) else {
            return cluster.world().violation("a node does not run".into());
        };
        cluster.end(number, false);
        cluster.start(number).await;
        cluster.converge().await;
        cluster.end(number, true);
        for other in (0..3).filter(|other| *other != number) {
            cluster.network.cut(number, other);
            cluster.network.cut(other, number);
        }
        let Some(process) = cluster.start_copy(number, copy).await else {
            return cluster.world().violation("the copy cannot be read".into());
        };
        cluster::pause(2_000..6_000).await;
        cluster.network.heal();
        cluster::within(Duration::from_secs(30), || process.barred().is_some()).await;
        if process.has_entered() || process.barred().is_none() {
            let what = "an older copy of a volume takes part".to_owned();
            cluster.world().violation(what);
        }
        process.end(false);
        cluster.heal().await;
        cluster.converge().await;
    })
}

/// Runs a script on a cluster that has not begun.
fn simulate<F>(seed: u64, script: impl FnOnce(Cluster) -> F) -> Outcome
where
    F: Future<Output = ()>,
{
    outside::simulated::begin(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_be_bytes()))
        .build()
        .expect("a runtime of one thread");
    let guard = runtime.enter();
    let cluster = Cluster::new();
    drop(guard);
    let (world, rest) = (cluster.world().clone(), cluster.clone());
    let running = AssertUnwindSafe(|| runtime.block_on(script(cluster)));
    if let Err(panic) = catch_unwind(running) {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.violation(text.unwrap_or_else(|| "a panic".into()));
    }
    let outcome = {
        let _guard = runtime.enter();
        rest.forget();
        world.outcome()
    };
    // What is dropped with it draws from the generator still.
    drop(runtime);
    outside::simulated::end();
    outcome
}
