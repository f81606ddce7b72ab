//! What a node takes of its machine.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use super::Fleet;

/// One look at a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Readings {
    /// Memory in use.
    pub rss_bytes: u64,
    /// The most it was since the start.
    pub rss_peak_bytes: u64,
    /// Open files, sockets included.
    pub files: u64,
    /// Threads.
    pub threads: u64,
}

impl Fleet {
    /// What a running node takes now.
    pub fn readings(&self, number: usize) -> Result<Readings> {
        let node = self.node(number);
        let pid = node
            .pid()
            .with_context(|| format!("{} does not run", node.name))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let files = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
        let read = |key| field(&status, key).with_context(|| format!("no {key} of {}", node.name));
        Ok(Readings {
            rss_bytes: read("VmRSS")? << 10,
            rss_peak_bytes: read("VmHWM")? << 10,
            files,
            threads: read("Threads")?,
        })
    }
}

/// A number of `/proc/PID/status`; sizes are in KiB there.
fn field(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.strip_prefix(':')?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "VmRSSx:\t1 kB\nVmRSS:\t  120 kB\nThreads:\t7\n";
        assert_eq!(super::field(status, "Threads"), Some(7));
        assert_eq!(super::field(status, "VmHWM"), None);
        assert_eq!(super::field("VmRSS:\t  120 kB\n", "VmRSS"), Some(120));
    }
}
