//! A disk that fails as ordered, under a file system that knows nothing of it.
//!
//! ```text
//!  ext4 ── loop device ── the file of a FUSE file system ── Disk (a process)
//!                          flushes of ext4 are its FSYNC     ├── Cache  writes since the last sync
//!                                                            ├── Rules  what fails, what is slow
//!                                                            └── image  what is durable
//! ```
//!
//! Promised: what was synced is in the image, and nothing else but what a cut
//! left by order of its seed; a disk whose power was cut refuses everything
//! until it is attached again; a sync that fails loses what came before it.
//!
//! Needed beside the rig: `/dev/fuse`, and the program `chaos`, which is also
//! the disk.

mod cache;
mod disk;
mod fuse;
mod rules;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use anyhow::{Context, Result, anyhow, ensure};

use super::{Backing, Room, Volume, VolumeSpec};
use crate::program;

pub use self::{
    cache::{BLOCK_BYTES, Keep},
    disk::{Disk, Order, Told},
    fuse::serve,
    rules::{Access, Failure, Slow},
};

/// A disk that runs, for as long as this lives.
pub struct FaultDisk {
    room: Arc<Room>,
    mount: PathBuf,
    child: Child,
    // A std mutex: one order and its answer at a time.
    wires: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl FaultDisk {
    /// Starts a disk on `NAME.image` in `dir`, mounted in the room at
    /// `NAME.disk`.
    pub fn start(room: Arc<Room>, dir: &Path, name: &str) -> Result<FaultDisk> {
        let mount = dir.join(format!("{name}.disk"));
        fs::create_dir(&mount)?;
        // Names without a folder: trials look for processes with theirs.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program::chaos()?)
            .arg("disk")
            .args([format!("{name}.image"), format!("{name}.disk")])
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = room.run(move || command.spawn())??;
        let wires = child.stdin.take().zip(child.stdout.take());
        let (input, output) = wires.context("a disk without wires")?;
        let disk = FaultDisk {
            room,
            mount,
            child,
            wires: Mutex::new((input, BufReader::new(output))),
        };
        answer(&mut disk.lock().1).context("a disk does not start")?;
        Ok(disk)
    }

    /// The file that a loop device is put on, as the rooms see it.
    pub fn file(&self) -> PathBuf {
        self.mount.join(fuse::NAME)
    }

    /// Orders something, and waits until it is done.
    pub fn order(&self, order: &Order) -> Result<Told> {
        let (input, output) = &mut *self.lock();
        let line = serde_json::to_string(order)?;
        writeln!(input, "{line}")
            .map_err(anyhow::Error::from)
            .and_then(|()| answer(output))
            .with_context(|| format!("a disk, ordered {line}"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (ChildStdin, BufReader<ChildStdout>)> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(output: &mut impl BufRead) -> Result<Told> {
    let mut line = String::new();
    ensure!(output.read_line(&mut line)? > 0, "it has ended");
    let told: Result<Told, String> = serde_json::from_str(&line)?;
    told.map_err(|error| anyhow!("{error}"))
}

impl Drop for FaultDisk {
    fn drop(&mut self) {
        // Whoever still uses it gets errors from here on.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(mount) = self.mount.to_str() {
            let _ = self.room.command("umount", &["-l", mount]);
        }
    }
}

/// Whether disks of this kind can be had on this machine, or in one line why
/// not. Tried once in a process, for real.
pub fn available() -> Result<(), String> {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    FOUND
        .get_or_init(|| super::available().and_then(|()| super::apart(try_it)))
        .clone()
}

fn try_it() -> Result<(), String> {
    let attempt = || -> Result<()> {
        ensure!(Path::new("/dev/fuse").exists(), "there is no /dev/fuse");
        let dir = tempfile::tempdir()?;
        let spec = VolumeSpec {
            bytes: 8 << 20,
            inodes: 128,
            backing: Backing::FaultDisk,
        };
        let mut volume = Volume::create(Room::with_mounts()?, dir.path(), "probe", spec)?;
        volume.unmount()
    };
    attempt().map_err(|error| format!("{error:#}").replace('\n', " "))
}
