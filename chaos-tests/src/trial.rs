//! One test with real processes: its directory, its progress lines and its
//! watchdog.

use std::{
    collections::BTreeSet,
    fmt::Display,
    fs,
    io::{self, Write},
    panic,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::process::sweep;

/// Lines of each log that a failed trial shows.
const TAIL_LINES: usize = 25;

/// How deep below the trial's directory logs are looked for: cluster
/// directory, node directory, its own log folder.
const LOG_DEPTH: usize = 4;

/// How long the body may take to notice that the watchdog killed its
/// processes; then its thread is given up.
const GRACE: Duration = Duration::from_secs(20);

/// One trial at a time in a test process: each runs several nodes and a
/// client, and a machine of two cores that runs three of them measures only
/// its own scheduler. A std mutex, because it is held by a plain thread for
/// the whole trial and nothing else ever waits on it.
static STAGE: Mutex<()> = Mutex::new(());

/// A running trial. Clones are handles of the same one.
#[derive(Clone)]
pub struct Trial {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    dir: PathBuf,
    start: Instant,
    /// The last progress line, for the watchdog.
    last: Mutex<(String, Instant)>,
    /// Process groups that this trial started and has not yet reaped.
    groups: Mutex<BTreeSet<i32>>,
    /// The directory stays whatever comes of it.
    keeps: AtomicBool,
}

impl Trial {
    /// Runs `body` under a watchdog, in a directory of its own.
    ///
    /// Panics, as a test does, when the body returns an error, panics, or has
    /// not ended within `limit`. In each of these cases every process group
    /// of the trial is killed, the tails of its logs are printed, and its
    /// directory is kept; otherwise the directory is removed.
    pub fn run<F>(name: &'static str, limit: Duration, body: F)
    where
        F: FnOnce(&Trial) -> Result<()> + Send + 'static,
    {
        if let Err((error, kept)) = Trial::attempt(name, limit, body) {
            panic!(
                "{name}: {error:#}\n{name}: everything is kept in {}",
                kept.display()
            );
        }
    }

    /// As [`run`](Self::run), but an error is returned, with the directory
    /// that was kept.
    pub fn attempt<F>(
        name: &'static str,
        limit: Duration,
        body: F,
    ) -> std::result::Result<(), (anyhow::Error, PathBuf)>
    where
        F: FnOnce(&Trial) -> Result<()> + Send + 'static,
    {
        let _stage = lock(&STAGE);
        let dir = tempfile::Builder::new()
            .prefix(&format!("weir-{name}-"))
            .tempdir()
            .expect("a temporary directory can be made");
        let trial = Trial {
            shared: Arc::new(Shared {
                name,
                // As the processes themselves will name it.
                dir: dir.path().canonicalize().expect("it was made a moment ago"),
                start: Instant::now(),
                last: Mutex::new(("start".into(), Instant::now())),
                groups: Mutex::default(),
                keeps: AtomicBool::new(false),
            }),
        };
        let outcome = trial.watch(limit, body);
        trial.kill_all();
        if let Err(error) = outcome {
            trial.show_logs();
            return Err((error, dir.keep()));
        }
        trial.step("done");
        if trial.shared.keeps.load(Ordering::Relaxed) {
            let _ = dir.keep();
        }
        Ok(())
    }

    fn watch<F>(&self, limit: Duration, body: F) -> Result<()>
    where
        F: FnOnce(&Trial) -> Result<()> + Send + 'static,
    {
        let (done, outcome) = mpsc::channel();
        let inner = self.clone();
        thread::Builder::new()
            .name(self.shared.name.into())
            .spawn(move || {
                let result = panic::catch_unwind(panic::AssertUnwindSafe(|| body(&inner)));
                // The watchdog may have given up on us: then nobody listens.
                let _ = done.send(result);
            })?;
        let ended = match outcome.recv_timeout(limit) {
            Ok(ended) => ended,
            Err(_) => {
                let (step, since) = lock(&self.shared.last).clone();
                self.kill_all();
                let after = match outcome.recv_timeout(GRACE) {
                    Ok(Ok(Err(error))) => format!("; once its processes were killed: {error:#}"),
                    _ => String::new(),
                };
                let waited = since.elapsed().as_secs();
                return Err(anyhow!(
                    "hung: not done after {} s, the last {waited} s of them in \"{step}\"{after}",
                    limit.as_secs()
                ));
            }
        };
        ended.unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without a message");
            Err(anyhow!("{text}"))
        })
    }

    /// Prints a progress line, past the test runner's capture: whoever waits
    /// for a long test sees where it is.
    pub fn step(&self, what: impl Display) {
        let text = what.to_string();
        let at = self.shared.start.elapsed().as_secs_f32();
        // A closed stderr is no reason to fail a test.
        let _ = writeln!(io::stderr(), "[{at:6.1}s] {}: {text}", self.shared.name);
        *lock(&self.shared.last) = (text, Instant::now());
    }

    /// Keeps the directory, also when the trial succeeds.
    pub fn keep(&self) {
        self.shared.keeps.store(true, Ordering::Relaxed);
    }

    /// The trial's own directory.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// The trial kills this process group when it ends, until
    /// [`release`](Self::release) is called.
    pub(crate) fn adopt(&self, group: Pid) {
        lock(&self.shared.groups).insert(group.as_raw_nonzero().get());
    }

    /// The process group is reaped: its number may be somebody else's soon.
    pub(crate) fn release(&self, group: Pid) {
        lock(&self.shared.groups).remove(&group.as_raw_nonzero().get());
    }

    /// Kills every process group of the trial, and whatever else runs with
    /// the trial's directory on its command line: nodes are in groups of
    /// their own.
    fn kill_all(&self) {
        for raw in lock(&self.shared.groups).iter() {
            if let Some(group) = Pid::from_raw(*raw) {
                // Fails only when the whole group is gone already.
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
        sweep(self.dir());
    }

    fn show_logs(&self) {
        for log in logs_below(self.dir(), LOG_DEPTH) {
            let tail = tail(&log, TAIL_LINES);
            if !tail.is_empty() {
                let _ = writeln!(io::stderr(), "--- end of {}\n{tail}", log.display());
            }
        }
    }
}

/// The last `lines` lines of a file, as far as they can be read.
pub fn tail(file: &Path, lines: usize) -> String {
    let bytes = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Files named `*.log` below `dir`. Machines' folders are left out: what a
/// client said stands in the error itself.
fn logs_below(dir: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && depth > 1 && entry.file_name() != "machines" {
            found.extend(logs_below(&path, depth - 1));
        } else if !is_dir && path.extension().is_some_and(|end| end == "log") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A panic elsewhere leaves these values whole: each is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::process::{Process, is_running};

    fn sleeper(trial: &Trial) -> Result<Process> {
        let mut command = Command::new("sleep");
        command.arg("600");
        Process::spawn(trial, "sleep", command, &trial.dir().join("sleep.log"))
    }

    fn check(
        limit: Duration,
        body: impl FnOnce(&Trial) -> Result<()> + Send + 'static,
        says: &str,
    ) {
        let (error, kept) = Trial::attempt("trial-of-trials", limit, body).unwrap_err();
        let pid: u32 = fs::read_to_string(kept.join("pid"))
            .unwrap()
            .parse()
            .unwrap();
        fs::remove_dir_all(kept).unwrap();
        let text = format!("{error:#}");
        assert!(text.contains(says), "{text}");
        assert!(!is_running(pid), "process {pid} was left behind");
    }

    fn start(trial: &Trial) -> Result<Process> {
        let process = sleeper(trial)?;
        fs::write(trial.dir().join("pid"), process.pid().to_string())?;
        Ok(process)
    }

    #[test]
    fn a_trial_that_hangs_is_ended_and_says_where_it_hung() {
        let body = |trial: &Trial| {
            let mut process = start(trial)?;
            trial.step("waiting for ever");
            process.wait(Duration::from_secs(500)).map(drop)
        };
        check(Duration::from_millis(300), body, "in \"waiting for ever\"");
    }

    #[test]
    fn a_trial_that_fails_leaves_no_process() {
        let long = Duration::from_secs(60);
        let fails = |trial: &Trial| {
            let _process = start(trial)?;
            Err(anyhow!("no such luck"))
        };
        check(long, fails, "no such luck");
        let panics = |trial: &Trial| {
            let _process = start(trial)?;
            panic!("at the {}", "disco")
        };
        check(long, panics, "at the disco");
    }

    #[test]
    fn a_trial_that_succeeds_removes_its_directory_unless_it_is_to_be_kept() {
        let (tell, told) = mpsc::channel();
        Trial::run("trial-of-success", Duration::from_secs(60), move |trial| {
            Ok(tell.send(trial.dir().to_owned())?)
        });
        assert!(!told.recv().unwrap().exists());
        let (tell, told) = mpsc::channel();
        Trial::run("trial-of-success", Duration::from_secs(60), move |trial| {
            trial.keep();
            Ok(tell.send(trial.dir().to_owned())?)
        });
        fs::remove_dir(told.recv().unwrap()).unwrap();
    }
}
