//! A run on a fleet of its own.

use std::{
    env, fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::Value;
use weir_cluster::planted;

use super::{
    at_rest,
    events::Done,
    ground::Ground,
    named,
    play::{Plot, busy, conclusion, note, play, settled_within},
    report::{COURSE, Planted, Report},
    steps::{self, Look},
};
use crate::{
    Trial,
    builds::{self, Builders},
    buildstream::{BuildStream, Release},
    fleet::{Fleet, clock},
    history,
    invariants::{bounds, convergence, logs},
    load::Nodes,
    nemesis::{self, Hit, Needs, Script},
    oracle::doubt::Cut,
    rig::{self, Backing, room::Inside},
    scenario::{Limits, Scenario},
};

/// Below the folder of a run.
const NODES: &str = "nodes";

/// A run that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(900);

/// Between two looks at what nodes take.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// What a node may take.
const BOUNDS: bounds::Limits = bounds::Limits {
    rss_bytes: 256 << 20,
    files: 2_000,
    threads: 300,
    growth_per_hour: 0.02,
};

/// Which run.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    pub scenario: &'static Scenario,
    pub seed: u64,
    /// See [`Work::fetches_times`](crate::scenario::Work::fetches_times).
    pub fetches_times: u32,
    /// Plain processes, whatever this machine has.
    pub loopback: bool,
    /// The folder stays, also when nothing was found.
    pub keep: bool,
}

/// Runs a scenario. What it found is in the report; an error means that there
/// was no run.
pub fn run(orders: Orders) -> Result<Report> {
    let Orders { scenario, seed, .. } = orders;
    if scenario.work.builds {
        builds::available()?;
    }
    let report = Arc::new(Mutex::new(Report {
        scenario: scenario.name.into(),
        seed,
        fetches_times: orders.fetches_times,
        planted: planted_here(),
        ..Report::default()
    }));
    let shared = report.clone();
    let start = Instant::now();
    let outcome = Trial::attempt(scenario.name, LIMIT, move |trial| {
        if orders.keep {
            trial.keep();
            lock(&shared).kept = Some(trial.dir().to_owned());
        }
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
    if options.volume.backing == Backing::FaultDisk
        && let Err(why) = rig::faultdisk::available()
    {
        trial.step(format!("disks do not fail: {why}"));
        options.volume.backing = Backing::File;
    }
    let builders = match scenario.work.builds {
        true => Some(Builders {
            trial: trial.clone(),
            bst: BuildStream::install(trial, Release::Two)?,
        }),
        false => None,
    };
    let fleet = match rig::available() {
        Ok(()) if !orders.loopback => Fleet::in_world(trial, options)?,
        found => {
            let why = found.err().unwrap_or_else(|| "as ordered".into());
            trial.step(format!("plain processes on loopback: {why}"));
            Fleet::on_loopback(trial, options)?
        }
    };
    let ground_is_real = fleet.has_world();
    let script = scenario.script(seed, |name| can_be_had(name, &fleet))?;
    let text = serde_json::to_string_pretty(&script)?;
    fs::write(trial.dir().join("script.json"), text)?;
    let mut ground = Staged {
        fleet,
        script,
        limits: scenario.limits,
    };
    let watch = bounds::Watch::start(WATCH_EVERY, ground.fleet.pids())?;
    let plot = Plot {
        name: scenario.name,
        seed,
        work_seed: seed,
        work: scenario.work.fetches_times(orders.fetches_times),
        limits: scenario.limits,
        is_calm: scenario.is_calm(),
        lease: scenario.lease(),
        builders,
    };
    let played = play(&mut ground, &plot, trial.dir(), report)?;
    let taken = watch.finish();
    report.figures.rss_peak_bytes = bounds::rss_peak(&taken);
    note(report, "bounds", bounds::check(&taken, BOUNDS));
    let explained = scenario.explained();
    let logs = logs::check(trial.dir(), &explained);
    note(report, "logs", logs.map(drop));
    if ground_is_real {
        let shown = logs::shown(trial.dir(), scenario.shown_by);
        note(report, "what it is about", shown);
    }
    // Where blobs are evicted, each owner does it for itself.
    if played.is_settled && scenario.lease().is_none() {
        // What a cut connection still held may have arrived since.
        let inside = ground.enter()?;
        let limit = settled_within(scenario.limits, busy());
        let anew = convergence::wait_anew(&ground.admins(), limit);
        drop(inside);
        note(report, "convergence", anew);
        let fleet = &mut ground.fleet;
        match at_rest::check(fleet, &played.promised) {
            Ok(blobs) => report.figures.blobs_in_place = blobs as u64,
            Err(error) => note(report, "copies", Err(error)),
        }
        let left = at_rest::nothing_is_left_behind(fleet);
        note(report, "leftovers", left);
        // Once more, with what nodes said at their end.
        let logs = logs::check(trial.dir(), &explained);
        note(report, "logs at the end", logs.map(drop));
    }
    drop(ground);
    let done = Done::read(&trial.dir().join("events.jsonl"))?;
    report.figures.failovers_ms = done.failovers(&played.pushes);
    report.figures.read_gaps_ms = done.read_gaps(&played.reads);
    report.figures.restarts_ms = done.restarts(&played.pushes);
    report.faults = done.faults;
    report.problems.extend(done.problems);
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
    limits: Limits,
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

    fn is_rotten(&self) -> bool {
        self.fleet.is_rotten()
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
        let limits = self.limits.times(busy());
        let mut last = Look::take(&self.fleet)?;
        // What was not said once is not waited for again.
        let mut all_said = true;
        let watch = |fleet: &mut Fleet, hits: &[Hit<'_>]| {
            if all_said {
                all_said = named::look(fleet, hits)?;
            }
            Ok(())
        };
        self.script
            .run_watched(&mut self.fleet, watch, |fleet, step| {
                last = steps::judge(fleet, step, &last, limits)?;
                Ok(())
            })
    }
}
