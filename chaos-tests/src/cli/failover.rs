//! Leaders that are killed, again and again, and how long pushes wait for it.

use anyhow::{Result, ensure};

use super::{
    FailoverArgs, fresh_seed, say, smoke, tell,
    workers::{Task, run_all},
};
use crate::{run::Tally, scenario, seeded::Words};

/// The scenario that is run, as often as it takes.
const SCENARIO: &str = "kill-leaders";

/// Kills leaders until there were enough; whether all runs passed.
pub(super) fn run(args: &FailoverArgs) -> Result<bool> {
    ensure!(args.kills > 0, "no kills");
    let ledger = args.ledger.file()?;
    let seed = args.seed.map_or_else(fresh_seed, Ok)?;
    say(format!(
        "chaos failover --kills {} --seed {seed}",
        args.kills
    ));
    smoke::prepare()?;
    let scenario = scenario::find(SCENARIO)?;
    let kills = scenario.script(seed, |_| true)?.steps.len();
    let mut words = Words::new(seed);
    let seeds = (0..args.kills.div_ceil(kills)).map(|_| words.below(1_000_000_000) as u64);
    let mut seeds = seeds.collect::<Vec<_>>().into_iter();
    let mut tally = Tally::default();
    run_all(
        1,
        &ledger,
        || {
            seeds.next().map(|seed| Task {
                scenario,
                seed,
                fetches_times: 1,
                planted: None,
            })
        },
        |report| {
            tally.add(&report);
            tell(&report);
        },
    );
    say(format!("\n{tally}"));
    Ok(tally.runs > 0 && tally.failed_runs == 0)
}
