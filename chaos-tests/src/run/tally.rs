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

use super::{Report, report::Figures};

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
    #[serde(flatten)]
    pub figures: Figures,
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
        self.acknowledged += report.acknowledged;
        self.reads += report.reads;
        self.violations += report.problems.len() as u64;
        let (all, new) = (&mut self.figures, &report.figures);
        all.blobs_in_place += new.blobs_in_place;
        all.rss_peak_bytes = all.rss_peak_bytes.max(new.rss_peak_bytes);
        keep(&mut all.failovers_ms, &new.failovers_ms);
        keep(&mut all.read_gaps_ms, &new.read_gaps_ms);
        keep(&mut all.restarts_ms, &new.restarts_ms);
    }
}

/// Adds times, and keeps the last.
fn keep(all: &mut Vec<u64>, new: &[u64]) {
    all.extend(new);
    let surplus = all.len().saturating_sub(KEPT);
    all.drain(..surplus);
}

/// The time within which this share of the times is.
fn within(times: &[u64], share: f64) -> Option<u64> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
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
            figures,
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
             {reads} reads back, {} blobs counted on disk, {violations} violations",
            figures.blobs_in_place
        )?;
        writeln!(out, "nodes of {} MiB at most", figures.rss_peak_bytes >> 20)?;
        for (what, times) in [
            ("leaders killed; next push", &figures.failovers_ms),
            (
                "nodes killed; longest read with retries",
                &figures.read_gaps_ms,
            ),
            (
                "power cuts of all; push after a majority began",
                &figures.restarts_ms,
            ),
        ] {
            let at = |share| within(times, share);
            if let (Some(p50), Some(p99), Some(max)) = (at(0.5), at(0.99), at(1.0)) {
                let count = times.len();
                writeln!(
                    out,
                    "{count} {what}: p50 {p50} ms, p99 {p99} ms, max {max} ms"
                )?;
            }
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
                            figures: Figures {
                                rss_peak_bytes: thread << 20,
                                failovers_ms: vec![thread * 25 + run],
                                ..Figures::default()
                            },
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
        assert_eq!(
            (tally.ref_operations, tally.figures.rss_peak_bytes),
            (300, 4 << 20)
        );
        let at = |share| within(&tally.figures.failovers_ms, share);
        assert_eq!([at(0.5), at(0.99), at(1.0)], [74, 123, 124].map(Some));
        assert_eq!(within(&[], 0.5), None);
        let text = tally.to_string();
        assert!(
            text.contains("100 leaders killed; next push: p50 74 ms, p99 123 ms, max 124 ms"),
            "{text}"
        );
        assert!(!text.contains("longest read"), "{text}");
    }
}
