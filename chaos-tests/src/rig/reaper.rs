//! Removes files when this process is gone, however it went.

use std::{
    fs,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::Result;
use std::os::unix::process::CommandExt;

/// Waits for the end of its input, which comes when this process ends, by
/// itself or not. Names come by the environment: trials look for processes
/// with their directory on the command line.
const SCRIPT: &str = "cat >/dev/null
    for try in 1 2 3 4 5 6 7 8 9 10; do
        rmdir \"$REAPED_GROUPS\"/* \"$REAPED_GROUPS\" 2>/dev/null
        rm -rf -- \"$REAPED_DIR\" 2>/dev/null
        [ -e \"$REAPED_DIR\" ] || [ -e \"$REAPED_GROUPS\" ] || exit 0
        sleep 0.3
    done";

/// A process that outlives this one by a moment and removes what it left.
pub(super) struct Reaper {
    child: Child,
    input: Option<ChildStdin>,
}

impl Reaper {
    /// Will remove the directory, and the control groups below another one.
    pub(super) fn new(dir: &Path, groups: &Path) -> Result<Reaper> {
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT])
            .env("REAPED_DIR", fs::canonicalize(dir)?)
            .env("REAPED_GROUPS", groups)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal to our group is not for it.
            .process_group(0)
            .spawn()?;
        let input = child.stdin.take();
        Ok(Reaper { child, input })
    }

    /// Gives up: everything is kept.
    pub(super) fn dismiss(&mut self) {
        let _ = self.child.kill();
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}
