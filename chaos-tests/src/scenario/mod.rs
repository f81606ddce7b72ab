//! What a run is: a fleet, the work on it, faults, and what must hold.
//!
//! ```text
//!  Scenario ── name, rows of the fault matrix
//!    ├── Shape   how many nodes, zones, how large their volumes
//!    ├── Work    rounds a second of each workload, and how refs are read
//!    ├── Plan    which faults, how long, at once or in turn; with a seed it
//!    │            is a nemesis::Script
//!    └── Limits  how long clients may be without an answer, and how long
//!                 the cluster may take to settle
//! ```
//!
//! A scenario is a value of this program, so that a name and a seed say
//! everything about a run. Every scenario has the same judges: only the figures
//! of its limits are its own.

mod list;
mod plan;

use std::time::Duration;

use anyhow::{Context, Result};

pub use self::{
    list::{SCENARIOS, SMOKE},
    plan::{Plan, Turn},
};
use crate::{
    fleet,
    nemesis::{self, Needs, Script},
    rig::{Backing, VolumeSpec},
};

/// How refs are read, and so what judges them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// A hit may be old; a miss is confirmed.
    Available,
    /// As of one machine.
    Linearizable,
}

impl Reads {
    /// As the setting of a cluster is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reads::Available => "available",
            Reads::Linearizable => "linearizable",
        }
    }
}

/// What a fleet is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub nodes: usize,
    pub zones: usize,
    /// Bytes of each node's volume, three quarters of them for blobs.
    pub volume_bytes: u64,
    /// Configuration of every node beyond the usual, as `section.key=value`.
    pub settings: &'static [&'static str],
    /// Settings of the cluster, as `name=value`.
    pub cluster: &'static [&'static str],
    /// Seconds for which blobs are leased, where that is less than the usual.
    pub lease: Option<u64>,
}

/// What clients do: rounds in a second, 0 for none of that kind.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub refs: f64,
    /// Which share of these are fetches; the others are pushes.
    pub fetches: f64,
    /// Names of refs that are pushed and fetched: the fewer, the more often
    /// clients meet at one; the more, the more often one is asked for that is
    /// new.
    pub names: u32,
    pub blobs: f64,
    pub blob_bytes: u64,
    pub artifacts: f64,
    pub presence: f64,
    /// Whether BuildStream builds, pushes and pulls all the while, through a
    /// balancer in front of the nodes.
    pub builds: bool,
    pub reads: Reads,
}

impl Work {
    /// With so many times the fetches of refs, for programs that are fast.
    #[must_use]
    pub fn fetches_times(self, times: u32) -> Work {
        let fetches = self.fetches * f64::from(times);
        let all = fetches + (1.0 - self.fetches);
        Work {
            refs: self.refs * all,
            fetches: fetches / all,
            ..self
        }
    }
}

/// What holds besides what holds always.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest time in which no read of a blob was answered by any node;
    /// `None` where no majority may be left.
    pub reads: Option<Duration>,
    /// The same of pushes of refs.
    pub pushes: Option<Duration>,
    /// Least share of the answers in a second that there are without the faults;
    /// `None` where faults may cost more.
    pub pace: Option<f64>,
    /// From the end of the faults until every node says that all is whole.
    pub settled: Duration,
    /// Most elections in one step of the faults.
    pub elections: Option<u64>,
    /// The slowest push of a ref that was answered.
    pub slowest_push: Option<Duration>,
}

impl Limits {
    /// So many times as wide.
    #[must_use]
    pub fn times(self, factor: f64) -> Limits {
        Limits {
            reads: self.reads.map(|limit| limit.mul_f64(factor)),
            pushes: self.pushes.map(|limit| limit.mul_f64(factor)),
            pace: self.pace.map(|share| share / factor),
            settled: self.settled.mul_f64(factor),
            elections: self
                .elections
                .map(|most| (most as f64 * factor).ceil() as u64),
            slowest_push: self.slowest_push.map(|limit| limit.mul_f64(factor)),
        }
    }

    /// With so many elections in one step at most.
    #[must_use]
    pub const fn elections(self, most: u64) -> Limits {
        Limits {
            elections: Some(most),
            ..self
        }
    }

    /// With no push that was answered later.
    #[must_use]
    pub const fn slowest_push(self, longest: Duration) -> Limits {
        Limits {
            slowest_push: Some(longest),
            ..self
        }
    }
}

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    /// What it is about, in a line.
    pub about: &'static str,
    /// Rows of the fault matrix that it belongs to.
    pub rows: &'static [u8],
    pub shape: Shape,
    pub work: Work,
    pub plan: Plan,
    pub limits: Limits,
    /// Texts in logs without which what it is about did not happen.
    pub shown_by: &'static [&'static str],
}

/// The scenario of this name.
pub fn find(name: &str) -> Result<&'static Scenario> {
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.with_context(|| format!("no scenario is called {name:?}; `chaos list` shows them"))
}

impl Scenario {
    /// The same, which happened only if logs have these texts.
    #[must_use]
    pub const fn shown_by(self, texts: &'static [&'static str]) -> Scenario {
        Scenario {
            shown_by: texts,
            ..self
        }
    }

    /// How long what was promised is kept, where a run may outlast it.
    #[must_use]
    pub fn lease(&self) -> Option<Duration> {
        self.shape.lease.map(Duration::from_secs)
    }

    /// What its faults need together, the most demanding of it.
    pub fn needs(&self) -> Result<Needs> {
        let mut most = Needs::Processes;
        for name in self.plan.faults() {
            most = most.max(nemesis::find(name)?.needs);
        }
        Ok(most)
    }

    fn has_fault_with(&self, needs: Needs) -> Result<bool> {
        let names = self.plan.faults();
        let kinds = names.into_iter().map(nemesis::find);
        let kinds = kinds.collect::<Result<Vec<_>>>()?;
        Ok(kinds.iter().any(|kind| kind.needs == needs))
    }

    /// Whether nothing is done to the fleet.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.plan.faults().is_empty()
    }

    /// The faults of a seed, as far as `has` says that they can be had. Where
    /// none of them can, processes are killed and paused instead.
    pub fn script(&self, seed: u64, has: impl Fn(&str) -> bool) -> Result<Script> {
        self.plan.script(seed, has)
    }

    /// The fleet that it needs.
    pub fn fleet(&self, seed: u64) -> Result<fleet::Options> {
        let Shape {
            nodes,
            zones,
            volume_bytes,
            ..
        } = self.shape;
        let mut options = fleet::Options {
            nodes,
            zones: (0..zones).map(|zone| format!("z{zone}")).collect(),
            may_fill: self.shape.lease.is_some(),
            clocks: self.has_fault_with(Needs::Clocks)?,
            seed,
            ..fleet::Options::default()
        };
        options.volume = VolumeSpec {
            bytes: volume_bytes,
            ..VolumeSpec::default()
        };
        // Slower than a file: only where it is asked for.
        if self.has_fault_with(Needs::Disks)? {
            options.volume.backing = Backing::FaultDisk;
        }
        let settings = self.shape.settings.iter().copied().map(String::from);
        options.settings.extend(settings);
        let reads = format!("refs.reads={}", self.work.reads.name());
        options.cluster.push(reads);
        let lease = self.shape.lease;
        options
            .cluster
            .extend(lease.map(|seconds| format!("lease={seconds}s")));
        let cluster = self.shape.cluster.iter().copied().map(String::from);
        options.cluster.extend(cluster);
        Ok(options)
    }

    /// Texts of errors in logs that its faults explain.
    #[must_use]
    pub fn explained(&self) -> Vec<&'static str> {
        self.plan.faults().into_iter().flat_map(explains).collect()
    }
}

/// What a node may say at level ERROR because of a fault.
fn explains(fault: &'static str) -> Vec<&'static str> {
    // A dead disk is met by the libraries below, too.
    const FILES: &[&str] = &[
        "volume fenced",
        "a file of this node failed",
        "journal is out of use",
        "the manifest of a ref cannot be read",
        "damaged copy set aside",
        "sled::",
        "openraft::",
    ];
    const DAMAGE: &[&str] = &[
        "damaged copy set aside",
        "damaged bytes passed over",
        "damaged blobs found",
        "the checkpoint is damaged",
        "cannot read the header of a segment",
    ];
    const IDENTITY: &[&str] = &["this node may not take part in the cluster"];
    let texts: &[&[&str]] = match fault {
        "torn-cut" | "torn-cut-all" | "write-errors" | "sync-errors" | "disk-full"
        | "inodes-full" | "read-only" | "vanish" | "power-cut" | "power-cut-leader"
        | "power-cut-all" | "zone-loss" | "starve-files" => &[FILES],
        "rot" | "read-errors" => &[FILES, DAMAGE],
        "damage-journal" | "damage-tail" | "damage-snapshot" | "damage-state" => {
            &[FILES, DAMAGE, IDENTITY]
        }
        "removed-returns" | "removed-unaware" | "old-image" | "replace" | "churn" => &[IDENTITY],
        _ => &[],
    };
    texts
        .iter()
        .flat_map(|texts| texts.iter().copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_can_be_found_by_its_own_name_and_orders_faults_that_exist() {
        for scenario in SCENARIOS {
            assert!(std::ptr::eq(find(scenario.name).unwrap(), scenario));
            scenario.needs().unwrap();
            assert!(scenario.shape.nodes >= scenario.shape.zones);
            assert!(!scenario.about.is_empty());
        }
        assert!(find("happiness").is_err());
    }

    /// A name and a seed say everything: the same faults each time.
    #[test]
    fn faults_follow_from_the_seed() {
        for scenario in SCENARIOS {
            let script = |seed| scenario.script(seed, |_| true).unwrap();
            assert_eq!(script(7), script(7), "{}", scenario.name);
            let is_same = script(7).steps == script(8).steps;
            assert_eq!(is_same, scenario.is_calm(), "{}", scenario.name);
        }
    }

    #[test]
    fn where_nothing_else_can_be_had_processes_are_killed_and_paused() {
        for scenario in SCENARIOS.iter().filter(|scenario| !scenario.is_calm()) {
            let has = |name: &str| name == "kill" || name == "pause";
            let script = scenario.script(7, has).unwrap();
            let orders: Vec<_> = script.steps.iter().flat_map(|step| &step.orders).collect();
            assert!(!orders.is_empty(), "{}", scenario.name);
            assert!(orders.iter().all(|order| has(&order.fault)));
        }
    }

    /// Each of the selection exists, and is run once.
    #[test]
    fn the_selection_is_of_scenarios() {
        for name in SMOKE {
            find(name).unwrap();
            assert_eq!(SMOKE.iter().filter(|other| *other == name).count(), 1);
        }
    }

    /// Rows of the matrix that this machine room can stage.
    #[test]
    fn the_rows_of_the_matrix_are_covered() {
        let mut rows: Vec<u8> = SCENARIOS
            .iter()
            .flat_map(|scenario| scenario.rows)
            .copied()
            .collect();
        rows.sort_unstable();
        rows.dedup();
        for row in (1..=32).chain([35, 36, 37, 39]) {
            assert!(rows.contains(&row), "row {row}");
        }
    }
}
