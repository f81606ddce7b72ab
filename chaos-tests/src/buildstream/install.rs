//! Installs BuildStream from PyPI into `<target>/clients`, once for all tests.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::{process::run, program::target_dir, trial::Trial};

/// Creating an empty virtual environment, on a machine busy with a build.
const VENV_LIMIT: Duration = Duration::from_secs(180);

/// Downloading and unpacking some 60 MB.
const PIP_LIMIT: Duration = Duration::from_secs(400);

/// Programs that BuildStream needs beside itself, and the Debian package that
/// brings each.
const PROGRAMS: &[(&str, &str)] = &[
    ("python3", "python3"),
    ("bwrap", "bubblewrap"),
    ("fusermount3", "fuse3"),
    ("busybox", "busybox-static"),
    ("tar", "tar"),
];

/// The two lines of BuildStream that are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// 1.6.9: speaks `buildstream.v2.ReferenceStorage` or Remote Asset.
    One,
    /// 2.8.1: speaks Remote Asset, through its own `buildbox-casd`.
    Two,
}

impl Release {
    fn requirements(self) -> &'static [&'static str] {
        match self {
            // 1.6.9 was written for these; newer ones are installed without
            // complaint and fail when it starts.
            Release::One => &["BuildStream==1.6.9", "protobuf<4", "ruamel.yaml<0.18"],
            Release::Two => &["BuildStream==2.8.1"],
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Release::One => "buildstream-1.6.9",
            Release::Two => "buildstream-2.8.1",
        }
    }
}

/// An installed BuildStream.
#[derive(Clone, Debug)]
pub struct BuildStream {
    /// Which one.
    pub release: Release,
    /// Its `bst` program.
    pub bst: PathBuf,
}

impl BuildStream {
    /// Installs `release`, or finds it installed.
    ///
    /// When the machine lacks something, the error is one line that names the
    /// Debian package. Two test processes may call this at once: the second
    /// waits for the first. An installation that was interrupted is made
    /// again from nothing.
    pub fn install(trial: &Trial, release: Release) -> Result<BuildStream> {
        for (program, package) in PROGRAMS {
            if find(program).is_none() {
                bail!("{program} is missing: apt-get install {package}");
            }
        }
        if find("busybox").is_some_and(|busybox| is_dynamic(&busybox)) {
            bail!("busybox needs libraries that a sandbox lacks: apt-get install busybox-static");
        }
        let clients = target_dir()?.join("clients");
        fs::create_dir_all(&clients)?;
        // Released when the file is closed, also by a process that dies. The
        // wait for it is bounded by the other process's own limits.
        let lock = File::create(clients.join(format!("{}.lock", release.folder())))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let venv = clients.join(release.folder());
        let found = BuildStream {
            release,
            bst: venv.join("bin/bst"),
        };
        // A virtual environment holds its own path and cannot be made aside
        // and renamed: this file, written last, says that it is whole.
        let complete = venv.join("complete");
        let wanted = release.requirements().join("\n");
        if fs::read_to_string(&complete).is_ok_and(|has| has == wanted) {
            return Ok(found);
        }
        found.make(trial, &venv)?;
        fs::write(&complete, wanted)?;
        Ok(found)
    }

    fn make(&self, trial: &Trial, venv: &Path) -> Result<()> {
        trial.step(format!(
            "installing {}",
            self.release.requirements().join(" ")
        ));
        if venv.exists() {
            fs::remove_dir_all(venv)?;
        }
        let log = trial
            .dir()
            .join(format!("{}-install.log", self.release.folder()));
        let mut create = Command::new("python3");
        create.args(["-m", "venv"]).arg(venv);
        run(trial, "python3 -m venv", create, &log, VENV_LIMIT)
            .context("python3 makes no virtual environment: apt-get install python3-venv")?;
        let mut pip = Command::new(venv.join("bin/pip"));
        pip.args(["install", "--quiet"])
            .args(self.release.requirements());
        run(trial, "pip install", pip, &log, PIP_LIMIT)?;
        if self.release == Release::One {
            let mut fuse = Command::new(venv.join("bin/python3"));
            fuse.args([
                "-c",
                "import ctypes.util, sys; sys.exit(not ctypes.util.find_library('fuse'))",
            ]);
            run(trial, "looking for libfuse", fuse, &log, VENV_LIMIT)
                .context("libfuse.so.2 is missing: apt-get install libfuse2")?;
        }
        Ok(())
    }
}

/// The program's path. System folders that a plain user's `PATH` may lack are
/// searched as well.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// `ldd` fails on a program that needs no loader.
fn is_dynamic(program: &Path) -> bool {
    Command::new("ldd")
        .arg(program)
        .output()
        .is_ok_and(|answer| answer.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_known_to_be_dynamic() {
        assert!(find("no-such-program-anywhere").is_none());
        assert!(
            is_dynamic(&find("env").unwrap()),
            "coreutils are linked to libc"
        );
    }
}
