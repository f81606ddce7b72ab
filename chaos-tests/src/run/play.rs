//! The course of a run on any ground.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Result, anyhow};
use serde_json::json;

use super::{
    events::WORK_BEGINS,
    ground::Ground,
    judge::{Terms, judge},
    record::{self, Record},
    report::{COURSE, Report},
    work::{Kind, Part, Working},
};
use crate::{
    history::{Clock, Operation},
    invariants::{availability, complete, convergence, durable},
    load::{
        ledger::{self, Entry},
        meter::{self, Rpc},
    },
    oracle::doubt::Doubt,
    scenario::{Limits, Work},
};

/// How long "not now" is asked again by the full scan.
const PATIENCE: Duration = Duration::from_secs(30);

/// Parts are read of one blob in so many.
const PARTS_EVERY: usize = 4;

/// Work before the faults and after them, in seconds of an idle machine.
const WARM_UP: f64 = 1.5;
const AFTERWARDS: f64 = 1.0;

/// What a run is about.
pub(super) struct Plot<'a> {
    pub(super) name: &'a str,
    /// Of the run, as it is told.
    pub(super) seed: u64,
    /// Of the work: the same, unless the cluster has seen that before.
    pub(super) work_seed: u64,
    pub(super) work: Work,
    pub(super) limits: Limits,
    pub(super) is_calm: bool,
}

/// What there is to judge when the work has ended.
struct Judged {
    parts: Vec<Part>,
    clock: Clock,
    /// The cluster has come back.
    is_whole: bool,
    /// See [`busy`].
    slack: f64,
}

/// How many processes want each processor of this machine, at least 1. Limits
/// of time are multiplied by it: where other work takes the processors, a gap
/// says little about the cluster.
pub fn busy() -> f64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let wanting = load
        .split_whitespace()
        .next()
        .and_then(|one| one.parse().ok());
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (wanting.unwrap_or(0.0) / processors as f64).max(1.0)
}

/// Plays it, and enters what came of it into the report; gives the pushes of
/// refs. Everything is written to `dir`.
pub(super) fn play(
    ground: &mut dyn Ground,
    plot: &Plot<'_>,
    dir: &Path,
    report: &mut Report,
) -> Result<Vec<Operation>> {
    let begun = busy();
    let inside = ground.enter()?;
    let working = Working::start(plot.work, ground.clients(), plot.work_seed, dir)?;
    drop(inside);
    let clock = working.clock;
    ground.note(WORK_BEGINS, json!({"seed": plot.work_seed}));

    // Whatever goes wrong on the way, what clients were told is judged.
    let outcome = working
        .go_on(plot.work, WARM_UP)
        .and_then(|()| ground.trouble())
        .and_then(|()| working.go_on(plot.work, AFTERWARDS));
    let is_whole = outcome.is_ok();
    note(report, COURSE, outcome);
    ground.note("work ends", json!({}));
    let parts = working.finish()?;
    let slack = begun.max(busy());
    ground.note("limits of time are wider by", json!(slack));
    if is_whole {
        settle(ground, plot.limits.times(slack), report);
    }
    let judged = Judged {
        parts,
        clock,
        is_whole,
        slack,
    };
    judge_all(ground, plot, judged, dir, report)
}

fn settle(ground: &dyn Ground, limits: Limits, report: &mut Report) {
    let admins = ground.admins();
    if admins.is_empty() {
        ground.note("nobody can be asked whether all is settled", json!({}));
        return;
    }
    ground.note("waits until all is settled", json!({}));
    let settled = ground
        .enter()
        .and_then(|_inside| convergence::wait(&admins, limits.settled));
    note(report, "convergence", settled);
}

fn judge_all(
    ground: &dyn Ground,
    plot: &Plot<'_>,
    judged: Judged,
    dir: &Path,
    report: &mut Report,
) -> Result<Vec<Operation>> {
    let Judged {
        parts,
        clock,
        is_whole,
        slack,
    } = judged;
    let doubt = Doubt::of(&ground.cuts(clock));
    let terms = Terms::new(plot.work.reads, plot.is_calm, doubt);
    let kinds = parts.iter().map(|part| part.kind).collect();
    Record {
        scenario: plot.name.into(),
        seed: plot.seed,
        terms: terms.clone(),
        kinds,
    }
    .save(dir)?;
    let mut pushes = Vec::new();
    let mut calls = meter::Report::default();
    for Part { kind, done } in parts {
        let name = kind.name();
        note(report, name, done.insist());
        let mut entries = done.ledger.entries();
        entries.retain(|entry| !terms.doubt.covers(entry.at));
        let counts = json!({
            "load": name, "operations": done.history.len(), "acknowledged": entries.len(),
            "counts": done.counts, "calls": done.report.summary().to_string(),
        });
        ground.note("done", counts);
        report.acknowledged += entries.len() as u64;
        calls.merge(&done.report);
        let mut history = done.history;
        // A cluster that is not whole has promised none of this.
        if is_whole {
            match scan(ground, plot, &entries, clock, report) {
                Ok(read) => history.extend(read),
                Err(error) => note(report, name, Err(error)),
            }
        }
        record::save_history(dir, kind, &history)?;
        let verdict = judge(kind, &terms, &history);
        report.operations += verdict.operations as u64;
        note(report, name, verdict.insist());
        if matches!(kind, Kind::Refs | Kind::Artifacts) {
            pushes.extend(history);
        }
    }
    let limits = plot.limits.times(slack);
    note(report, "availability", available(&calls, limits));
    Ok(pushes)
}

/// Reads everything back that was promised; gives the reads of refs.
fn scan(
    ground: &dyn Ground,
    plot: &Plot<'_>,
    entries: &[Entry],
    clock: Clock,
    report: &mut Report,
) -> Result<Vec<Operation>> {
    let _inside = ground.enter()?;
    let urls = ground.urls();
    let names = ledger::blobs(entries);
    let depth = durable::Depth {
        seed: plot.seed,
        parts_every: PARTS_EVERY,
        patience: PATIENCE,
    };
    match durable::check(&urls, &names, depth) {
        Ok(reads) => report.reads += reads as u64,
        Err(error) => note(report, "durable", Err(error)),
    }
    let read = complete::check(&urls, entries, clock, PATIENCE)?;
    report.reads += read.len() as u64;
    Ok(read)
}

/// Insists on the limits for those calls that were made.
fn available(calls: &meter::Report, limits: Limits) -> Result<()> {
    let limit = |rpc, longest: Option<Duration>| {
        let was_called = calls.over_all(rpc).is_some();
        let longest_gap = longest.filter(|_| was_called)?;
        Some(availability::Limit {
            rpc,
            least_success: 0.0,
            longest_gap,
            least_calls: 1,
        })
    };
    let all = [
        (Rpc::Read, limits.reads),
        (Rpc::BatchRead, limits.reads),
        (Rpc::PushBlob, limits.pushes),
    ];
    let limits: Vec<_> = all
        .into_iter()
        .filter_map(|(rpc, longest)| limit(rpc, longest))
        .collect();
    availability::check(calls, &limits)
}

/// Enters what must not have been.
pub(super) fn note(report: &mut Report, what: &str, outcome: Result<()>) {
    if let Err(error) = outcome {
        report.problems.push(format!("{what}: {error:#}"));
    }
}

/// What a run that found something ends with.
pub(super) fn conclusion(report: &Report) -> Result<()> {
    if report.has_passed() {
        return Ok(());
    }
    Err(anyhow!("{}", report.problems.join("\n")))
}
