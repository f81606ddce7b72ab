//! The course of a run on any ground.

use std::{fs, ops::Range, path::Path, thread, time::Duration};

use anyhow::{Result, anyhow, ensure};
use serde_json::json;

use super::{
    events::WORK_BEGINS,
    ground::Ground,
    judge::{Terms, judge},
    record::{self, Record},
    report::{COURSE, Report},
    scan,
    work::{Built, Kind, Part, Worked, Working},
};
use crate::{
    builds::Builders,
    history::{Clock, Operation, Outcome},
    invariants::{availability, convergence, pace},
    load::{
        content::Name,
        ledger,
        meter::{self, Rpc},
    },
    oracle::doubt::Doubt,
    scenario::{Limits, Work},
};

/// The longest that a run waits until all is settled: it has to say who is not
/// before it is taken for one that hangs.
const SETTLED_MOST: Duration = Duration::from_secs(600);

/// Where so many processes want each processor, calls may run out of time
/// though nothing happens: nodes wait for each other, and for a processor.
const CROWDED: f64 = 4.0;

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
    /// For work that has builds.
    pub(super) builders: Option<Builders>,
    /// How long what was promised is kept, where that is less than a run lasts.
    pub(super) lease: Option<Duration>,
}

/// What there is to judge when the work has ended.
struct Judged {
    parts: Vec<Part>,
    /// See [`Worked`].
    reads: Vec<Operation>,
    reading: Result<()>,
    clock: Clock,
    /// From the first call until the work ended, and of that the faults.
    course: Range<u64>,
    faults: Range<u64>,
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

/// How long a run waits until all is settled.
pub(super) fn settled_within(limits: Limits, slack: f64) -> Duration {
    limits.settled.mul_f64(slack).min(SETTLED_MOST)
}

/// What a run was, for whoever looks further.
#[derive(Default)]
pub(super) struct Played {
    /// The pushes of refs, and reads of them.
    pub(super) pushes: Vec<Operation>,
    /// Reads of blobs that were tried until they were answered.
    pub(super) reads: Vec<Operation>,
    /// Blobs that clients were promised.
    pub(super) promised: Vec<Name>,
    /// Every node has said that all is whole, as of a look at what the others
    /// hold that it made after the last write.
    pub(super) is_settled: bool,
}

/// Plays it, and enters what came of it into the report. Everything is written
/// to `dir`.
pub(super) fn play(
    ground: &mut dyn Ground,
    plot: &Plot<'_>,
    dir: &Path,
    report: &mut Report,
) -> Result<Played> {
    let begun = busy();
    let inside = ground.enter()?;
    let working = Working::start(
        plot.work,
        ground.clients(),
        plot.work_seed,
        dir,
        plot.builders.as_ref(),
    )?;
    drop(inside);
    let clock = working.clock;
    ground.note(WORK_BEGINS, json!({"seed": plot.work_seed}));

    // Whatever goes wrong on the way, what clients were told is judged.
    let begin = clock.now();
    let mut faults = 0..0;
    let outcome = working
        .go_on(plot.work, WARM_UP)
        .and_then(|()| {
            faults.start = clock.now();
            let trouble = ground.trouble();
            faults.end = clock.now();
            trouble
        })
        .and_then(|()| working.go_on(plot.work, AFTERWARDS));
    let course = begin..clock.now();
    let is_whole = outcome.is_ok();
    note(report, COURSE, outcome);
    ground.note("work ends", json!({}));
    let Worked {
        parts,
        reads,
        reading,
        built,
    } = working.finish()?;
    let slack = begun.max(busy());
    ground.note("limits of time are wider by", json!(slack));
    let limit = settled_within(plot.limits, slack);
    let is_settled = is_whole && settle(ground, limit, report);
    if let Some(built) = built {
        note(report, "builds", pull_builds(ground, plot, built, is_whole));
    }
    let judged = Judged {
        parts,
        reads,
        reading,
        clock,
        course,
        faults,
        is_whole,
        slack,
    };
    let played = judge_all(ground, plot, judged, dir, report)?;
    Ok(Played {
        is_settled,
        ..played
    })
}

/// Insists that no build failed, and that each is found afterwards.
fn pull_builds(ground: &dyn Ground, plot: &Plot<'_>, built: Built, is_whole: bool) -> Result<()> {
    let (project, done) = built?;
    let counts = json!({"built": done.trees.len(), "pulls that found nothing": done.missed});
    ground.note("builds", counts);
    if let Some(builders) = plot.builders.as_ref().filter(|_| is_whole) {
        let _inside = ground.enter()?;
        done.pull_in_turn(builders, &project, &ground.urls())?;
    }
    Ok(())
}

/// Waits until all is settled; whether it is.
fn settle(ground: &dyn Ground, limit: Duration, report: &mut Report) -> bool {
    let admins = ground.admins();
    if admins.is_empty() {
        ground.note("nobody can be asked whether all is settled", json!({}));
        return false;
    }
    ground.note("waits until all is settled", json!({}));
    let settled = ground.enter().and_then(|_inside| {
        if ground.is_rotten() {
            convergence::wait_verified(&admins, limit)?;
        }
        convergence::wait_anew(&admins, limit)
    });
    let is_settled = settled.is_ok();
    note(report, "convergence", settled);
    is_settled
}

fn judge_all(
    ground: &dyn Ground,
    plot: &Plot<'_>,
    judged: Judged,
    dir: &Path,
    report: &mut Report,
) -> Result<Played> {
    let Judged {
        parts,
        reads,
        reading,
        clock,
        course,
        faults,
        is_whole,
        slack,
    } = judged;
    let mut ends = Vec::new();
    let doubt = Doubt::of(&ground.cuts(clock));
    let terms = Terms::new(plot.work.reads, plot.is_calm, doubt, plot.lease);
    note(report, "reading", reading);
    let kinds = parts.iter().map(|part| part.kind).collect();
    Record {
        scenario: plot.name.into(),
        seed: plot.seed,
        terms: terms.clone(),
        kinds,
    }
    .save(dir)?;
    let mut played = Played {
        reads,
        ..Played::default()
    };
    let mut calls = meter::Report::default();
    for Part { kind, done } in parts {
        let name = kind.name();
        note(report, name, done.insist());
        let mut entries = done.ledger.entries();
        entries.retain(|entry| !terms.doubt.covers(entry.at));
        let ended = scan::ended(&mut entries, plot.lease, clock);
        let counts = json!({
            "load": name, "operations": done.history.len(), "acknowledged": entries.len(),
            "counts": done.counts, "calls": done.report.summary().to_string(),
        });
        ground.note("done", counts);
        report.acknowledged += entries.len() as u64;
        played.promised.extend(ledger::blobs(&entries));
        calls.merge(&done.report);
        let mut history = done.history;
        let answered = history.iter().filter(|op| op.outcome == Outcome::Ok);
        ends.extend(answered.map(|op| op.end));
        // A cluster that is not whole has promised none of this.
        if is_whole {
            for read in [
                scan::all(ground, plot.seed, &entries, clock, report),
                scan::whole_or_gone(ground, &ended, clock, report),
            ] {
                match read {
                    Ok(read) => history.extend(read),
                    Err(error) => note(report, name, Err(error)),
                }
            }
        }
        record::save_history(dir, kind, &history)?;
        let verdict = judge(kind, &terms, &history);
        report.operations += verdict.operations as u64;
        note(report, name, verdict.insist());
        if matches!(kind, Kind::Refs | Kind::Artifacts) {
            report.ref_operations += verdict.operations as u64;
            played.pushes.extend(history);
        }
    }
    let limits = plot.limits.times(slack);
    let insists = plot.is_calm && slack <= CROWDED;
    note(report, "availability", available(&calls, limits, insists));
    if let Some(least) = limits.pace.filter(|_| is_whole) {
        let kept = pace::check(&ends, &course, &faults, least);
        note(report, "pace", kept);
    }
    Ok(played)
}

/// Insists on the limits for those calls that were made, or on an answer to
/// `each` of them.
fn available(calls: &meter::Report, limits: Limits, each: bool) -> Result<()> {
    let limit = |rpc, longest: Option<Duration>| {
        let was_called = calls.over_all(rpc).is_some();
        let longest_gap = longest.filter(|_| was_called)?;
        Some(availability::Limit {
            rpc,
            least_success: if each { 1.0 } else { 0.0 },
            longest_gap,
            least_calls: 1,
        })
    };
    if let Some(longest) = limits.slowest_push
        && let Some(row) = calls.over_all(Rpc::PushBlob)
    {
        let slowest = Duration::from_micros(row.latency(1.0));
        ensure!(
            slowest <= longest,
            "a push took {slowest:?}, {longest:?} is the limit"
        );
    }
    let all = [
        (Rpc::Read, limits.reads),
        (Rpc::BatchRead, limits.reads),
        (Rpc::FetchBlob, limits.pushes.filter(|_| each)),
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
