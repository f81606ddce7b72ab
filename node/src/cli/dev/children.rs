//! The processes of a development cluster.
//!
//! Invariant: no child outlives the parent. On a clean end each is told to
//! stop and waited for; if the parent is killed the kernel tells them.

use std::{
    fs::File,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::{ByName, DevNode};

/// How long a node may take to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(super) struct Children {
    running: ByName<Running>,
}

struct Running {
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Children {
    /// Starts a node as `weir serve` with this program's own binary.
    pub(super) fn start(&mut self, node: &DevNode) -> anyhow::Result<()> {
        let log = node.dir.join("weir.log");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(std::env::current_exe()?)
            .args(["serve", "--stop-with-parent", "--config"])
            .arg(node.dir.join("weir.toml"))
            .env_remove("WEIR_CONFIG")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Ctrl-C in the terminal reaches the parent alone, which then
            // stops the children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", node.name()))?;
        let pid = child.id().context("a fresh child has a process id")?;
        let running = Running { child, pid, log };
        self.running.insert(node.name().to_owned(), running);
        Ok(())
    }

    pub(super) fn pid(&self, name: &str) -> Option<u32> {
        self.running.get(name).map(|running| running.pid)
    }

    pub(super) fn log(&self, name: &str) -> &Path {
        self.running
            .get(name)
            .map_or(Path::new("weir.log"), |running| &running.log)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// A child that has ended, and how.
    pub(super) fn any_ended(&mut self) -> anyhow::Result<Option<(String, String)>> {
        for (name, running) in &mut self.running {
            if let Some(status) = running.child.try_wait()? {
                return Ok(Some((name.clone(), describe(status))));
            }
        }
        Ok(None)
    }

    /// As [`Self::any_ended`], and forgets it.
    pub(super) fn take_ended(&mut self) -> anyhow::Result<Option<(String, String)>> {
        let ended = self.any_ended()?;
        if let Some((name, _)) = &ended {
            self.running.remove(name);
        }
        Ok(ended)
    }

    /// Tells all to stop and waits for them; kills those that do not.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        for running in self.running.values() {
            let pid = i32::try_from(running.pid).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid {
                // It may have ended already.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let mut killed = Vec::new();
        for (name, running) in &mut self.running {
            if tokio::time::timeout(STOP_LIMIT, running.child.wait())
                .await
                .is_err()
            {
                running.child.kill().await?;
                killed.push(name.clone());
            }
        }
        self.running.clear();
        if !killed.is_empty() {
            let (names, limit) = (killed.join(", "), STOP_LIMIT.as_secs());
            anyhow::bail!("{names} did not stop within {limit} s and was killed");
        }
        Ok(())
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "by itself".into(),
        (Some(code), _) => format!("with exit status {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "in an unknown way".into(),
    }
}
