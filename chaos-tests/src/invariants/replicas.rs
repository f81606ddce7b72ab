//! Each live blob has exactly as many copies as are wanted, on the nodes that
//! should have them, and no other node has one.
//!
//! Source: P2 (the cluster returns to R copies by itself), P9 (a drained node
//! holds no sole copy). Where copies belong is worked out by
//! [`oracle::placement`](crate::oracle::placement), which shares nothing with
//! the cluster; zones are distinct there as far as there are zones.
//!
//! What each node holds is listed while the nodes are stopped, by
//! `weir fsck --list`. The cluster has settled before, so that a copy too many
//! has no excuse.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Result, bail};

use crate::{load::content::Name, oracle::placement::Owners};

/// Faults that an error lists.
const LISTED: usize = 8;

/// Compares what nodes hold, by node id, with where blobs belong. Gives the
/// number of blobs, each with a copy on each owner and nowhere else.
pub fn check(owners: &Owners, held: &BTreeMap<u64, Vec<Name>>, live: &[Name]) -> Result<usize> {
    let held: BTreeMap<u64, HashSet<Name>> = held
        .iter()
        .map(|(node, names)| (*node, names.iter().copied().collect()))
        .collect();
    let mut faults = Vec::new();
    // The empty blob is everywhere, and stored nowhere.
    let stored: Vec<&Name> = live.iter().filter(|name| name.size > 0).collect();
    for name in &stored {
        let wanted = owners.of_hash(&name.hash);
        let has = |node: &u64| held.get(node).is_some_and(|names| names.contains(name));
        let lacking: Vec<u64> = wanted.iter().filter(|node| !has(node)).copied().collect();
        let others: Vec<u64> = held
            .keys()
            .filter(|node| !wanted.contains(node) && has(node))
            .copied()
            .collect();
        if !lacking.is_empty() || !others.is_empty() {
            faults.push(format!(
                "{name}: owners {wanted:x?}, lacking on {lacking:x?}, surplus on {others:x?}"
            ));
        }
    }
    if !faults.is_empty() {
        let listed: Vec<_> = faults.iter().take(LISTED).cloned().collect();
        bail!(
            "{} of {} blobs are not where they belong\n{}",
            faults.len(),
            stored.len(),
            listed.join("\n")
        );
    }
    Ok(stored.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::placement::Place;

    #[test]
    fn lacking_and_surplus_copies_are_found() {
        let place = |zone: &str| Place {
            zone: zone.into(),
            host: String::new(),
            weight: 1,
        };
        let nodes = BTreeMap::from([(1, place("a")), (2, place("b")), (3, place("c"))]);
        let owners = Owners::of(2, &nodes);
        let live: Vec<Name> = (0..50_u8).map(|byte| Name::of(&[byte])).collect();
        let mut held: BTreeMap<u64, Vec<Name>> =
            BTreeMap::from([(1, vec![]), (2, vec![]), (3, vec![])]);
        for name in &live {
            for owner in owners.of_hash(&name.hash) {
                held.get_mut(owner).unwrap().push(*name);
            }
        }
        let empty = [&live[..], &[Name::of(b"")]].concat();
        assert_eq!(check(&owners, &held, &empty).unwrap(), 50);

        let wanted = owners.of_hash(&live[0].hash);
        let other = *nodes.keys().find(|node| !wanted.contains(node)).unwrap();
        let mut more = held.clone();
        more.get_mut(&other).unwrap().push(live[0]);
        let error = check(&owners, &more, &live).unwrap_err().to_string();
        assert!(error.contains(&format!("surplus on [{other}]")), "{error}");

        let mut fewer = held;
        fewer
            .get_mut(&wanted[0])
            .unwrap()
            .retain(|name| *name != live[0]);
        let error = check(&owners, &fewer, &live).unwrap_err().to_string();
        assert!(
            error.contains(&format!("lacking on [{}]", wanted[0])),
            "{error}"
        );
        assert!(error.starts_with("1 of 50"), "{error}");
    }
}
