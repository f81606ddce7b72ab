//! What came of a run.

use std::{collections::BTreeMap, fmt, fs, path::Path, path::PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use weir_cluster::planted;

/// Lines of one problem that are shown.
const LINES: usize = 14;

/// What came of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub scenario: String,
    pub seed: u64,
    /// How many times the scenario's own fetches of refs were made.
    pub fetches_times: u32,
    /// The bug that was planted in its nodes, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planted: Option<Planted>,
    pub seconds: f64,
    /// Faults that were injected, by name.
    pub faults: BTreeMap<String, u64>,
    /// Operations of clients that were judged.
    pub operations: u64,
    /// Pushes and fetches of refs and artifacts among them.
    #[serde(default)]
    pub ref_operations: u64,
    /// Promises that clients were given.
    pub acknowledged: u64,
    /// Reads of the full scan.
    pub reads: u64,
    #[serde(flatten)]
    pub figures: Figures,
    /// What must not have been; empty if the run passed.
    pub problems: Vec<String>,
    /// The folder of a run that did not pass, or that was ordered to be kept.
    pub kept: Option<PathBuf>,
}

/// What was measured, in one run or in all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Blobs of which, when all had ended, each owner and nobody else had a copy.
    pub blobs_in_place: u64,
    /// The most memory that a node had, in bytes.
    pub rss_peak_bytes: u64,
    /// Milliseconds from each kill of a leader to the next acknowledged push.
    pub failovers_ms: Vec<u64>,
    /// Milliseconds of the longest read of a blob, tried until it was answered,
    /// at each kill of a node.
    pub read_gaps_ms: Vec<u64>,
    /// Milliseconds from the start of a majority after a power cut of all to the
    /// next acknowledged push.
    pub restarts_ms: Vec<u64>,
}

/// A bug that was planted in the nodes of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Planted {
    pub bug: String,
    /// Whether a node came to it.
    pub reached: bool,
}

/// What [`Report::problems`] begin with where there was no run, or its course
/// ended early: nothing that a judge found.
pub const COURSE: &str = "the run";

impl Report {
    #[must_use]
    pub fn has_passed(&self) -> bool {
        self.problems.is_empty()
    }

    /// How to run the same again.
    #[must_use]
    pub fn reproduce(&self) -> String {
        let Report { scenario, seed, .. } = self;
        let planted = self.planted.as_ref();
        let planted = planted.map_or_else(String::new, |planted| {
            format!("{}={} ", planted::VARIABLE, planted.bug)
        });
        let times = match self.fetches_times {
            0 | 1 => String::new(),
            times => format!(" --fetches-times {times}"),
        };
        format!("{planted}chaos run --scenario {scenario} --seed {seed}{times}")
    }

    /// The first problem that this judge found.
    #[must_use]
    pub fn found_by(&self, judge: &str) -> Option<&str> {
        let is_its = |problem: &&String| {
            let said = problem.strip_prefix(judge);
            said.is_some_and(|said| said.starts_with(": "))
        };
        self.problems.iter().find(is_its).map(String::as_str)
    }

    /// Writes it as JSON.
    pub fn save(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Reads what [`save`](Self::save) wrote.
    pub fn load(file: &Path) -> Result<Report> {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// The problems, each cut short.
    #[must_use]
    pub fn first_problems(&self, most: usize) -> String {
        let mut text = String::new();
        for problem in self.problems.iter().take(most) {
            for (number, line) in problem.lines().take(LINES).enumerate() {
                let mark = if number == 0 { "  - " } else { "    " };
                text += &format!("{mark}{line}\n");
            }
        }
        let more = self.problems.len().saturating_sub(most);
        if more > 0 {
            text += &format!("  and {more} more\n");
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            scenario,
            seed,
            seconds,
            operations,
            ref_operations,
            reads,
            figures,
            ..
        } = self;
        let verdict = if self.has_passed() {
            "passed"
        } else {
            "FAILED"
        };
        let faults: u64 = self.faults.values().sum();
        write!(
            out,
            "{verdict} {scenario} seed {seed}: {seconds:.0} s, {faults} faults, \
             {operations} operations judged ({ref_operations} of refs), {reads} reads back"
        )?;
        if figures.rss_peak_bytes > 0 {
            write!(
                out,
                ", nodes of {} MiB at most",
                figures.rss_peak_bytes >> 20
            )?;
        }
        for (what, times) in [
            ("leaders back after", &figures.failovers_ms),
            ("longest reads", &figures.read_gaps_ms),
            ("pushes again after", &figures.restarts_ms),
        ] {
            if !times.is_empty() {
                write!(out, ", {what} {times:?} ms")?;
            }
        }
        Ok(())
    }
}
