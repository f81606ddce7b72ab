//! What nodes must say while a fault lasts.
//!
//! [`TABLE`] has, for each fault, what is to be said of those whom it hits. It
//! is looked at just before a step is healed, where every fault of the step is
//! in the table and a majority is hit by none that takes it away. What is not
//! said is entered, and the run goes on.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, anyhow, ensure};
use serde_json::json;

use crate::{
    fleet::Fleet,
    invariants::honesty::{self, Broken},
    nemesis::Hit,
    wait::until,
};

/// Until it is said: a node notices that its volume is full when it has to
/// write, or when it looks whether Raft has what it keeps.
const LIMIT: Duration = Duration::from_secs(45);

/// Entered when a node did not say what it must.
pub(super) const UNNAMED: &str = "did not name what is broken";

/// What is said of a member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Said {
    /// It owns blobs and takes none, for want of room.
    Full,
    /// Its volume is out of use.
    Fenced,
    /// Nobody hears of it.
    Down,
}

/// What is said of whom a fault hits. A volume without inodes is not in it: it
/// takes small blobs as long as there is room in its segments.
const TABLE: &[(&str, Said)] = &[
    ("kill", Said::Down),
    ("kill-leader", Said::Down),
    ("stop", Said::Down),
    ("stop-leader", Said::Down),
    ("power-cut", Said::Down),
    ("power-cut-leader", Said::Down),
    ("torn-cut", Said::Down),
    ("zone-loss", Said::Down),
    ("pause", Said::Down),
    ("pause-leader", Said::Down),
    ("isolate", Said::Down),
    ("leader-alone", Said::Down),
    ("zone-away", Said::Down),
    ("deaf", Said::Down),
    ("deaf-leader", Said::Down),
    ("mute", Said::Down),
    ("mute-leader", Said::Down),
    ("read-only", Said::Fenced),
    ("vanish", Said::Fenced),
    ("write-errors", Said::Fenced),
    ("sync-errors", Said::Fenced),
    ("disk-full", Said::Full),
];

/// What a node answers whose store is full.
const FULL: (u16, &str) = (503, "volume: full\n");

/// Looks for what the table has, in what every member says that is not taken
/// away. Where stores may fill, a node may be full besides.
pub(super) fn look(fleet: &mut Fleet, hits: &[Hit<'_>]) -> Result<()> {
    let Some(expected) = expected(hits) else {
        return Ok(());
    };
    let members = fleet.members();
    let is_away = |number: &usize| expected.get(number) == Some(&Said::Down);
    let witnesses: Vec<usize> = members.iter().copied().filter(|n| !is_away(n)).collect();
    // Without a majority nobody is told anything.
    if expected.is_empty() || witnesses.len() * 2 <= members.len() {
        return Ok(());
    }
    let names = |said: Said| -> Vec<String> {
        let such = expected.iter().filter(|(_, expected)| **expected == said);
        such.map(|(number, _)| fleet.node(*number).name.clone())
            .collect()
    };
    let broken = Broken {
        down: names(Said::Down),
        fenced: names(Said::Fenced),
        full: names(Said::Full),
        no_quorum: false,
    };
    for number in witnesses {
        let mut last = anyhow!("it was not asked");
        let what = format!("{} to name {broken:?}", fleet.node(number).name);
        let named = until(what, LIMIT, || {
            let told = fleet.status(number).and_then(|status| {
                honesty::named(&status, &broken)?;
                honesty::measured(&fleet.get(number, "/metrics")?.1, &broken)?;
                let ready = fleet.get(number, "/readyz")?;
                // Neither a full volume nor a fenced one takes writes.
                let takes_writes = !expected.contains_key(&number);
                ensure!(
                    takes_writes == (ready.0 == 200)
                        || (fleet.may_fill() && (ready.0, &*ready.1) == FULL),
                    "readiness is told as {ready:?}"
                );
                Ok(())
            });
            match told {
                Ok(()) => Ok(Some(())),
                Err(hidden) => {
                    last = hidden;
                    Ok(None)
                }
            }
        });
        if let Err(error) = named {
            let why = format!("{error}: {last:#}");
            let detail = json!({"node": fleet.node(number).name, "why": why});
            fleet.events().enter(UNNAMED, detail);
            // The others are not waited for as well.
            return Ok(());
        }
    }
    fleet.events().enter("named", json!(format!("{broken:?}")));
    Ok(())
}

/// What is to be said of whom; `None` where a fault is in no table. Of two
/// things that hit a member the worse is said.
fn expected(hits: &[Hit<'_>]) -> Option<BTreeMap<usize, Said>> {
    let mut expected = BTreeMap::new();
    for hit in hits {
        let (_, said) = TABLE.iter().find(|(fault, _)| *fault == hit.fault)?;
        for victim in hit.victims {
            let worst = expected.entry(*victim).or_insert(*said);
            *worst = (*worst).max(*said);
        }
    }
    Some(expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis;

    #[test]
    fn the_table_knows_its_faults_and_the_worst_is_said() {
        for (number, (fault, _)) in TABLE.iter().enumerate() {
            nemesis::find(fault).unwrap();
            assert!(TABLE[..number].iter().all(|(other, _)| other != fault));
        }
        let hit = |fault, victims| Hit { fault, victims };
        let full = hit("disk-full", &[0, 1][..]);
        let expected_of = |hits: &[Hit<'_>]| expected(hits).map(Vec::from_iter);
        assert_eq!(
            expected_of(&[hit("kill", &[1]), full]),
            Some(vec![(0, Said::Full), (1, Said::Down)])
        );
        assert_eq!(expected_of(&[full, hit("churn", &[3])]), None);
    }
}
