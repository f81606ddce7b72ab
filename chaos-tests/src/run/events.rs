//! Reading what was done to a run: how many faults of which kind, and how long
//! the next acknowledged push took after the leader was killed.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    history::{Kind, Operation, Outcome},
    nemesis::{BELIEVED, NOT_ALONE},
};

/// The step at which the clock of the histories was started.
pub(super) const WORK_BEGINS: &str = "work begins";

/// Faults after which whoever led is gone.
const LEADER_KILLS: [&str; 2] = ["kill-leader", "power-cut-leader"];

/// One line.
struct Entry {
    at_ms: u64,
    what: String,
    detail: Value,
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Faults by name.
    pub(super) faults: BTreeMap<String, u64>,
    /// What the faults themselves found.
    pub(super) problems: Vec<String>,
    /// When leaders were killed, in microseconds of the histories.
    leader_kills: Vec<u64>,
}

impl Done {
    pub(super) fn read(file: &Path) -> Result<Done> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Done::of(text.lines().filter_map(entry)))
    }

    fn of(entries: impl Iterator<Item = Entry>) -> Done {
        let mut done = Done::default();
        let mut begin_ms = None;
        let mut awaits_kill = false;
        for Entry {
            at_ms,
            what,
            detail,
        } in entries
        {
            match what.as_str() {
                WORK_BEGINS => begin_ms = Some(at_ms),
                "inject" => {
                    let fault = detail["fault"].as_str().unwrap_or("unknown");
                    *done.faults.entry(fault.to_owned()).or_default() += 1;
                    awaits_kill = LEADER_KILLS.contains(&fault);
                }
                "kill" if awaits_kill => {
                    awaits_kill = false;
                    if let Some(after_ms) = begin_ms.and_then(|begin| at_ms.checked_sub(begin)) {
                        done.leader_kills.push(after_ms * 1000);
                    }
                }
                "heal" => awaits_kill = false,
                found @ (NOT_ALONE | BELIEVED) => {
                    let (node, fault) = (&detail["node"], &detail["fault"]);
                    done.problems
                        .push(format!("node {node} {found} after {fault}"));
                }
                _ => {}
            }
        }
        done
    }

    /// For each kill of a leader, the milliseconds until a push was
    /// acknowledged that began after it.
    pub(super) fn failovers(&self, pushes: &[Operation]) -> Vec<u64> {
        let next = |kill: &u64| {
            let after = pushes.iter().filter(|op| {
                op.kind == Kind::Write && op.outcome == Outcome::Ok && op.start >= *kill
            });
            after.map(|op| (op.end - kill) / 1000).min()
        };
        self.leader_kills.iter().filter_map(next).collect()
    }
}

fn entry(line: &str) -> Option<Entry> {
    // A run that was killed may have left half a line.
    let mut line: Value = serde_json::from_str(line).ok()?;
    Some(Entry {
        at_ms: line["at_ms"].as_u64()?,
        what: line["what"].as_str()?.to_owned(),
        detail: line["detail"].take(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::UNTOLD;

    #[test]
    fn faults_are_counted_and_failovers_timed() {
        let lines = r#"
{"at_ms":900,"what":"kill","detail":{}}
{"at_ms":1000,"what":"work begins","detail":{}}
{"at_ms":1500,"what":"inject","detail":{"fault":"kill","seed":1}}
{"at_ms":1510,"what":"kill","detail":{}}
{"at_ms":1600,"what":"heal","detail":{"fault":"kill","seed":1}}
{"at_ms":2000,"what":"inject","detail":{"fault":"kill-leader","seed":1}}
{"at_ms":2100,"what":"kill","detail":{}}
{"at_ms":2200,"what":"did not come back by itself","detail":{"node":"n2","fault":"x"}}
{"at_ms":2250,"what":"was believed","detail":{"node":"n2","fault":"removed-unaware"}}
{"at_ms":2300,"what":"ki"#;
        let done = Done::of(lines.lines().filter_map(entry));
        assert_eq!(done.faults["kill"], 1);
        assert_eq!(done.faults["kill-leader"], 1);
        assert_eq!(done.leader_kills, [1_100_000]);
        assert_eq!(done.problems.len(), 2);
        let push = |start, end, outcome| Operation {
            process: 0,
            key: 0,
            kind: Kind::Write,
            outcome,
            node: 0,
            uri: 0,
            start,
            end,
            value: start,
            revision: UNTOLD,
        };
        let pushes = [
            push(1_000_000, 1_200_000, Outcome::Ok),
            push(1_150_000, 1_300_000, Outcome::Unknown),
            push(1_200_000, 1_900_000, Outcome::Ok),
        ];
        assert_eq!(done.failovers(&pushes), [800]);
    }
}
