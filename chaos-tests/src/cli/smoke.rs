//! A fixed selection, for every change.

use std::time::Instant;

use anyhow::Result;

use super::{
    SmokeArgs, can_be_had, fresh_seed, minutes, say, tell,
    workers::{Task, run_all},
};
use crate::{
    Trial, program, rig,
    run::{Report, Tally},
    scenario::{self, Scenario},
};

/// The scenario that is run with a fresh seed.
const FRESH: &str = "mixed-two";

/// Builds `weir` once, so that runs do not do it at the same time.
pub(super) fn prepare() -> Result<()> {
    let (tell, told) = std::sync::mpsc::channel();
    let limit = std::time::Duration::from_secs(1200);
    let built = Trial::attempt("weir", limit, move |trial| {
        Ok(tell.send(program::weir(trial)?)?)
    });
    built.map_err(|(error, _)| error)?;
    say(format!("with {}", told.recv()?.display()));
    Ok(())
}

/// Runs the selection; whether all of it passed.
pub(super) fn run(args: &SmokeArgs) -> Result<bool> {
    let limit = minutes(args.minutes)?;
    let ledger = args.ledger.file()?;
    prepare()?;
    let names: Vec<&str> = match args.only.as_slice() {
        [] => scenario::SMOKE.to_vec(),
        only => only.iter().map(String::as_str).collect(),
    };
    let rig = rig::available();
    let mut tasks = Vec::new();
    for name in names {
        let scenario = scenario::find(name)?;
        if can_be_had(scenario)? {
            tasks.push(Task {
                scenario,
                seed: args.seed,
                fetches_times: args.fetches.fetches_times,
                planted: None,
            });
        }
    }
    if let Err(why) = rig {
        let count = tasks.len();
        say(format!("plain processes, {count} scenarios: {why}"));
    }
    if args.only.is_empty() {
        let scenario = scenario::find(FRESH)?;
        let seed = fresh_seed()?;
        tasks.insert(
            tasks.len().min(1),
            Task {
                scenario,
                seed,
                fetches_times: args.fetches.fetches_times,
                planted: None,
            },
        );
    }
    let all = tasks.len();
    let start = Instant::now();
    let mut left = tasks.into_iter();
    let mut skipped: Vec<&'static Scenario> = Vec::new();
    let mut failed: Vec<Report> = Vec::new();
    let mut tally = Tally::default();
    run_all(
        args.at_once,
        &ledger,
        || {
            if start.elapsed() > limit {
                skipped.extend(left.by_ref().map(|task| task.scenario));
            }
            left.next()
        },
        |report| {
            say(&report);
            tally.add(&report);
            if !report.has_passed() {
                failed.push(report);
            }
        },
    );
    say(format!("\n{tally}"));
    if !skipped.is_empty() {
        let names: Vec<_> = skipped.iter().map(|scenario| scenario.name).collect();
        say(format!(
            "not run, for the time was up: {}",
            names.join(", ")
        ));
    }
    for report in &failed {
        tell(report);
    }
    let seconds = start.elapsed().as_secs();
    let passed = tally.runs - tally.failed_runs;
    say(format!("{passed} of {all} passed in {seconds} s"));
    Ok(failed.is_empty() && tally.runs > 0)
}
