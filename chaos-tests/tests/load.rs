//! Each workload against three real nodes: what clients were told is possible,
//! and what was acknowledged is read back from every node.

use std::time::Duration;

use anyhow::{Result, ensure};
use weir_chaos_tests::{
    Cluster, Options, Trial,
    history::{self, Clock, Operation},
    invariants::{availability, bounds, complete, convergence, durable, honesty, logs, status},
    load::{self, Artifacts, Blobs, Done, Load, Nodes, Presence, Refs, ledger, meter::Rpc},
    oracle::{Verdict, available, blobs, linear},
    wait::until,
};

const LIMIT: Duration = Duration::from_secs(600);

/// From the start of a load until it has done its part: a bound for a hang.
const STEP_LIMIT: Duration = Duration::from_secs(120);

/// How long "not now" is asked again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Another seed is another run.
fn seed(default: u64) -> u64 {
    let told = std::env::var("WEIR_SEED").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn urls(cluster: &Cluster) -> Vec<String> {
    let nodes = cluster.nodes().iter();
    nodes.map(|node| node.client.clone()).collect()
}

fn admins(cluster: &Cluster) -> Vec<String> {
    let nodes = cluster.nodes().iter();
    nodes.map(|node| node.admin.clone()).collect()
}

fn start(trial: &Trial, cluster: &Cluster, name: &str, seed: u64) -> load::Options {
    trial.step(format!("{name}, seed {seed}"));
    load::Options::new(Nodes::new(urls(cluster)), seed)
}

/// Ends a load, and insists on what it can show by itself.
fn finish(trial: &Trial, load: Load) -> Result<Done> {
    let done = load.finish()?;
    trial.step(format!(
        "{} operations, {} acknowledged, {:?}\n{}",
        done.history.len(),
        done.ledger.len(),
        done.counts,
        done.report.summary()
    ));
    done.insist()?;
    Ok(done)
}

/// What every load has to show when it has ended.
fn insist(
    trial: &Trial,
    cluster: &Cluster,
    options: &load::Options,
    done: Done,
    judge: impl FnOnce(&[Operation]) -> Verdict,
) -> Result<()> {
    let urls = urls(cluster);
    let entries = done.ledger.entries();
    let mut history = done.history;
    let read = complete::check(&urls, &entries, options.clock, PATIENCE)?;
    history.extend(read);
    let path = trial.dir().join("history.jsonl");
    history::save(&path, &history)?;
    ensure!(
        history::load(&path)? == history,
        "the history came back changed"
    );
    judge(&history).insist()?;
    let names = ledger::blobs(&entries);
    ensure!(!names.is_empty(), "nothing was acknowledged");
    let depth = durable::Depth {
        seed: options.seed,
        parts_every: 4,
        patience: PATIENCE,
    };
    let reads = durable::check(&urls, &names, depth)?;
    trial.step(format!("{} blobs by {reads} reads", names.len()));
    Ok(())
}

/// What a cluster has to show when all is over.
fn at_the_end(trial: &Trial, cluster: &Cluster) -> Result<()> {
    convergence::wait(&admins(cluster), STEP_LIMIT)?;
    logs::check(trial.dir(), &[])?;
    Ok(())
}

/// W1 with nothing done to the cluster: every call is answered, and the nodes
/// stay within their bounds.
fn refs(name: &'static str, mode: &'static str, judge: fn(&[Operation]) -> Verdict) {
    Trial::run(name, LIMIT, move |trial| {
        let settings = vec![("refs.reads".to_owned(), mode.to_owned())];
        let cluster = Cluster::start(
            trial,
            Options {
                settings,
                ..Options::default()
            },
        )?;
        let pids: Vec<u32> = cluster.nodes().iter().map(|node| node.pid).collect();
        let watch = bounds::Watch::start(Duration::from_millis(200), move || pids.clone())?;
        let options = start(trial, &cluster, "refs", seed(6001));
        let load = Load::start(Refs::new(40, 60), options.clone())?;
        load.reach(1_000, STEP_LIMIT)?;
        let done = finish(trial, load)?;
        let undisturbed = |rpc| availability::Limit {
            rpc,
            least_success: 1.0,
            longest_gap: Duration::ZERO,
            least_calls: 100,
        };
        availability::check(
            &done.report,
            &[Rpc::PushBlob, Rpc::FetchBlob].map(undisturbed),
        )?;
        insist(trial, &cluster, &options, done, judge)?;
        at_the_end(trial, &cluster)?;
        let limits = bounds::Limits {
            rss_bytes: 512 << 20,
            files: 1_000,
            threads: 200,
            growth_per_hour: 0.02,
        };
        bounds::check(&watch.finish(), limits)
    });
}

#[test]
fn refs_are_what_clients_were_told() {
    refs("load-refs", "available", available::check);
}

#[test]
fn refs_are_linearizable_where_that_is_asked_for() {
    refs("load-linearizable", "linearizable", linear::check);
}

/// W2: forged digests are refused, cut uploads leave nothing, bytes come back.
#[test]
fn blobs_are_what_clients_were_told() {
    Trial::run("load-blobs", LIMIT, |trial| {
        let cluster = Cluster::start(trial, Options::default())?;
        let mut options = start(trial, &cluster, "blobs", seed(6002));
        options.per_second = 40.0;
        let load = Load::start(Blobs::new(16 << 20), options.clone())?;
        load.reach(600, STEP_LIMIT)?;
        let done = finish(trial, load)?;
        for what in ["cut", "resumed", "forged"] {
            ensure!(done.counts.contains_key(what), "nothing was {what}");
        }
        insist(trial, &cluster, &options, done, |history| {
            blobs::check(history, true, None)
        })?;
        at_the_end(trial, &cluster)
    });
}

/// W3: artifacts are whole whenever they are found.
#[test]
fn artifacts_are_whole_whenever_they_are_found() {
    Trial::run("load-artifacts", LIMIT, |trial| {
        let cluster = Cluster::start(trial, Options::default())?;
        let mut options = start(trial, &cluster, "artifacts", seed(6003));
        options.per_second = 40.0;
        let workload = Artifacts {
            keys: 40,
            pulls: 60,
        };
        let load = Load::start(workload, options.clone())?;
        load.reach(300, STEP_LIMIT)?;
        let done = finish(trial, load)?;
        insist(trial, &cluster, &options, done, available::check)?;
        at_the_end(trial, &cluster)
    });
}

/// What FindMissingBlobs leaves out is read at once, its own and others'.
#[test]
fn what_is_called_present_is_readable() {
    Trial::run("load-presence", LIMIT, |trial| {
        let cluster = Cluster::start(trial, Options::default())?;
        let options = start(trial, &cluster, "blobs", seed(6004));
        let other = Load::start(Blobs::new(64 << 10), options.clone())?;
        let mut options = start(trial, &cluster, "presence", seed(6005));
        options.per_second = 60.0;
        let storm = Presence::new(300, Some(other.tools().ledger.clone()));
        let load = Load::start(storm, options.clone())?;
        load.reach(30_000, STEP_LIMIT)?;
        let done = finish(trial, load)?;
        finish(trial, other)?;
        insist(trial, &cluster, &options, done, |history| {
            blobs::check(history, true, None)
        })?;
        at_the_end(trial, &cluster)
    });
}

/// All of them while a node dies and comes back: nothing that clients were
/// told becomes untrue, and the cluster says what is wrong with it.
#[test]
fn a_node_dies_under_all_workloads_and_nothing_said_becomes_untrue() {
    Trial::run("load-death", LIMIT, |trial| {
        let mut cluster = Cluster::start(trial, Options::default())?;
        let clock = Clock::start();
        let options = |name, default, per_second| load::Options {
            clients: 4,
            per_second,
            clock,
            ..start(trial, &cluster, name, seed(default))
        };
        let refs_options = options("refs", 6006, 40.0);
        let blobs_options = options("blobs", 6007, 15.0);
        let artifacts_options = options("artifacts", 6008, 10.0);
        let refs = Load::start(Refs::new(40, 60), refs_options.clone())?;
        let blob = Load::start(Blobs::new(1 << 20), blobs_options.clone())?;
        let artifacts = Artifacts {
            keys: 40,
            pulls: 60,
        };
        let artifacts = Load::start(artifacts, artifacts_options.clone())?;
        refs.reach(200, STEP_LIMIT)?;
        cluster.kill9(1)?;
        let broken = honesty::Broken {
            down: vec![cluster.node(1).name.clone()],
            ..Default::default()
        };
        let alive = [cluster.node(0).admin.clone(), cluster.node(2).admin.clone()];
        honesty::wait(&alive, &broken, STEP_LIMIT)?;
        let more = refs.tools().history.len() + 200;
        refs.reach(more, STEP_LIMIT)?;
        cluster.start_again(1)?;
        let more = refs.tools().history.len() + 200;
        refs.reach(more, STEP_LIMIT)?;

        let refs = finish(trial, refs)?;
        let artifacts = finish(trial, artifacts)?;
        let blob = finish(trial, blob)?;
        insist(trial, &cluster, &refs_options, refs, available::check)?;
        insist(
            trial,
            &cluster,
            &artifacts_options,
            artifacts,
            available::check,
        )?;
        insist(trial, &cluster, &blobs_options, blob, |history| {
            blobs::check(history, false, None)
        })?;
        at_the_end(trial, &cluster)
    });
}

/// The node that leads is killed under linearizable reads, twice: no read
/// finds a past that was over, through any of the others.
#[test]
fn leaders_die_and_reads_stay_linearizable() {
    Trial::run("load-leaders", LIMIT, |trial| {
        let settings = vec![("refs.reads".to_owned(), "linearizable".to_owned())];
        let mut cluster = Cluster::start(
            trial,
            Options {
                settings,
                ..Options::default()
            },
        )?;
        let options = start(trial, &cluster, "refs", seed(6009));
        let load = Load::start(Refs::new(20, 60), options.clone())?;
        for _ in 0..2 {
            let more = load.tools().history.len() + 300;
            load.reach(more, STEP_LIMIT)?;
            let leader = leader(&cluster)?;
            cluster.kill9(leader)?;
            let more = load.tools().history.len() + 300;
            load.reach(more, STEP_LIMIT)?;
            cluster.start_again(leader)?;
        }
        let done = finish(trial, load)?;
        insist(trial, &cluster, &options, done, linear::check)?;
        at_the_end(trial, &cluster)
    });
}

/// Which node leads, as any of them says.
fn leader(cluster: &Cluster) -> Result<usize> {
    let leads = || {
        let mut statuses = cluster.nodes().iter().map(|node| status(&node.admin));
        let name = statuses.find_map(|told| Some(told.ok()?["leader"].as_str()?.to_owned()));
        let index = name.and_then(|name| {
            let mut nodes = cluster.nodes().iter();
            nodes.position(|node| node.name == name)
        });
        Ok(index)
    };
    until("a leader", STEP_LIMIT, leads)
}
