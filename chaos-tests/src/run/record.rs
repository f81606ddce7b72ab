//! What a run writes down, and judging it again.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{
    judge::{Terms, judge},
    work::Kind,
};
use crate::history::{self, Operation};

/// In the folder of a run.
const FILE: &str = "run.json";

/// What is needed to judge a run again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) scenario: String,
    pub(super) seed: u64,
    pub(super) terms: Terms,
    /// One history each.
    pub(super) kinds: Vec<Kind>,
}

impl Record {
    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        Ok(fs::write(dir.join(FILE), text)?)
    }
}

/// Writes the history of one workload.
pub(super) fn save_history(dir: &Path, kind: Kind, history: &[Operation]) -> Result<()> {
    history::save(&dir.join(file_of(kind)), history)
}

fn file_of(kind: Kind) -> String {
    format!("history-{}.jsonl", kind.name())
}

/// Judges the histories in the folder of a run again. Gives a line about each
/// and what is wrong with them.
pub fn replay(dir: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let file = dir.join(FILE);
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let record: Record =
        serde_json::from_slice(&text).with_context(|| format!("{} is no run", file.display()))?;
    let Record { scenario, seed, .. } = &record;
    let mut lines = vec![format!("{scenario}, seed {seed}")];
    let mut problems = Vec::new();
    for kind in record.kinds {
        let history = history::load(&dir.join(file_of(kind)))?;
        let verdict = judge(kind, &record.terms, &history);
        let (name, operations, keys) = (kind.name(), verdict.operations, verdict.keys);
        lines.push(format!("{name}: {operations} operations on {keys} keys"));
        if let Err(error) = verdict.insist() {
            problems.push(format!("{name}: {error:#}"));
        }
    }
    Ok((lines, problems))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::{ABSENT, Kind as Asked},
        oracle::doubt::Doubt,
    };

    fn operation(kind: Asked, start: u64, value: u64) -> Operation {
        Operation::done(kind, value, start, start + 5)
    }

    /// What a run found can be found again from its folder, by each judge.
    #[test]
    fn a_kept_run_is_judged_again() {
        let good = [
            operation(Asked::Write, 10, 1),
            operation(Asked::Read, 20, 1),
        ];
        let lost = [
            operation(Asked::Write, 10, 1),
            operation(Asked::Read, 20, ABSENT),
        ];
        let kinds = [Kind::Refs, Kind::Artifacts, Kind::Blobs, Kind::Presence];
        for linearizable in [false, true] {
            for (history, wrong) in [(&good, 0), (&lost, kinds.len())] {
                let dir = tempfile::tempdir().unwrap();
                let record = Record {
                    scenario: "calm".into(),
                    seed: 1,
                    terms: Terms {
                        linearizable,
                        undisturbed: true,
                        doubt: Doubt::default(),
                        lease: None,
                    },
                    kinds: kinds.to_vec(),
                };
                record.save(dir.path()).unwrap();
                for kind in kinds {
                    save_history(dir.path(), kind, history).unwrap();
                }
                let (lines, problems) = replay(dir.path()).unwrap();
                assert_eq!((lines.len(), problems.len()), (5, wrong), "{problems:?}");
            }
        }
        assert!(replay(Path::new("/nowhere")).is_err());
    }
}
