//! A cluster of real nodes on this machine, started by `weir dev`; nodes may
//! join it and leave it afterwards.

mod members;
mod status;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::Signal;
use serde::Deserialize;

pub use self::{
    members::{Output, swap_addresses, write_config},
    status::{answers, row, status},
};
use crate::{
    process::{Process, kill9, running_with, sweep},
    program,
    trial::Trial,
    wait::until,
};

/// From the start of `weir dev` until all nodes serve: includes the first
/// election and, after a crash, recovery, with an unoptimised program.
const READY_LIMIT: Duration = Duration::from_secs(90);

/// From SIGTERM until `weir dev` and its nodes are gone.
const STOP_LIMIT: Duration = Duration::from_secs(45);

/// What `weir dev` is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes.
    pub nodes: usize,
    /// The zones that the nodes are spread over, in turn.
    pub zones: Vec<String>,
    /// Configuration of every node, as `("section.key", "value")`.
    pub settings: Vec<(String, String)>,
    /// Folder within the trial's directory; of two clusters in one trial,
    /// neither name may begin with the other.
    pub folder: String,
}

impl Default for Options {
    /// Three nodes in three zones, everything else as `weir dev` has it.
    fn default() -> Options {
        let zones = ["a", "b", "c"].map(String::from).to_vec();
        Options {
            nodes: 3,
            zones,
            settings: Vec::new(),
            folder: "cluster".into(),
        }
    }
}

/// One node as `dev.json` describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// Its name within the cluster.
    pub name: String,
    /// The zone it was put in.
    pub zone: String,
    /// Its process when `dev.json` was written; see
    /// [`start_again`](Cluster::start_again).
    pub pid: u32,
    /// URL of the port for clients.
    pub client: String,
    /// URL of the port for health, metrics and the dashboard.
    pub admin: String,
    /// Its folder: `weir.toml` and `data` are in it.
    pub dir: PathBuf,
}

#[derive(Deserialize)]
struct DevFile {
    nodes: Vec<Node>,
}

/// A running cluster. Dropping it kills every process of it.
pub struct Cluster {
    trial: Trial,
    options: Options,
    dir: PathBuf,
    dev: Option<Process>,
    nodes: Vec<Node>,
    /// Nodes that were started again by hand, by index.
    revived: BTreeMap<usize, Process>,
    /// Nodes that were killed or have left, by index.
    down: BTreeSet<usize>,
    /// Commands run so far.
    commands: Cell<u32>,
}

impl Cluster {
    /// Starts a cluster in the trial's directory and waits until every node
    /// serves.
    pub fn start(trial: &Trial, options: Options) -> Result<Cluster> {
        let dir = trial.dir().join(&options.folder);
        fs::create_dir_all(&dir)?;
        let trial = trial.clone();
        let mut cluster = Cluster {
            trial,
            options,
            dir,
            dev: None,
            nodes: Vec::new(),
            revived: BTreeMap::new(),
            down: BTreeSet::new(),
            commands: Cell::new(0),
        };
        cluster.start_dev()?;
        Ok(cluster)
    }

    /// Runs `weir dev` again on the same directory, after
    /// [`stop`](Self::stop).
    pub fn start_dev(&mut self) -> Result<()> {
        if self.dev.is_some() {
            bail!("weir dev runs already");
        }
        let weir = program::weir(&self.trial)?;
        // Left by an earlier run: it would look as if the nodes were ready.
        let ready = self.dir.join("dev.json");
        if ready.exists() {
            fs::remove_file(&ready)?;
        }
        let mut command = Command::new(weir);
        command
            .args(["dev", "--nodes", &self.options.nodes.to_string()])
            .args(["--zones", &self.options.zones.join(",")])
            .args(["--base-port", "0", "--dir"])
            .arg(&self.dir);
        for (key, value) in &self.options.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let count = self.options.nodes;
        self.trial.step(format!("starting {count} nodes"));
        let log = self.dir.join("dev.log");
        let mut dev = Process::spawn(&self.trial, "weir dev", command, &log)?;
        let what = format!("{} to be written", ready.display());
        let file = until(what, READY_LIMIT, || {
            dev.still_runs()?;
            Ok(fs::read(&ready).ok())
        });
        let file = file.map_err(|error| anyhow!("{error:#}\n{}", dev.tail()))?;
        let found: DevFile = serde_json::from_slice(&file)
            .with_context(|| format!("in {}", String::from_utf8_lossy(&file)))?;
        if found.nodes.len() != self.options.nodes {
            bail!("dev.json names {} nodes", found.nodes.len());
        }
        self.nodes = found.nodes;
        self.down.clear();
        self.dev = Some(dev);
        Ok(())
    }

    /// The node at `index`, counted from 0 in the order of `dev.json`.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The cluster's directory, as given to `weir dev`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The `weir dev` process, while it runs.
    pub fn dev(&mut self) -> Result<&mut Process> {
        self.dev.as_mut().context("weir dev does not run")
    }

    /// `kill -9` of one node, as seen from outside: a process that is gone
    /// from one instant to the next.
    pub fn kill9(&mut self, index: usize) -> Result<()> {
        self.trial
            .step(format!("kill -9 of {}", self.nodes[index].name));
        self.down.insert(index);
        if let Some(mut process) = self.revived.remove(&index) {
            process.kill();
            return Ok(());
        }
        let node = &self.nodes[index];
        kill9(&[node.pid], &self.dir).with_context(|| format!("kill -9 of {}", node.name))
    }

    /// `kill -9` of every node in one call, then of `weir dev` (whose death tells
    /// its children to stop in good order): like a power cut without the loss of
    /// what the kernel had not written.
    pub fn kill9_everything(&mut self) -> Result<()> {
        self.trial.step("kill -9 of every node at once");
        let dev = self.dev.take().context("weir dev does not run")?;
        let mut pids = self.left_behind();
        pids.retain(|pid| *pid != dev.pid());
        kill9(&pids, &self.dir)?;
        drop(dev);
        self.revived.clear();
        self.down.extend(0..self.nodes.len());
        Ok(())
    }

    /// Starts a node that was killed, on its own directory, and waits until
    /// its port for clients answers. `weir dev` reports a dead child and
    /// leaves it dead.
    pub fn start_again(&mut self, index: usize) -> Result<()> {
        self.start_all(&[index])
    }

    /// As [`Self::start_again`], several at once: they may need each other.
    pub fn start_all(&mut self, indices: &[usize]) -> Result<()> {
        let started: Result<Vec<_>> = indices
            .iter()
            .map(|index| Ok((*index, self.serve(*index)?)))
            .collect();
        for (index, mut process) in started? {
            let node = &self.nodes[index];
            let what = format!("{} to answer at {}", node.name, node.client);
            until(what, READY_LIMIT, || {
                process.still_runs()?;
                Ok(answers(&node.client)?.then_some(()))
            })
            .map_err(|error| anyhow!("{error:#}\n{}", process.tail()))?;
            self.revived.insert(index, process);
            self.down.remove(&index);
        }
        Ok(())
    }

    /// SIGTERM to `weir dev` and to nodes that were started again; waits
    /// until all of them have ended by themselves.
    ///
    /// An error when one had to be killed, or when `weir dev` left a process
    /// behind.
    pub fn stop(&mut self) -> Result<()> {
        self.trial.step("stopping the cluster");
        let mut dev = self.dev.take().context("weir dev does not run")?;
        dev.signal(Signal::TERM)?;
        for process in self.revived.values_mut() {
            process.signal(Signal::TERM)?;
        }
        let status = dev.wait(STOP_LIMIT)?;
        for process in self.revived.values_mut() {
            process.wait(STOP_LIMIT)?;
        }
        self.revived.clear();
        let left = self.left_behind();
        if !left.is_empty() {
            bail!(
                "weir dev ended ({status}) and left processes {left:?}\n{}",
                dev.tail()
            );
        }
        Ok(())
    }

    /// Processes of this cluster that run now.
    pub fn left_behind(&self) -> Vec<u32> {
        running_with(&self.dir)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // `weir dev` and revived nodes go with their handles; the nodes are in
        // groups of their own, and might take their time over the end of
        // their parent.
        drop(self.dev.take());
        self.revived.clear();
        sweep(&self.dir);
    }
}
