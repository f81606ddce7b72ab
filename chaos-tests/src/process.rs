//! Child processes, each the leader of a process group of its own, with all
//! output in a file.
//!
//! A group, because `weir dev` and BuildStream start children themselves:
//! killing only the leader would leave those behind. A file and no pipe,
//! because nobody reads while the test waits, and a full pipe stops the child.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process, kill_process_group},
};

use crate::{
    trial::{Trial, tail},
    wait::until,
};

/// How long a killed process may take to be gone.
const DEATH_LIMIT: Duration = Duration::from_secs(20);

/// How long a program that overran its time may take to stop its own children
/// before the whole group is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How every panic is told.
pub const PANIC: &str = "panicked at";

/// Lines of output that an error about a process shows.
const TAIL_LINES: usize = 40;

/// A child process with its group and its log. Dropping it kills the group.
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: PathBuf,
    trial: Trial,
    ended: Option<ExitStatus>,
    /// How much of the log was looked through for [`PANIC`].
    searched: u64,
    has_panicked: bool,
}

impl Process {
    /// Starts `command` with output appended to `log`.
    pub fn spawn(trial: &Trial, name: &str, mut command: Command, log: &Path) -> Result<Process> {
        let out = File::options().create(true).append(true).open(log)?;
        let searched = out.metadata()?.len();
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let pid = Pid::from_child(&child);
        trial.adopt(pid);
        Ok(Process {
            name: name.to_owned(),
            child,
            pid,
            log: log.to_owned(),
            trial: trial.clone(),
            ended: None,
            searched,
            has_panicked: false,
        })
    }

    /// The number of the process, which is also that of its group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that the process and its children printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of the log, for an error's text.
    pub fn tail(&self) -> String {
        format!(
            "end of {}:\n{}",
            self.log.display(),
            tail(&self.log, TAIL_LINES)
        )
    }

    /// Sends a signal to the process alone, not to its group.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.status()?.is_none() {
            kill_process(self.pid, signal)?;
        }
        Ok(())
    }

    /// How the process ended, or `None` while it runs.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Waits for the end of the process and says how it ended.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} (process {}) to end", self.name, self.child.id());
        until(what, limit, || self.status()).map_err(|error| anyhow!("{error}\n{}", self.tail()))
    }

    /// An error when the process has ended, with the end of its log, and when a
    /// thread of it has panicked: nothing good can be waited for any more.
    pub fn still_runs(&mut self) -> Result<()> {
        if let Some(status) = self.status()? {
            bail!("{} ended early: {status}\n{}", self.name, self.tail());
        }
        if self.has_panicked()? {
            bail!("{} has panicked: see {}", self.name, self.log.display());
        }
        Ok(())
    }

    /// Whether its log tells of a panic since it was started.
    fn has_panicked(&mut self) -> Result<bool> {
        if !self.has_panicked {
            let mut log = File::open(&self.log)?;
            log.seek(SeekFrom::Start(self.searched))?;
            let mut text = Vec::new();
            let read = log.read_to_end(&mut text)?;
            self.has_panicked = String::from_utf8_lossy(&text).contains(PANIC);
            // The text may be there only half.
            let kept = PANIC.len().min(read);
            self.searched += (read - kept) as u64;
        }
        Ok(self.has_panicked)
    }

    /// `kill -9` of the whole group, and the leader reaped.
    pub fn kill(&mut self) {
        // Fails only when the whole group is gone already.
        let _ = kill_process_group(self.pid, Signal::KILL);
        if self.wait(DEATH_LIMIT).is_ok() {
            self.trial.release(self.pid);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `command` to its end and returns what it printed.
///
/// An exit code other than 0, or no end within `limit`, is an error that
/// shows the end of the output.
pub fn run(
    trial: &Trial,
    name: &str,
    command: Command,
    log: &Path,
    limit: Duration,
) -> Result<String> {
    let mut process = Process::spawn(trial, name, command, log)?;
    let status = match process.wait(limit) {
        Ok(status) => status,
        Err(late) => {
            process.signal(Signal::TERM)?;
            // Killed by the drop below when it does not stop by itself.
            let _ = process.wait(STOP_LIMIT);
            return Err(late);
        }
    };
    if !status.success() {
        bail!("{name} failed: {status}\n{}", process.tail());
    }
    Ok(process.output())
}

/// Whether a process of this number runs; one that ended and is only not yet
/// reaped does not count.
pub fn is_running(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The state follows the program's name, which is in parentheses and may
    // itself hold any character.
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// The running processes whose command line names `path`.
///
/// Asked before a process is killed by number alone: numbers are used again.
/// Never this process itself.
pub fn running_with(path: &Path) -> Vec<u32> {
    let needle = path.as_os_str().as_encoded_bytes();
    let mut found: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.windows(needle.len()).any(|part| part == needle))
        })
        .filter(|pid| is_running(*pid) && *pid != std::process::id())
        .collect();
    found.sort_unstable();
    found
}

/// `kill -9` by number, all in one go, and waits until the processes are gone.
///
/// An error, and nothing is killed, when one of them is not a running process
/// whose command line names `path`.
pub fn kill9(pids: &[u32], path: &Path) -> Result<()> {
    let ours = running_with(path);
    let mut targets = Vec::new();
    for pid in pids {
        if !ours.contains(pid) {
            bail!("no process {pid} of {} runs", path.display());
        }
        let raw = i32::try_from(*pid).ok().and_then(Pid::from_raw);
        targets.push(raw.context("no such process number")?);
    }
    for target in targets {
        match kill_process(target, Signal::KILL) {
            // It ended by itself since it was looked for.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for pid in pids {
        until(format!("process {pid} to be gone"), DEATH_LIMIT, || {
            Ok((!is_running(*pid)).then_some(()))
        })?;
    }
    Ok(())
}

/// `kill -9` of every process whose command line names `path`, until none is
/// left or a limit is reached. For the end of a test, where processes may be
/// ending by themselves.
pub fn sweep(path: &Path) {
    // What cannot be killed now, in time, cannot be helped by its caller.
    let _ = until("processes to be gone", DEATH_LIMIT, || {
        let left = running_with(path);
        for pid in &left {
            // Gone already at worst.
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        Ok(left.is_empty().then_some(()))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also one whose text comes in two parts, and none of an earlier process
    /// that wrote to the same log.
    #[test]
    fn a_panic_is_noticed_while_the_process_runs() {
        Trial::run("process-panics", Duration::from_secs(60), |trial| {
            let log = trial.dir().join("some.log");
            fs::write(&log, "thread 'old' panicked at old.rs\n")?;
            let mut command = Command::new("sh");
            command.args(["-c", ":"]);
            let mut process = Process::spawn(trial, "sh", command, &log)?;
            for (text, is_well) in [("", true), ("thread 'x' panick", true), ("ed at x", false)] {
                let mut file = File::options().append(true).open(&log)?;
                std::io::Write::write_all(&mut file, text.as_bytes())?;
                assert_eq!(process.has_panicked()?, !is_well, "{text:?}");
            }
            assert!(process.has_panicked()?, "it is not forgotten");
            Ok(())
        });
    }
}
