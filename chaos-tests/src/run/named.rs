//! What nodes must say while a fault lasts.
//!
//! [`TABLE`] has, for each fault, what is to be said of those whom it hits. It
//! is looked at just before a step is healed, where every fault of the step is
//! in the table. Whoever is left of a minority, and whoever was cut off, has to
//! say that there is no leader, whoever it was. What is not said is entered,
//! and the run goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

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

/// What is said of whom a fault hits.
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
    ("inodes-full", Said::Full),
];

/// Those of the table that leave whom they hit running, in no majority.
const APART: &[&str] = &["isolate", "leader-alone", "zone-away"];

/// What a node answers whose store is full.
const FULL: (u16, &str) = (503, "volume: full\n");

/// What is to be said in a step.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    /// Of whom.
    said: BTreeMap<usize, Said>,
    /// Who runs and has no majority, for no other reason than that.
    apart: BTreeSet<usize>,
}

/// Looks for what the table has, in what every member says that can be asked.
/// Where stores may fill, a node may be full besides. Whether all was said.
pub(super) fn look(fleet: &mut Fleet, hits: &[Hit<'_>]) -> Result<bool> {
    let Some(Expected { said, apart }) = expected(hits) else {
        return Ok(true);
    };
    if said.is_empty() {
        return Ok(true);
    }
    let members = fleet.members();
    let is_away = |number: &usize| said.get(number) == Some(&Said::Down);
    let (away, left): (Vec<usize>, Vec<usize>) = members.iter().partition(|n| is_away(n));
    let no_quorum = Broken {
        no_quorum: true,
        ..Broken::default()
    };
    let names = |wanted: Said| -> Vec<String> {
        let such = said.iter().filter(|(_, said)| **said == wanted);
        such.map(|(number, _)| fleet.node(*number).name.clone())
            .collect()
    };
    // Without a majority nobody is told of anything else.
    let broken = match left.len() > away.len() {
        true => Broken {
            down: names(Said::Down),
            fenced: names(Said::Fenced),
            full: names(Said::Full),
            no_quorum: false,
        },
        false => no_quorum.clone(),
    };
    let left = left.into_iter().map(|number| (number, &broken));
    let apart = apart.into_iter().map(|number| (number, &no_quorum));
    for (number, broken) in left.chain(apart) {
        // Neither a full volume nor a fenced one takes writes.
        let takes_writes = !broken.no_quorum && !said.contains_key(&number);
        if let Err(why) = asked(fleet, number, broken, takes_writes) {
            let detail = json!({"node": fleet.node(number).name, "why": format!("{why:#}")});
            fleet.events().enter(UNNAMED, detail);
            // The others are not waited for as well.
            return Ok(false);
        }
        let told = json!({"node": fleet.node(number).name, "what": format!("{broken:?}")});
        fleet.events().enter("named", told);
    }
    Ok(true)
}

/// Waits until a node names all of it, on each of its pages.
fn asked(fleet: &Fleet, number: usize, broken: &Broken, takes_writes: bool) -> Result<()> {
    let mut last = anyhow!("it was not asked");
    let what = format!("{} to name {broken:?}", fleet.node(number).name);
    let named = until(what, LIMIT, || {
        let told = fleet.status(number).and_then(|status| {
            honesty::named(&status, broken)?;
            honesty::measured(&fleet.get(number, "/metrics")?.1, broken)?;
            let ready = fleet.get(number, "/readyz")?;
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
    named.map_err(|error| anyhow!("{error}: {last:#}"))
}

/// What is to be said; `None` where a fault is in no table. Of two things that
/// hit a member the worse is said.
fn expected(hits: &[Hit<'_>]) -> Option<Expected> {
    let mut said = BTreeMap::new();
    let mut apart: BTreeSet<usize> = BTreeSet::new();
    let mut otherwise: BTreeSet<usize> = BTreeSet::new();
    for hit in hits {
        let (_, kind) = TABLE.iter().find(|(fault, _)| *fault == hit.fault)?;
        for victim in hit.victims {
            let worst = said.entry(*victim).or_insert(*kind);
            *worst = (*worst).max(*kind);
        }
        match APART.contains(&hit.fault) {
            true => apart.extend(hit.victims),
            false => otherwise.extend(hit.victims),
        }
    }
    apart.retain(|number| !otherwise.contains(number));
    Some(Expected { said, apart })
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
        assert!(
            APART
                .iter()
                .all(|fault| TABLE.contains(&(fault, Said::Down)))
        );
        let hit = |fault, victims| Hit { fault, victims };
        let full = hit("disk-full", &[0, 1][..]);
        let worst = expected(&[hit("kill", &[1]), full]).unwrap();
        assert_eq!(
            Vec::from_iter(worst.said),
            [(0, Said::Full), (1, Said::Down)]
        );
        assert!(worst.apart.is_empty());
        assert_eq!(expected(&[full, hit("churn", &[3])]), None);
        let alone = hit("isolate", &[1, 2][..]);
        let expected = expected(&[alone, hit("pause", &[1])]).unwrap();
        assert_eq!(
            Vec::from_iter(expected.apart),
            [2],
            "who sleeps says nothing"
        );
    }
}
