//! Runs in processes of their own, a few at a time.

use std::{
    env,
    fs::{self, File},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use weir_cluster::planted;

use crate::{
    run::{Planted, Report},
    scenario::Scenario,
    trial::tail,
};

/// A run that has not ended by then is ended.
const RUN_LIMIT: Duration = Duration::from_secs(960);

/// Between two looks at a process.
const REST: Duration = Duration::from_millis(50);

/// Lines of its output that a run that ended without a report shows.
const TAIL_LINES: usize = 12;

/// One run to do.
#[derive(Clone, Copy)]
pub(super) struct Task {
    pub(super) scenario: &'static Scenario,
    pub(super) seed: u64,
    /// See [`Work::fetches_times`](crate::scenario::Work::fetches_times).
    pub(super) fetches_times: u32,
    /// The name of a bug that its nodes have.
    pub(super) planted: Option<&'static str>,
}

/// Takes tasks from `next` until there are none, `at_once` at a time, and
/// hands each report to `told`.
pub(super) fn run_all(
    at_once: usize,
    ledger: &Path,
    next: impl FnMut() -> Option<Task> + Send,
    told: impl FnMut(Report) + Send,
) {
    let (next, told) = (Mutex::new(next), Mutex::new(told));
    thread::scope(|scope| {
        for _ in 0..at_once.max(1) {
            scope.spawn(|| {
                while let Some(task) = take(&next) {
                    let report = run(task, ledger);
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    told(report);
                }
            });
        }
    });
}

fn take(next: &Mutex<impl FnMut() -> Option<Task>>) -> Option<Task> {
    // Dropped before the task is run.
    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
    next()
}

fn run(task: Task, ledger: &Path) -> Report {
    let start = Instant::now();
    attempt(task, ledger).unwrap_or_else(|error| Report {
        scenario: task.scenario.name.into(),
        seed: task.seed,
        fetches_times: task.fetches_times,
        planted: task.planted.map(|bug| Planted {
            bug: bug.into(),
            reached: false,
        }),
        seconds: start.elapsed().as_secs_f64(),
        problems: vec![format!("{error:#}")],
        ..Report::default()
    })
}

fn attempt(task: Task, ledger: &Path) -> Result<Report> {
    let Task { scenario, seed, .. } = task;
    let dir = tempfile::tempdir()?;
    let (report, output) = (dir.path().join("report.json"), dir.path().join("output"));
    let log = File::create(&output)?;
    let mut command = Command::new(env::current_exe()?);
    if let Some(bug) = task.planted {
        command.env(planted::VARIABLE, bug);
    }
    let child = command
        .args(["run", "--scenario", scenario.name])
        .args(["--seed", &seed.to_string()])
        .args(["--fetches-times", &task.fetches_times.to_string()])
        .arg("--ledger")
        .arg(ledger)
        .arg("--report")
        .arg(&report)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let status = wait(child)?;
    let report = Report::load(&report).with_context(|| {
        let said = tail(&output, TAIL_LINES);
        format!("it ended with {status} and left no report; at last it said\n{said}")
    })?;
    if let Some(kept) = &report.kept {
        fs::copy(&output, kept.join("output.log"))?;
    }
    Ok(report)
}

/// Waits for a process, and kills one that hangs: what it started dies with it.
fn wait(mut child: Child) -> Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > RUN_LIMIT {
            child.kill()?;
            return Ok(child.wait()?);
        }
        thread::sleep(REST);
    }
}
