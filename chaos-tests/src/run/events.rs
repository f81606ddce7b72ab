//! Reading what was done to a run: how many faults of which kind, and how long
//! clients had to wait for them.
//!
//! ```text
//!  a leader is killed              ──► the next push that begins after it is acknowledged
//!  a node is killed                ──► the longest read of a blob at that time
//!  all lose power, and a majority  ──► a push is acknowledged
//!  has been started again
//! ```

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use super::named::UNNAMED;
use crate::{
    history::{Kind, Operation, Outcome},
    nemesis::{BELIEVED, NOT_ALONE},
};

/// The step at which the clock of the histories was started.
pub(super) const WORK_BEGINS: &str = "work begins";

/// Faults after which whoever led is gone.
const LEADER_KILLS: [&str; 2] = ["kill-leader", "power-cut-leader"];

/// Faults that take one node away from one instant to the next.
const KILLS: [&str; 4] = ["kill", "kill-leader", "power-cut", "power-cut-leader"];

/// The fault that takes all away.
const CUT_OF_ALL: &str = "power-cut-all";

/// Reads that are under way so long after a kill have to do with it.
const READS_AFTER: u64 = 10_000_000;

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
    /// What was found while faults lasted, and as they ended.
    pub(super) problems: Vec<String>,
    /// When leaders were killed, in microseconds of the histories.
    leader_kills: Vec<u64>,
    /// When nodes were killed, leaders too.
    kills: Vec<u64>,
    /// When a majority had been started again after a cut of all.
    restarts: Vec<u64>,
}

/// What a kill means for the figures.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Nothing,
    Kill {
        of_leader: bool,
    },
    /// So many starts until a majority is there again.
    Starts(usize),
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
        let mut awaited = Awaited::Nothing;
        for Entry {
            at_ms,
            what,
            detail,
        } in entries
        {
            let at = begin_ms.and_then(|begin| at_ms.checked_sub(begin));
            let at = at.map(|after_ms| after_ms * 1000);
            match what.as_str() {
                WORK_BEGINS => begin_ms = Some(at_ms),
                "inject" => {
                    let fault = detail["fault"].as_str().unwrap_or("unknown");
                    *done.faults.entry(fault.to_owned()).or_default() += 1;
                    let of_leader = LEADER_KILLS.contains(&fault);
                    awaited = match fault {
                        // Counted from the cut, which names the nodes.
                        CUT_OF_ALL => Awaited::Starts(usize::MAX),
                        fault if KILLS.contains(&fault) => Awaited::Kill { of_leader },
                        _ => Awaited::Nothing,
                    };
                }
                "power cut" if awaited == Awaited::Starts(usize::MAX) => {
                    let nodes = detail["nodes"].as_array().map_or(0, Vec::len);
                    awaited = Awaited::Starts(nodes / 2 + 1);
                }
                "start" => match awaited {
                    Awaited::Starts(1) => {
                        awaited = Awaited::Nothing;
                        done.restarts.extend(at);
                    }
                    Awaited::Starts(left) => awaited = Awaited::Starts(left - 1),
                    _ => {}
                },
                "kill" => {
                    if let Awaited::Kill { of_leader } = awaited {
                        awaited = Awaited::Nothing;
                        done.kills.extend(at);
                        done.leader_kills.extend(at.filter(|_| of_leader));
                    }
                }
                "heal" if matches!(awaited, Awaited::Kill { .. }) => awaited = Awaited::Nothing,
                found @ (NOT_ALONE | BELIEVED) => {
                    let (node, fault) = (&detail["node"], &detail["fault"]);
                    done.problems
                        .push(format!("faults: node {node} {found} after {fault}"));
                }
                UNNAMED => {
                    let (node, why) = (&detail["node"], &detail["why"]);
                    done.problems
                        .push(format!("honesty: node {node} {UNNAMED}: {why}"));
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

    /// For each kill of a node, the milliseconds of the longest read of those
    /// that were tried until they were answered and were under way then or soon
    /// after it, and before the next kill. None where nobody read.
    pub(super) fn read_gaps(&self, reads: &[Operation]) -> Vec<u64> {
        let longest = |(index, kill): (usize, &u64)| {
            let next = self.kills.get(index + 1).copied().unwrap_or(u64::MAX);
            let soon = next.min(kill + READS_AFTER);
            let met = reads
                .iter()
                .filter(|read| read.end > *kill && read.start < soon);
            met.map(|read| (read.end - read.start) / 1000).max()
        };
        self.kills.iter().enumerate().filter_map(longest).collect()
    }

    /// For each cut of all, the milliseconds from the start of the node that
    /// made a majority until a push was acknowledged.
    pub(super) fn restarts(&self, pushes: &[Operation]) -> Vec<u64> {
        let next = |start: &u64| {
            let after = pushes.iter().filter(|op| {
                op.kind == Kind::Write && op.outcome == Outcome::Ok && op.end > *start
            });
            after.map(|op| (op.end - start) / 1000).min()
        };
        self.restarts.iter().filter_map(next).collect()
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
{"at_ms":2150,"what":"start","detail":{"node":"n1"}}
{"at_ms":2200,"what":"did not come back by itself","detail":{"node":"n2","fault":"x"}}
{"at_ms":2250,"what":"was believed","detail":{"node":"n2","fault":"removed-unaware"}}
{"at_ms":2300,"what":"did not name what is broken","detail":{"node":"n2","why":"n1 is down"}}
{"at_ms":3000,"what":"inject","detail":{"fault":"power-cut-all","seed":1}}
{"at_ms":3100,"what":"power cut","detail":{"nodes":["n1","n2","n3"]}}
{"at_ms":3150,"what":"kill","detail":{}}
{"at_ms":3200,"what":"heal","detail":{"fault":"power-cut-all","seed":1}}
{"at_ms":3300,"what":"start","detail":{"node":"n1"}}
{"at_ms":3500,"what":"start","detail":{"node":"n2"}}
{"at_ms":3700,"what":"start","detail":{"node":"n3"}}
{"at_ms":3800,"what":"ki"#;
        let done = Done::of(lines.lines().filter_map(entry));
        assert_eq!(done.faults["kill"], 1);
        assert_eq!(done.faults["kill-leader"], 1);
        assert_eq!(done.leader_kills, [1_100_000]);
        let judges = ["faults: ", "faults: ", "honesty: "];
        assert_eq!(done.problems.len(), judges.len());
        for (problem, judge) in done.problems.iter().zip(judges) {
            assert!(problem.starts_with(judge), "{problem}");
        }
        let push = |start, end, outcome| Operation {
            outcome,
            ..Operation::done(Kind::Write, start, start, end)
        };
        let pushes = [
            push(1_000_000, 1_200_000, Outcome::Ok),
            push(1_150_000, 1_300_000, Outcome::Unknown),
            push(1_200_000, 1_900_000, Outcome::Ok),
        ];
        assert_eq!(done.failovers(&pushes), [800]);
        assert_eq!((&done.kills[..], &done.restarts[..]), {
            (&[510_000, 1_100_000][..], &[2_500_000][..])
        });
        assert_eq!(done.restarts(&pushes), [0; 0]);
        let later = push(2_400_000, 3_100_000, Outcome::Ok);
        assert_eq!(done.restarts(&[&pushes[..], &[later]].concat()), [600]);
        // Under way at the kill, begun soon after, and of another time.
        let reads = [
            (500_000, 515_000),
            (600_000, 1_000_000),
            (12_000_000, 20_000_000),
        ];
        let reads = reads.map(|(start, end)| push(start, end, Outcome::Ok));
        assert_eq!(done.read_gaps(&reads), [400]);
    }
}
