//! Each live blob has exactly as many copies as are wanted, on the nodes that
//! should have them, and no other node has one.
//!
//! Source: P2 (the cluster returns to R copies by itself), P9 (a drained node
//! holds no sole copy). Where copies belong is worked out by
//! [`oracle::placement`](crate::oracle::placement), which shares nothing with
//! the cluster; zones are distinct there as far as there are zones.
//!
//! What each node holds is listed while the nodes are stopped, or by an admin
//! port when the cluster has settled.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Result, bail};

use crate::{load::content::Name, oracle::placement::Owners};

/// Faults that an error lists.
const LISTED: usize = 8;

/// Whether a copy on a node that is no owner is a fault. It is not before
/// repair has had its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Surplus {
    Allowed,
    Refused,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// Blobs with a copy on each owner and nowhere else.
    pub exact: usize,
    /// Copies on nodes that are no owners.
    pub surplus: usize,
}

/// Compares what nodes hold, by node id, with where blobs belong.
pub fn check(
    owners: &Owners,
    held: &BTreeMap<u64, Vec<Name>>,
    live: &[Name],
    surplus: Surplus,
) -> Result<Copies> {
    let held: BTreeMap<u64, HashSet<Name>> = held
        .iter()
        .map(|(node, names)| (*node, names.iter().copied().collect()))
        .collect();
    let mut copies = Copies::default();
    let mut faults = Vec::new();
    // The empty blob is everywhere, and stored nowhere.
    for name in live.iter().filter(|name| name.size > 0) {
        let wanted = owners.of_hash(&name.hash);
        let has = |node: &u64| held.get(node).is_some_and(|names| names.contains(name));
        let lacking: Vec<u64> = wanted.iter().filter(|node| !has(node)).copied().collect();
        let others: Vec<u64> = held
            .keys()
            .filter(|node| !wanted.contains(node) && has(node))
            .copied()
            .collect();
        copies.surplus += others.len();
        let too_many = surplus == Surplus::Refused && !others.is_empty();
        if lacking.is_empty() && others.is_empty() {
            copies.exact += 1;
        } else if !lacking.is_empty() || too_many {
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
            live.len(),
            listed.join("\n")
        );
    }
    Ok(copies)
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
        let good = check(&owners, &held, &live, Surplus::Refused).unwrap();
        assert_eq!(good.exact, 50);

        let wanted = owners.of_hash(&live[0].hash);
        let other = *nodes.keys().find(|node| !wanted.contains(node)).unwrap();
        let mut more = held.clone();
        more.get_mut(&other).unwrap().push(live[0]);
        let allowed = check(&owners, &more, &live, Surplus::Allowed).unwrap();
        assert_eq!((allowed.exact, allowed.surplus), (49, 1));
        assert!(check(&owners, &more, &live, Surplus::Refused).is_err());

        let mut fewer = held;
        fewer
            .get_mut(&wanted[0])
            .unwrap()
            .retain(|name| *name != live[0]);
        let error = check(&owners, &fewer, &live, Surplus::Allowed).unwrap_err();
        assert!(
            error.to_string().contains("lacking on [1]")
                || error.to_string().contains("lacking on [")
        );
        assert!(error.to_string().starts_with("1 of 50"), "{error}");
    }
}
