//! The copies that are on the volumes when the nodes have ended.
//!
//! What nodes say of themselves plays no part: the labels and the replication
//! factor are taken from the status, and everything else is worked out here and
//! compared with what lies on the disks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    fleet::Fleet,
    invariants::replicas,
    load::content::Name,
    oracle::placement::{Owners, Place},
};

/// Files that an error lists.
const LISTED: usize = 8;

/// Ends all nodes in good order, and insists that every blob that was promised
/// or that anybody holds is on its owners and nowhere else. The cluster has
/// settled, and nothing was written since. Gives the number of blobs.
pub(super) fn check(fleet: &mut Fleet, promised: &[Name]) -> Result<usize> {
    let start = Instant::now();
    let members = fleet.members();
    let first = members.first().context("nobody is a member")?;
    let table = Table::of(&fleet.status(*first)?)?;
    fleet.stop_all(&members)?;
    let stopped = start.elapsed();
    let mut held = BTreeMap::new();
    for (number, blobs) in members.iter().zip(fleet.blobs(&members)?) {
        let name = &fleet.node(*number).name;
        let id = table.ids.get(name);
        held.insert(
            *id.with_context(|| format!("{name} is in no table"))?,
            blobs,
        );
    }
    let all: BTreeSet<Name> = held.values().flatten().chain(promised).copied().collect();
    let all: Vec<Name> = all.into_iter().collect();
    let copies = replicas::check(&table.owners, &held, &all);
    let took = [stopped, start.elapsed() - stopped].map(|time| time.as_millis() as u64);
    let detail = json!({"blobs": all.len(), "stop_ms": took[0], "read_ms": took[1]});
    fleet.events().enter("copies counted", detail);
    copies
}

/// Insists that no upload left a file behind, after a [`check`].
///
/// Source: P11 (bounded): clients that go away in the middle would fill the
/// volume of a node that runs for long.
pub(super) fn nothing_is_left_behind(fleet: &Fleet) -> Result<()> {
    let files = fleet.unfinished(&fleet.members())?;
    let listed = &files[..files.len().min(LISTED)];
    ensure!(
        files.is_empty(),
        "{} uploads left a file behind: {listed:?}",
        files.len()
    );
    Ok(())
}

/// Who owns what, worked out from a status.
struct Table {
    /// By name.
    ids: BTreeMap<String, u64>,
    owners: Owners,
}

impl Table {
    fn of(status: &Value) -> Result<Table> {
        let number = |value: &Value, name: &str| {
            let number = value[name].as_u64();
            number.with_context(|| format!("no {name} in {value}"))
        };
        let rows = status["nodes"].as_array().context("no nodes")?;
        let (mut ids, mut places) = (BTreeMap::new(), BTreeMap::new());
        let mut told = BTreeMap::new();
        for row in rows {
            let text = |name: &str| {
                row[name]
                    .as_str()
                    .with_context(|| format!("no {name} in {row}"))
            };
            let id = u64::from_str_radix(text("id")?, 16).context("an id that is none")?;
            ids.insert(text("name")?.to_owned(), id);
            // Who drains owns nothing any more.
            if text("status")? != "active" {
                continue;
            }
            let place = Place {
                zone: text("zone")?.into(),
                host: text("host")?.into(),
                weight: number(row, "weight")? as u32,
            };
            places.insert(id, place);
            told.insert(id, number(row, "slots")?);
        }
        let owners = Owners::of(number(status, "replicas")? as u32, &places);
        let counted = owners.counts();
        if counted != told {
            bail!("slots by node should be {counted:x?}, the status says {told:x?}");
        }
        Ok(Table { ids, owners })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(slots: [u64; 3]) -> Value {
        let row = |number: usize, status: &str| {
            json!({
                "name": format!("n{number}"), "id": format!("{number:016x}"), "zone": "a",
                "host": "", "weight": 1, "status": status, "slots": slots[number - 1],
            })
        };
        let rows = [row(1, "active"), row(2, "active"), row(3, "draining")];
        json!({"replicas": 2, "nodes": rows})
    }

    #[test]
    fn owners_are_those_who_are_active_and_the_status_agrees() {
        let table = Table::of(&status([16_384, 16_384, 0])).unwrap();
        assert_eq!(table.ids["n3"], 3);
        let mut owners = table.owners.of_hash(&[7; 32]).to_vec();
        owners.sort_unstable();
        assert_eq!(owners, [1, 2]);
        for wrong in [status([16_383, 16_384, 0]), json!({"replicas": 2})] {
            assert!(Table::of(&wrong).is_err(), "{wrong}");
        }
    }
}
