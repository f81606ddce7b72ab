//! Who a node is: nobody comes back who was removed, no copy of a node takes
//! part beside it or after it, and two clusters never become one.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use weir_chaos_tests::{
    Cluster, Options, Trial,
    cluster::{row, swap_addresses},
    workload::{Ledger, Workload},
};

const LIMIT: Duration = Duration::from_secs(600);

/// From the start of a workload until its pushes are acknowledged: a bound for
/// a hang, no expectation.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// Pushes of each round.
const PUSHES: usize = 15;

/// Pushes through these nodes, and what was acknowledged.
fn push(trial: &Trial, cluster: &Cluster, through: &[usize], seed: u64) -> Result<Ledger> {
    trial.step(format!(
        "pushing through {} nodes, seed {seed}",
        through.len()
    ));
    let urls = through
        .iter()
        .map(|index| cluster.node(*index).client.clone());
    let workload = Workload::start(urls.collect(), seed)?;
    workload.reach(PUSHES, STEP_LIMIT)?;
    workload.finish()
}

/// Insists that each of these nodes has everything of each ledger.
fn confirm(cluster: &Cluster, nodes: &[usize], ledgers: &[&Ledger]) -> Result<()> {
    for index in nodes {
        for ledger in ledgers {
            ledger.confirm(&cluster.node(*index).client)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => fs::copy(entry.path(), &to).map(drop)?,
        }
    }
    Ok(())
}

fn says(text: &str, what: &str) -> Result<()> {
    ensure!(text.contains(what), "{what:?} is not in: {text}");
    Ok(())
}

/// A second `init` or `join` never touches a node that is there.
#[test]
fn a_directory_is_made_a_node_once() {
    Trial::run("identity-twice", LIMIT, |trial| {
        let mut cluster = Cluster::start(trial, Options::default())?;
        let ledger = push(trial, &cluster, &[0, 1, 2], 6001)?;
        let config = cluster.node(1).config();
        let identity = cluster.node(1).data().join("node.json");
        let before = fs::read(&identity)?;
        let init = ["init", "--config", &config];
        let serve = ["serve", "--config", &config];
        cluster.weir(&init)?.refused("already holds node")?;
        cluster.weir(&serve)?.refused("in use by another process")?;
        cluster.kill9(1)?;
        cluster.weir(&init)?.refused("start it with `weir serve`")?;
        cluster
            .ask(&["join", "--config", &config])?
            .refused("already holds node")?;
        ensure!(fs::read(&identity)? == before, "the identity was changed");
        cluster.start_again(1)?;
        confirm(&cluster, &[0, 1, 2], &[&ledger])
    });
}

/// A node that was removed while it was away is told so when it comes back.
#[test]
fn a_removed_node_does_not_come_back() {
    Trial::run("identity-removed", LIMIT, |trial| {
        let mut cluster = Cluster::start(trial, Options::default())?;
        let before = push(trial, &cluster, &[0, 1, 2], 6002)?;
        cluster.kill9(2)?;
        cluster.remove_dead(2)?;
        cluster.wait_settled(&[0, 1])?;
        let after = push(trial, &cluster, &[0, 1], 6003)?;
        for _ in 0..2 {
            says(&cluster.start_in_vain(2)?, "was removed from the cluster")?;
        }
        let status = cluster.status(0)?;
        ensure!(row(&status, "n3").is_null(), "n3 is back: {status}");
        cluster.wait_settled(&[0, 1])?;
        confirm(&cluster, &[0, 1], &[&before, &after])?;
        // The same machine is welcome as a new node.
        cluster.erase(2)?;
        cluster.join(2)?;
        cluster.wait_settled(&[0, 1, 2])?;
        confirm(&cluster, &[2], &[&before, &after])
    });
}

/// A voter that forgot what it promised could elect a leader that lacks
/// acknowledged refs.
#[test]
fn a_rolled_back_voter_is_refused_and_does_no_harm() {
    Trial::run("identity-rollback", LIMIT, |trial| {
        let mut cluster = Cluster::start(trial, Options::default())?;
        let first = push(trial, &cluster, &[0, 1, 2], 6004)?;
        let victim = 0;
        cluster.kill9(victim)?;
        let data = cluster.node(victim).data();
        let (old, new) = (data.with_extension("old"), data.with_extension("new"));
        copy(&data, &old).context("copying the data directory")?;
        cluster.start_again(victim)?;
        cluster.wait_settled(&[0, 1, 2])?;
        let second = push(trial, &cluster, &[0, 1, 2], 6005)?;
        cluster.kill9(victim)?;
        fs::rename(&data, &new)?;
        fs::rename(&old, &data)?;

        says(&cluster.start_in_vain(victim)?, "is an older copy")?;
        // Refused as well with one other node alone, which it could outvote.
        cluster.kill9(1)?;
        says(&cluster.start_in_vain(victim)?, "is an older copy")?;
        cluster.start_again(1)?;
        let third = push(trial, &cluster, &[1, 2], 6006)?;
        confirm(&cluster, &[1, 2], &[&first, &second, &third])?;

        // What was moved away is the node, and goes on.
        fs::rename(&data, &old)?;
        fs::rename(&new, &data)?;
        cluster.start_again(victim)?;
        cluster.wait_settled(&[0, 1, 2])?;
        confirm(&cluster, &[0, 1, 2], &[&first, &second, &third])
    });
}

/// Two clusters whose nodes have the same names, and one node of each at the
/// other's address.
#[test]
fn clusters_that_meet_at_swapped_addresses_stay_apart() {
    Trial::run("identity-swap", LIMIT, |trial| {
        let mut one = Cluster::start(trial, Options::default())?;
        let other = Options {
            folder: "other".into(),
            ..Options::default()
        };
        let mut two = Cluster::start(trial, other)?;
        let ours = push(trial, &one, &[0, 1, 2], 6007)?;
        let theirs = push(trial, &two, &[0, 1, 2], 6008)?;
        one.kill9(2)?;
        two.kill9(2)?;
        swap_addresses((&mut one, 2), (&mut two, 2))?;
        // A stranger answers where the first cluster knows its third node.
        two.start_again(2)?;
        let ours_later = push(trial, &one, &[0, 1], 6009)?;
        let down = |status: &serde_json::Value| {
            let row = row(status, "n3");
            (row["state"] != "down").then(|| format!("a stranger passes for n3: {row}"))
        };
        one.wait_status(0, "n3 to be down", STEP_LIMIT, down)?;
        two.wait_settled(&[0, 1, 2])?;
        ours_later.confirm_absent(&two.node(2).client)?;
        one.start_again(2)?;
        one.wait_settled(&[0, 1, 2])?;
        let theirs_later = push(trial, &two, &[0, 1, 2], 6010)?;
        confirm(&one, &[0, 1, 2], &[&ours, &ours_later])?;
        confirm(&two, &[0, 1, 2], &[&theirs, &theirs_later])?;
        for index in 0..3 {
            for ledger in [&ours, &ours_later] {
                ledger.confirm_absent(&two.node(index).client)?;
            }
            for ledger in [&theirs, &theirs_later] {
                ledger.confirm_absent(&one.node(index).client)?;
            }
        }
        Ok(())
    });
}
