//! Wall clocks that step: libfaketime in front of a node, told by a file.
//!
//! The monotonic clock is left alone, as a step of the real one leaves it.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde_json::json;

use super::{Fleet, Node};

/// Below the folder of libraries of this machine's kind.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

impl Fleet {
    /// Sets the wall clock of a node so far off the true time.
    pub fn step_clock(&self, number: usize, seconds: i64) -> Result<()> {
        let node = self.node(number);
        anyhow::ensure!(self.options.clocks, "this fleet was made without clocks");
        let detail = json!({"node": node.name, "seconds": seconds});
        self.events.enter("clock", detail);
        set(node, seconds)
    }
}

/// Whether clocks can be stepped here, or in one line why not.
pub fn available() -> Result<(), String> {
    library().map(drop).map_err(|error| format!("{error:#}"))
}

/// The library, or what to install.
pub(super) fn library() -> Result<PathBuf> {
    let found = fs::read_dir("/usr/lib")?
        .flatten()
        .map(|entry| entry.path().join(LIBRARY))
        .find(|path| path.is_file());
    found.context("no libfaketime here; the Debian package is libfaketime")
}

/// Writes the file that tells a node its offset, in one instant.
pub(super) fn set(node: &Node, seconds: i64) -> Result<()> {
    let (file, next) = (node.clock(), node.clock().with_extension("next"));
    fs::write(&next, format!("{seconds:+}"))?;
    Ok(fs::rename(next, file)?)
}

/// Puts the library in front of a command.
pub(super) fn under(command: &mut Command, node: &Node) -> Result<()> {
    command
        .env("LD_PRELOAD", library()?)
        .env("FAKETIME_TIMESTAMP_FILE", node.clock())
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_NO_CACHE", "1")
        .env("NO_FAKE_STAT", "1");
    Ok(())
}
