//! Planted bugs, each under the scenario that has to find it.
//!
//! A run counts only if a node came to its bug, and the judge that is named for
//! it found something: not if the fleet could not be started, or for another
//! reason.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use weir_cluster::planted::{BUGS, Chaos};

use super::{
    PlantedArgs, say, smoke,
    workers::{Task, run_all},
};
use crate::{
    rig,
    run::{Report, busy},
    scenario,
};

/// A scenario that takes longer to find its bug is of no use every day. On a
/// busy machine all takes longer: see [`busy`].
const LIMIT: Duration = Duration::from_secs(60);

/// Runs them; whether each was caught.
pub(super) fn run(args: &PlantedArgs) -> Result<bool> {
    ensure!(
        !BUGS.is_empty(),
        "there are no planted bugs in these programs: they were built for a release; \
         cargo build -p weir-node -p weir-chaos-tests --bins"
    );
    rig::available()
        .map_err(anyhow::Error::msg)
        .context("networks and volumes are needed")?;
    let chosen = chosen(&args.only)?;
    smoke::prepare()?;
    let mut tasks = Vec::new();
    for (bug, chaos) in &chosen {
        tasks.push(Task {
            scenario: scenario::find(chaos.scenario)?,
            seed: chaos.seed,
            fetches_times: 1,
            planted: Some(bug),
        });
    }
    let ledger = args.ledger.file()?;
    let mut left = tasks.into_iter();
    let mut caught = 0;
    run_all(
        args.at_once,
        &ledger,
        || left.next(),
        |report| {
            let planted = report.planted.as_ref();
            let pair =
                planted.and_then(|planted| chosen.iter().find(|(bug, _)| planted.bug == *bug));
            let outcome = match pair {
                Some((_, chaos)) => verdict(&report, chaos),
                None => Err(format!("there was no run\n{}", report.first_problems(1))),
            };
            caught += usize::from(outcome.is_ok());
            tell(&report, &outcome);
        },
    );
    let all = chosen.len();
    say(format!("{caught} of {all} planted bugs were caught"));
    Ok(caught == all)
}

/// Those with a scenario, or of them those that are named.
fn chosen(only: &[String]) -> Result<Vec<(&'static str, Chaos)>> {
    let all = BUGS.iter();
    let all: Vec<_> = all
        .filter_map(|planted| Some((planted.name, planted.chaos?)))
        .collect();
    if only.is_empty() {
        return Ok(all);
    }
    let find = |name: &String| {
        let found = all.iter().find(|(bug, _)| bug == name).copied();
        found.with_context(|| format!("no scenario is named for a planted bug {name:?}"))
    };
    only.iter().map(find).collect()
}

/// What the judge found, or why the bug was not caught.
fn verdict(report: &Report, chaos: &Chaos) -> Result<String, String> {
    if !report
        .planted
        .as_ref()
        .is_some_and(|planted| planted.reached)
    {
        return Err(format!("no node came to it\n{}", report.first_problems(2)));
    }
    let Some(found) = report.found_by(chaos.judge) else {
        let others = report.first_problems(2);
        return Err(format!("{} found nothing\n{others}", chaos.judge));
    };
    let limit = LIMIT.mul_f64(busy()).as_secs_f64();
    if report.seconds > limit {
        return Err(format!("caught, but not within {limit:.0} s"));
    }
    Ok(found
        .lines()
        .take(2)
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(" "))
}

fn tell(report: &Report, outcome: &Result<String, String>) {
    let bug = report.planted.as_ref().map_or("?", |planted| &planted.bug);
    let Report {
        scenario, seconds, ..
    } = report;
    match outcome {
        Ok(found) => {
            say(format!(
                "{bug}: caught by {scenario} in {seconds:.0} s: {found}"
            ));
            if let Some(kept) = &report.kept {
                // As wanted: there is nothing to look into.
                let _ = fs::remove_dir_all(kept);
            }
        }
        Err(why) => {
            say(format!(
                "{bug}: NOT caught by {scenario} in {seconds:.0} s: {why}"
            ));
            if let Some(kept) = &report.kept {
                say(format!("  everything is kept in {}", kept.display()));
            }
            say(format!("  again: {}", report.reproduce()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Planted;

    /// What begins a problem, but for [`COURSE`](crate::run::COURSE).
    const JUDGES: &[&str] = &[
        "refs",
        "blobs",
        "artifacts",
        "presence",
        "durable",
        "convergence",
        "availability",
        "bounds",
        "copies",
        "leftovers",
        "logs",
        "faults",
        "honesty",
    ];

    #[test]
    fn each_pair_names_a_scenario_and_a_judge() {
        let pairs = chosen(&[]).unwrap();
        assert!(!pairs.is_empty());
        for (bug, chaos) in pairs {
            assert!(scenario::find(chaos.scenario).is_ok(), "{bug}");
            assert!(JUDGES.contains(&chaos.judge), "{bug}");
        }
        let named = chosen(&["UrisOneByOne".into()]).unwrap();
        assert_eq!(named.len(), 1);
        assert!(chosen(&["Happiness".into()]).is_err());
    }

    fn found(problem: &str) -> Report {
        Report {
            planted: Some(Planted {
                bug: "X".into(),
                reached: true,
            }),
            problems: vec![problem.into()],
            ..Report::default()
        }
    }

    #[test]
    fn only_the_judge_that_is_named_catches_a_bug_and_only_if_it_was_reached() {
        let chaos = Chaos {
            scenario: "calm",
            seed: 1,
            judge: "refs",
        };
        let is_caught = |report: &Report| verdict(report, &chaos).is_ok();
        let good = found("refs: 1 keys have a violation");
        assert!(is_caught(&good));
        assert!(!is_caught(&found("the run: n1 ended early")));
        assert!(!is_caught(&found("availability: refs: nobody answered")));
        assert!(!is_caught(&found("refsx: 1 keys")));
        let passed = Report {
            problems: Vec::new(),
            ..good.clone()
        };
        assert!(!is_caught(&passed));
        let mut elsewhere = good.clone();
        elsewhere.planted.as_mut().unwrap().reached = false;
        assert!(!is_caught(&elsewhere));
        let late = Report {
            seconds: 1e9,
            ..good
        };
        assert!(!is_caught(&late));
    }
}
