//! Whether rows on disk may be believed.
//!
//! sled finds its rows whole after a process was killed, since the kernel keeps
//! what was written. It promises nothing after the machine lost power, as it
//! never syncs, and damage that it meets may end the process (release builds
//! abort on a panic). A small file beside the rows therefore says how they were
//! left:
//!
//! ```text
//!   opening       an opening began and did not end: damage ended the process
//!   open BOOT     in use since the boot named BOOT
//!   closed        synced whole, nothing written since
//! ```
//!
//! Rows are believed if they were closed, or if this boot had them open.
//! The tempting alternative, to catch the panic, finds only damage that sled
//! itself notices.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::journal::disk::{RealDisk, replace_file};

const NAME: &str = "mark";

const OPENING: &str = "opening";
const CLOSED: &str = "closed";

/// The mark in a folder.
#[derive(Clone)]
pub(super) struct Mark {
    dir: PathBuf,
    boot: String,
}

impl Mark {
    /// The mark of this boot in a folder that exists.
    pub(super) fn new(dir: &Path) -> Self {
        // Without a name for the boot no boot is the same as another.
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self::of_boot(dir, boot.trim())
    }

    fn of_boot(dir: &Path, boot: &str) -> Self {
        Self {
            dir: dir.to_owned(),
            boot: boot.to_owned(),
        }
    }

    /// Why what is beside the mark may not be believed; none if it may.
    pub(super) fn doubt(&self) -> io::Result<Option<&'static str>> {
        let mark = match fs::read(self.dir.join(NAME)) {
            Ok(mark) => String::from_utf8_lossy(&mark).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some("nothing says how it was left"));
            }
            Err(error) => return Err(error),
        };
        Ok(if mark == CLOSED {
            None
        } else if mark == OPENING {
            Some("it could not be opened the last time")
        } else if mark == self.open() && !self.boot.is_empty() {
            None
        } else {
            Some("the machine lost power while it was in use")
        })
    }

    pub(super) fn set_opening(&self) -> io::Result<()> {
        self.set(OPENING)
    }

    pub(super) fn set_open(&self) -> io::Result<()> {
        self.set(&self.open())
    }

    pub(super) fn set_closed(&self) -> io::Result<()> {
        self.set(CLOSED)
    }

    fn open(&self) -> String {
        format!("open {}", self.boot)
    }

    /// Durable when it returns: a mark that lags behind would lie.
    fn set(&self, mark: &str) -> io::Result<()> {
        replace_file(&RealDisk::new(&self.dir), Path::new(NAME), mark.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_believed_when_closed_or_open_in_this_boot() {
        let dir = tempfile::tempdir().unwrap();
        let mark = Mark::of_boot(dir.path(), "one");
        let next_boot = Mark::of_boot(dir.path(), "two");
        let nameless = Mark::of_boot(dir.path(), "");
        assert!(mark.doubt().unwrap().is_some(), "no mark at all");
        mark.set_opening().unwrap();
        assert!(mark.doubt().unwrap().is_some(), "an opening did not end");
        mark.set_open().unwrap();
        assert_eq!(mark.doubt().unwrap(), None, "only the process ended");
        assert!(next_boot.doubt().unwrap().is_some(), "power was lost");
        nameless.set_open().unwrap();
        assert!(
            nameless.doubt().unwrap().is_some(),
            "perhaps power was lost"
        );
        mark.set_closed().unwrap();
        for mark in [mark, next_boot, nameless] {
            assert_eq!(mark.doubt().unwrap(), None, "closed");
        }
    }
}
