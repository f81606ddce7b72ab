//! The ledger of all runs: a JSON file that adds up, whoever writes to it.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{Read, Seek, Write},
    path::Path,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Report;

/// Times that are kept; the last ones.
const KEPT: usize = 100_000;

/// What all runs together did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    pub runs: u64,
    pub failed_runs: u64,
    pub seconds: f64,
    /// Faults by name.
    pub faults: BTreeMap<String, u64>,
    /// Runs by scenario.
    pub scenarios: BTreeMap<String, u64>,
    pub operations: u64,
    /// Pushes and fetches of refs and artifacts among them.
    #[serde(default)]
    pub ref_operations: u64,
    pub acknowledged: u64,
    pub reads: u64,
    /// Problems of all runs.
    pub violations: u64,
    /// From the kill of a leader to the next acknowledged push.
    pub failovers_ms: Vec<u64>,
    /// The most memory that any node had, in bytes.
    #[serde(default)]
    pub rss_peak_bytes: u64,
}

impl Tally {
    /// Adds a run to a file, which is made if there is none. It is locked
    /// meanwhile, so that runs of several processes add up.
    pub fn enter(file: &Path, report: &Report) -> Result<Tally> {
        let add = || -> Result<Tally> {
            let mut open = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(file)?;
            open.lock()?;
            let mut text = String::new();
            open.read_to_string(&mut text)?;
            let mut tally = match text.trim() {
                "" => Tally::default(),
                text => serde_json::from_str(text)?,
            };
            tally.add(report);
            let text = serde_json::to_string_pretty(&tally)? + "\n";
            open.rewind()?;
            open.write_all(text.as_bytes())?;
            open.set_len(text.len() as u64)?;
            Ok(tally)
        };
        add().with_context(|| format!("the ledger {}", file.display()))
    }

    /// Reads a file.
    pub fn load(file: &Path) -> Result<Tally> {
        let text = std::fs::read(file).with_context(|| format!("no {}", file.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.failed_runs += u64::from(!report.has_passed());
        self.seconds += report.seconds;
        for (fault, count) in &report.faults {
            *self.faults.entry(fault.clone()).or_default() += count;
        }
        *self.scenarios.entry(report.scenario.clone()).or_default() += 1;
        self.operations += report.operations;
        self.ref_operations += report.ref_operations;
        self.rss_peak_bytes = self.rss_peak_bytes.max(report.rss_peak_bytes);
        self.acknowledged += report.acknowledged;
        self.reads += report.reads;
        self.violations += report.problems.len() as u64;
        self.failovers_ms.extend(&report.failovers_ms);
        let surplus = self.failovers_ms.len().saturating_sub(KEPT);
        self.failovers_ms.drain(..surplus);
    }

    /// Milliseconds within which this share of the pushes was acknowledged
    /// after a leader was killed.
    #[must_use]
    pub fn failover_ms(&self, share: f64) -> Option<u64> {
        let mut sorted = self.failovers_ms.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            runs,
            failed_runs,
            operations,
            ref_operations,
            acknowledged,
            reads,
            violations,
            rss_peak_bytes,
            ..
        } = self;
        let hours = self.seconds / 3600.0;
        let faults: u64 = self.faults.values().sum();
        let kinds = self.faults.len();
        writeln!(
            out,
            "{runs} runs of {} scenarios in {hours:.2} hours, {failed_runs} of them failed",
            self.scenarios.len()
        )?;
        writeln!(out, "{faults} faults of {kinds} kinds")?;
        writeln!(
            out,
            "{operations} operations judged ({ref_operations} of refs), {acknowledged} promises, \
             {reads} reads back, {violations} violations"
        )?;
        writeln!(out, "nodes of {} MiB at most", rss_peak_bytes >> 20)?;
        let at = |share| self.failover_ms(share);
        if let (Some(p50), Some(p99), Some(max)) = (at(0.5), at(0.99), at(1.0)) {
            writeln!(
                out,
                "{} leaders killed; next acknowledged push: p50 {p50} ms, p99 {p99} ms, max {max} ms",
                self.failovers_ms.len()
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many writers at once lose nothing.
    #[test]
    fn runs_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ledger.json");
        std::thread::scope(|scope| {
            for thread in 1..=4_u64 {
                let file = &file;
                scope.spawn(move || {
                    for run in 0..25 {
                        let report = Report {
                            scenario: format!("s{thread}"),
                            operations: 10,
                            ref_operations: 3,
                            rss_peak_bytes: thread << 20,
                            failovers_ms: vec![thread * 25 + run],
                            faults: BTreeMap::from([("kill".to_owned(), 2)]),
                            problems: (run == 0).then(|| "bad".to_owned()).into_iter().collect(),
                            ..Report::default()
                        };
                        Tally::enter(file, &report).unwrap();
                    }
                });
            }
        });
        let tally = Tally::load(&file).unwrap();
        assert_eq!(
            (tally.runs, tally.failed_runs, tally.violations),
            (100, 4, 4)
        );
        assert_eq!((tally.operations, tally.faults["kill"]), (1000, 200));
        assert_eq!((tally.ref_operations, tally.rss_peak_bytes), (300, 4 << 20));
        assert_eq!(tally.failover_ms(0.5), Some(74));
        assert_eq!(tally.failover_ms(0.99), Some(123));
        assert_eq!(tally.failover_ms(1.0), Some(124));
        assert_eq!(Tally::default().failover_ms(0.5), None);
    }
}
