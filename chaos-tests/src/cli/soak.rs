//! Drawn scenarios until the time is up.

use std::time::Instant;

use anyhow::Result;

use super::{
    SoakArgs, can_be_had, fresh_seed, minutes, say, smoke, tell,
    workers::{Task, run_all},
};
use crate::{
    builds, rig,
    run::Tally,
    scenario::{SCENARIOS, Scenario},
    seeded::Words,
};

/// Runs until the time is up; whether all passed.
pub(super) fn run(args: &SoakArgs) -> Result<bool> {
    let limit = minutes(args.minutes)?;
    let ledger = args.ledger.file()?;
    let seed = args.seed.map_or_else(fresh_seed, Ok)?;
    say(format!(
        "chaos soak --minutes {} --seed {seed} --fetches-times {}",
        args.minutes, args.fetches.fetches_times
    ));
    smoke::prepare()?;
    if let Err(why) = rig::available() {
        say(format!("plain processes: {why}"));
    } else if let Err(why) = rig::faultdisk::available() {
        say(format!("no disks that fail: {why}"));
    }
    let builds = builds::available();
    if let Err(why) = &builds {
        say(format!("no real builds: {why:#}"));
    }
    let mut fitting: Vec<&'static Scenario> = Vec::new();
    for scenario in SCENARIOS {
        if scenario.work.builds && builds.is_err() {
            continue;
        }
        if can_be_had(scenario)? {
            fitting.push(scenario);
        }
    }
    let start = Instant::now();
    let mut words = Words::new(seed);
    let mut tally = Tally::default();
    run_all(
        args.at_once,
        &ledger,
        || {
            let task = Task {
                scenario: fitting[words.below(fitting.len())],
                seed: words.below(1_000_000_000) as u64,
                fetches_times: args.fetches.fetches_times,
                planted: None,
            };
            (start.elapsed() < limit).then_some(task)
        },
        |report| {
            tally.add(&report);
            tell(&report);
        },
    );
    say(format!("\n{tally}"));
    Ok(tally.runs > 0 && tally.failed_runs == 0)
}
