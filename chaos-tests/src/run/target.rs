//! A run on a cluster that is there already, through its ports for clients;
//! its faults are commands of whoever runs it.

use std::{
    cell::RefCell,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    events::Done,
    ground::Ground,
    play::{Plot, note, play},
    report::{COURSE, Report},
};
use crate::{
    history::Clock,
    invariants::{self, convergence},
    load::Nodes,
    oracle::doubt::Cut,
    rig::room::Inside,
    scenario::{Reads, Scenario},
    seeded::Words,
    wait::until,
};

/// A cluster, as its file describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `available` or `linearizable`, as the cluster is set.
    #[serde(default)]
    reads: ReadMode,
    /// How many faults are injected, one after the other.
    #[serde(default = "default_rounds")]
    rounds: usize,
    /// How long the cluster may take to be whole again.
    #[serde(default = "default_settle_seconds")]
    settle_seconds: u64,
    #[serde(rename = "node")]
    nodes: Vec<Node>,
    #[serde(default, rename = "fault")]
    faults: Vec<Fault>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ReadMode {
    #[default]
    Available,
    Linearizable,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    /// URL of its port for clients.
    client: String,
    /// URL of its admin port, if it can be reached from here.
    admin: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    name: String,
    /// A line for the shell that lets it happen.
    inject: String,
    /// A line for the shell that ends it.
    heal: String,
    #[serde(default = "default_hold_seconds")]
    hold_seconds: f64,
}

fn default_rounds() -> usize {
    4
}

fn default_settle_seconds() -> u64 {
    120
}

fn default_hold_seconds() -> f64 {
    5.0
}

impl Target {
    /// Reads its file.
    pub fn load(file: &Path) -> Result<Target> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let target: Target =
            toml::from_str(&text).with_context(|| format!("{} is no target", file.display()))?;
        ensure!(
            !target.nodes.is_empty(),
            "{} names no [[node]]",
            file.display()
        );
        Ok(target)
    }

    /// Puts the work of a scenario on it, and its own faults in an order that
    /// follows from the seed. The folder keeps everything. An error if it does not
    /// become whole before that.
    pub fn run(
        &self,
        scenario: &Scenario,
        seed: u64,
        fetches_times: u32,
        dir: &Path,
    ) -> Result<Report> {
        fs::create_dir_all(dir)?;
        let mut report = Report {
            scenario: scenario.name.into(),
            seed,
            fetches_times,
            ..Report::default()
        };
        let start = Instant::now();
        let mut ground = Theirs {
            target: self.clone(),
            words: Words::new(seed),
            start,
            events: RefCell::new(File::create(dir.join("events.jsonl"))?),
        };
        // Else it could not be told in the end what came of the faults.
        ground.note("waits until the cluster is whole", json!({}));
        ground
            .settle()
            .context("the cluster is not whole, and nothing was done to it yet")?;
        let mut work = scenario.work.fetches_times(fetches_times);
        work.reads = match self.reads {
            ReadMode::Available => Reads::Available,
            ReadMode::Linearizable => Reads::Linearizable,
        };
        let mut limits = scenario.limits;
        limits.settled = Duration::from_secs(self.settle_seconds);
        if !self.faults.is_empty() {
            // What commands of others do is not known here.
            (limits.reads, limits.pushes) = (None, None);
        }
        let plot = Plot {
            name: scenario.name,
            seed,
            // Names of an earlier run of this seed may still be there.
            work_seed: seed ^ now()?,
            work,
            limits,
            is_calm: self.faults.is_empty(),
            lease: None,
            builders: None,
        };
        let played = play(&mut ground, &plot, dir, &mut report);
        let done = Done::read(&dir.join("events.jsonl"))?;
        match played {
            Ok(played) => report.figures.failovers_ms = done.failovers(&played.pushes),
            Err(error) => note(&mut report, COURSE, Err(error)),
        }
        report.faults = done.faults;
        report.seconds = start.elapsed().as_secs_f64();
        report.kept = Some(dir.to_owned());
        report.save(&dir.join("report.json"))?;
        Ok(report)
    }
}

fn now() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(now.as_nanos() as u64)
}

/// Somebody else's cluster.
struct Theirs {
    target: Target,
    words: Words,
    start: Instant,
    /// Written by one thread.
    events: RefCell<File>,
}

impl Theirs {
    fn settle(&self) -> Result<()> {
        let limit = Duration::from_secs(self.target.settle_seconds);
        for url in self.urls() {
            until(format!("{url} to serve"), limit, || {
                Ok(invariants::serves(&url)?.then_some(()))
            })?;
        }
        convergence::wait(&self.admins(), limit)
    }

    fn shell(&self, line: &str) -> Result<()> {
        self.note("command", json!(line));
        let status = Command::new("sh").args(["-c", line]).status()?;
        if !status.success() {
            bail!("{line:?} ended with {status}");
        }
        Ok(())
    }
}

impl Ground for Theirs {
    fn clients(&self) -> Nodes {
        Nodes::new(self.urls())
    }

    fn urls(&self) -> Vec<String> {
        let nodes = self.target.nodes.iter();
        nodes.map(|node| node.client.clone()).collect()
    }

    fn admins(&self) -> Vec<String> {
        let nodes = self.target.nodes.iter();
        nodes.filter_map(|node| node.admin.clone()).collect()
    }

    fn enter(&self) -> Result<Option<Inside>> {
        Ok(None)
    }

    /// What the commands do is not known.
    fn cuts(&self, _: Clock) -> Vec<Cut> {
        Vec::new()
    }

    fn note(&self, what: &str, detail: Value) {
        let at_ms = self.start.elapsed().as_millis() as u64;
        let line = json!({"at_ms": at_ms, "what": what, "detail": detail});
        // A record that cannot be written is no reason to leave a fault
        // unhealed.
        let _ = writeln!(self.events.borrow_mut(), "{line}");
        let _ = writeln!(
            std::io::stderr(),
            "[{:6.1}s] {what} {detail}",
            at_ms as f64 / 1e3
        );
    }

    fn trouble(&mut self) -> Result<()> {
        if self.target.faults.is_empty() {
            thread::sleep(Duration::from_secs_f64(default_hold_seconds()));
            return Ok(());
        }
        for _ in 0..self.target.rounds {
            let drawn = self.words.below(self.target.faults.len());
            let fault = self.target.faults[drawn].clone();
            self.note("inject", json!({"fault": fault.name}));
            let injected = self.shell(&fault.inject);
            if injected.is_ok() {
                thread::sleep(Duration::from_secs_f64(fault.hold_seconds));
            }
            self.note("heal", json!({"fault": fault.name}));
            // Also what began only half.
            let healed = self.shell(&fault.heal);
            injected.and(healed)?;
            self.settle()?;
        }
        Ok(())
    }
}

/// A folder for a run that nobody named one for.
#[must_use]
pub fn default_dir(scenario: &Scenario, seed: u64) -> PathBuf {
    PathBuf::from(format!("chaos-{}-{seed}", scenario.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Target> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("nodes.toml");
        fs::write(&file, text)?;
        Target::load(&file)
    }

    #[test]
    fn a_target_is_its_nodes_and_its_faults() {
        let target = load(
            "reads = \"linearizable\"\n[[node]]\nclient = \"http://a:1\"\n\
             [[node]]\nclient = \"http://b:1\"\nadmin = \"http://b:3\"\n\
             [[fault]]\nname = \"kill\"\ninject = \"false\"\nheal = \"true\"\n",
        )
        .unwrap();
        assert_eq!((target.nodes.len(), target.faults.len()), (2, 1));
        assert!((target.faults[0].hold_seconds - 5.0).abs() < 1e-9);
        for (text, says) in [
            ("", "no target"),
            ("node = []", "names no"),
            ("[[node]]\nclient = \"http://a:1\"\nport = 3\n", "no target"),
        ] {
            let error = format!("{:#}", load(text).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }

    /// A fault whose injection fails is healed all the same.
    #[test]
    fn what_began_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let healed = dir.path().join("healed");
        let target = load(&format!(
            "[[node]]\nclient = \"http://127.0.0.1:1\"\n[[fault]]\nname = \"x\"\n\
             inject = \"false\"\nheal = \"touch '{}'\"\n",
            healed.display()
        ))
        .unwrap();
        let mut ground = Theirs {
            target,
            words: Words::new(1),
            start: Instant::now(),
            events: RefCell::new(File::create(dir.path().join("events")).unwrap()),
        };
        let error = ground.trouble().unwrap_err().to_string();
        assert!(error.contains("ended with"), "{error}");
        assert!(healed.exists());
    }
}
