//! The life of a cluster under `weir dev`: restart, a crash of everything at
//! once, a death in the family, and leaving nothing behind.

use std::time::Duration;

use anyhow::ensure;
use weir_chaos_tests::{
    Cluster, Options, Trial,
    buildstream::{BuildStream, Deps, Machine, Project, Release, Remotes, SourceKind},
    process::is_running,
    tree,
    wait::until,
    workload::Workload,
};

const LIMIT: Duration = Duration::from_secs(600);

/// From a death until `weir dev` reports it, and from the start of a workload
/// until its pushes are acknowledged: bounds for a hang, not expectations.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// `weir dev` on a directory that it used before is the same cluster again.
#[test]
fn a_restart_on_the_same_directory_brings_artifacts_back() {
    Trial::run("dev-restart", LIMIT, |trial| {
        let bst = BuildStream::install(trial, Release::Two)?;
        let dir = trial.dir().join("project");
        trial.step("project of seed 3001");
        let project = Project::write(trial, &dir, Release::Two, SourceKind::Local, 3001)?;
        let mut cluster = Cluster::start(trial, Options::default())?;
        let first = Remotes::artifacts(&cluster.node(0).client);
        let builder = Machine::new(trial, &bst, "builder", &first)?;
        builder.build(&project, "app.bst")?.insist("Push", 3, 0)?;
        let built = builder.checkout(&project, "app.bst")?;

        cluster.stop()?;
        cluster.start_dev()?;
        for index in 0..3 {
            let node = cluster.node(index);
            let reader = Machine::new(trial, &bst, &node.name, &Remotes::artifacts(&node.client))?;
            reader.pull(&project, "app.bst", Deps::All)?;
            tree::same(&built, &reader.checkout(&project, "app.bst")?)?;
        }
        Ok(())
    });
}

/// Every node is killed in the same instant, in the middle of pushes: what
/// was acknowledged is there again, whole, through every node.
#[test]
fn a_crash_of_all_nodes_at_once_loses_nothing_acknowledged() {
    Trial::run("dev-crash", LIMIT, |trial| {
        let mut cluster = Cluster::start(trial, Options::default())?;
        for round in 0..3 {
            let seed = 4001 + round;
            trial.step(format!("pushing through all nodes, seed {seed}"));
            let urls = cluster
                .nodes()
                .iter()
                .map(|node| node.client.clone())
                .collect();
            let workload = Workload::start(urls, seed)?;
            workload.reach(40, STEP_LIMIT)?;
            cluster.kill9_everything()?;
            let ledger = workload.finish()?;

            cluster.start_dev()?;
            trial.step(format!("confirming {} pushes", ledger.len()));
            for node in cluster.nodes() {
                ledger.confirm(&node.client)?;
            }
        }
        Ok(())
    });
}

/// SIGTERM to `weir dev` ends its nodes too, by themselves.
#[test]
fn sigterm_leaves_no_process_behind() {
    Trial::run("dev-stop", LIMIT, |trial| {
        let mut cluster = Cluster::start(trial, Options::default())?;
        let nodes: Vec<u32> = cluster.nodes().iter().map(|node| node.pid).collect();
        ensure!(
            nodes.iter().all(|pid| is_running(*pid)),
            "dev.json names dead processes"
        );
        cluster.stop()?;
        ensure!(
            !nodes.iter().any(|pid| is_running(*pid)),
            "a node runs on without weir dev"
        );
        Ok(())
    });
}

/// A node that dies is reported by name, and the others go on.
#[test]
fn a_node_that_dies_is_reported() {
    Trial::run("dev-death", LIMIT, |trial| {
        let mut cluster = Cluster::start(trial, Options::default())?;
        let name = cluster.node(1).name.clone();
        cluster.kill9(1)?;
        let dev = cluster.dev()?;
        until(
            format!("weir dev to report that {name} died"),
            STEP_LIMIT,
            || {
                dev.still_runs()?;
                let report = format!("{name} ended by signal 9");
                Ok(dev.output().contains(&report).then_some(()))
            },
        )?;
        let workload = Workload::start(vec![cluster.node(0).client.clone()], 5001)?;
        workload.reach(5, STEP_LIMIT)?;
        workload.finish()?.confirm(&cluster.node(2).client)
    });
}
