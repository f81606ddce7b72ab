//! A run on a fleet of its own.

use std::{
    env, fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use serde_json::{Value, json};
use weir_cluster::planted;

use super::{
    events::Done,
    ground::Ground,
    play::{Plot, conclusion, note, play},
    report::{COURSE, Planted, Report},
};
use crate::{
    Trial,
    fleet::{Fleet, clock},
    history,
    invariants::{bounds, honesty, logs},
    load::Nodes,
    nemesis::{self, Needs, Script, Step},
    oracle::doubt::Cut,
    rig::{self, room::Inside},
    scenario::Scenario,
    wait::until,
};

/// Below the folder of a run.
const NODES: &str = "nodes";

/// A run that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(900);

/// Between two looks at what nodes take.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// What a node may take, without optimisation.
const BOUNDS: bounds::Limits = bounds::Limits {
    rss_bytes: 512 << 20,
    files: 2_000,
    threads: 300,
    growth_per_hour: 0.02,
};

/// Until the others say that a node is down.
const NAMED_LIMIT: Duration = Duration::from_secs(30);

/// Faults after which a node is down, and nothing else is wrong.
const DOWN: [&str; 6] = [
    "kill",
    "kill-leader",
    "stop",
    "stop-leader",
    "power-cut",
    "power-cut-leader",
];

/// Which run.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    pub scenario: &'static Scenario,
    pub seed: u64,
    /// Plain processes, whatever this machine has.
    pub loopback: bool,
}

/// Runs a scenario. What it found is in the report; an error means that there
/// was no run.
pub fn run(orders: Orders) -> Result<Report> {
    let Orders { scenario, seed, .. } = orders;
    let report = Arc::new(Mutex::new(Report {
        scenario: scenario.name.into(),
        seed,
        planted: planted_here(),
        ..Report::default()
    }));
    let shared = report.clone();
    let start = Instant::now();
    let outcome = Trial::attempt(scenario.name, LIMIT, move |trial| {
        let mut own = lock(&shared).clone();
        let played = stage(trial, orders, &mut own);
        note(&mut own, COURSE, played);
        if let Some(planted) = &mut own.planted {
            let says = format!("{}{}", planted::REACHED, planted.bug);
            planted.reached = logs::any_says(&trial.dir().join(NODES), &says);
        }
        let conclusion = conclusion(&own);
        *lock(&shared) = own;
        conclusion
    });
    let mut report = lock(&report).clone();
    report.seconds = start.elapsed().as_secs_f64();
    if let Err((error, kept)) = outcome {
        // One that hung has said nothing itself.
        if report.has_passed() {
            note(&mut report, COURSE, Err(error));
        }
        fs::write(kept.join("problems.txt"), report.problems.join("\n\n"))?;
        report.save(&kept.join("report.json"))?;
        report.kept = Some(kept);
    }
    Ok(report)
}

fn lock(report: &Mutex<Report>) -> std::sync::MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stage(trial: &Trial, orders: Orders, report: &mut Report) -> Result<()> {
    let Orders { scenario, seed, .. } = orders;
    trial.step(report.reproduce());
    let mut options = scenario.fleet(seed)?;
    if options.clocks
        && let Err(why) = clock::available()
    {
        trial.step(format!("clocks are left alone: {why}"));
        options.clocks = false;
    }
    let fleet = match rig::available() {
        Ok(()) if !orders.loopback => Fleet::in_world(trial, options)?,
        found => {
            let why = found.err().unwrap_or_else(|| "as ordered".into());
            trial.step(format!("plain processes on loopback: {why}"));
            Fleet::on_loopback(trial, options)?
        }
    };
    let script = scenario.script(seed, |name| can_be_had(name, &fleet))?;
    let text = serde_json::to_string_pretty(&script)?;
    fs::write(trial.dir().join("script.json"), text)?;
    let mut ground = Staged { fleet, script };
    let watch = bounds::Watch::start(WATCH_EVERY, ground.fleet.pids())?;
    let plot = Plot {
        name: scenario.name,
        seed,
        work_seed: seed,
        work: scenario.work,
        limits: scenario.limits,
        is_calm: scenario.is_calm(),
    };
    let pushes = play(&mut ground, &plot, trial.dir(), report)?;
    note(report, "bounds", bounds::check(&watch.finish(), BOUNDS));
    drop(ground);
    let logs = logs::check(trial.dir(), &scenario.explained());
    note(report, "logs", logs.map(drop));
    let done = Done::read(&trial.dir().join("events.jsonl"))?;
    report.failovers_ms = done.failovers(&pushes);
    report.faults = done.faults;
    let found = done.problems.into_iter();
    report
        .problems
        .extend(found.map(|problem| format!("faults: {problem}")));
    Ok(())
}

/// The bug that every process has which this one starts.
fn planted_here() -> Option<Planted> {
    let bug = env::var(planted::VARIABLE).ok()?;
    Some(Planted {
        bug,
        reached: false,
    })
}

fn can_be_had(name: &str, fleet: &Fleet) -> bool {
    // Plain processes are killed and paused, and that is all.
    let is_plain = ["kill", "kill-leader", "pause", "pause-leader"].contains(&name);
    let Ok(kind) = nemesis::find(name) else {
        return false;
    };
    kind.fits(fleet) && (is_plain || fleet.has_world() || kind.needs == Needs::Clocks)
}

/// A fleet with its faults.
struct Staged {
    fleet: Fleet,
    script: Script,
}

impl Ground for Staged {
    fn clients(&self) -> Nodes {
        self.fleet.clients()
    }

    fn urls(&self) -> Vec<String> {
        self.fleet.urls()
    }

    fn admins(&self) -> Vec<String> {
        let members = self.fleet.members().into_iter();
        members
            .map(|number| self.fleet.node(number).admin.clone())
            .collect()
    }

    fn enter(&self) -> Result<Option<Inside>> {
        self.fleet.enter()
    }

    fn cuts(&self, clock: history::Clock) -> Vec<Cut> {
        let cuts = self.fleet.cuts().iter();
        cuts.map(|cut| Cut {
            node: cut.node,
            from: clock.at(cut.ordered),
            to: clock.at(cut.done),
        })
        .collect()
    }

    fn note(&self, what: &str, detail: Value) {
        self.fleet.events().enter(what, detail);
    }

    fn trouble(&mut self) -> Result<()> {
        self.script
            .run_watched(&mut self.fleet, insist_named, |_, _| Ok(()))
    }
}

/// While nodes are down and nothing else is wrong, the others say so.
fn insist_named(fleet: &mut Fleet, step: &Step) -> Result<()> {
    let is_down = |fault: &str| DOWN.contains(&fault);
    if step.orders.is_empty() || !step.orders.iter().all(|order| is_down(&order.fault)) {
        return Ok(());
    }
    let healthy = fleet.healthy();
    let members = fleet.members();
    let gone: Vec<usize> = members
        .iter()
        .copied()
        .filter(|number| !healthy.contains(number))
        .collect();
    // Without a majority nobody is told anything.
    if gone.is_empty() || healthy.len() * 2 <= members.len() {
        return Ok(());
    }
    let name = |number: &usize| fleet.node(*number).name.clone();
    let broken = honesty::Broken {
        down: gone.iter().map(name).collect(),
        ..honesty::Broken::default()
    };
    for number in healthy {
        let mut last = anyhow!("it was not asked");
        let what = format!("{} to name {:?}", name(&number), broken.down);
        let named = until(what, NAMED_LIMIT, || {
            let told = fleet.status(number);
            match told.and_then(|status| honesty::named(&status, &broken)) {
                Ok(()) => Ok(Some(())),
                Err(hidden) => {
                    last = hidden;
                    Ok(None)
                }
            }
        });
        ensure!(named.is_ok(), "honesty: {named:?}: {last:#}");
    }
    fleet.events().enter("named", json!(broken.down));
    Ok(())
}
