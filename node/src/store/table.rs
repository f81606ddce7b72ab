//! Small blobs of one shard: a dense list of entries, and a hash table of
//! places in it.
//!
//! The tempting alternative, entries in the hash table itself, leaves up to
//! half of the slots empty, at 52 bytes each. Here only places of 4 bytes are
//! spread out, and the list grows by an eighth: a blob takes about 65 bytes
//! instead of up to 110.
//!
//! Invariant: `places` holds each index of `entries` once.

use hashbrown::HashTable;
use weir_cluster::Digest;

use super::index::Small;

/// See the [module](self). Keys are hashes of the entries' digests, computed by
/// the caller, the same for the same digest.
#[derive(Default)]
pub(super) struct Table {
    entries: Vec<Small>,
    places: HashTable<u32>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Small> {
        self.entries.iter()
    }

    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, more: usize, key: impl Fn(&Small) -> u64) {
        let Self { entries, places } = self;
        entries.reserve_exact(more);
        places.reserve(more, |place| key(&entries[*place as usize]));
    }

    pub(super) fn find(&self, key: u64, digest: &Digest) -> Option<&Small> {
        self.place(key, digest).map(|place| &self.entries[place])
    }

    pub(super) fn find_mut(&mut self, key: u64, digest: &Digest) -> Option<&mut Small> {
        let place = self.place(key, digest)?;
        Some(&mut self.entries[place])
    }

    /// Adds an entry whose digest is not there yet.
    pub(super) fn insert(&mut self, entry: Small, key: impl Fn(&Small) -> u64) {
        let Self { entries, places } = self;
        let Ok(place) = u32::try_from(entries.len()) else {
            // More than four thousand million in one shard of 64: no volume
            // holds so many records.
            tracing::error!("the index of a shard is full");
            return;
        };
        if entries.len() == entries.capacity() {
            entries.reserve_exact(entries.len() / 8 + 16);
        }
        let own_key = key(&entry);
        entries.push(entry);
        places.insert_unique(own_key, place, |place| key(&entries[*place as usize]));
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: u64, digest: &Digest, key_of: impl Fn(&Small) -> u64) {
        let Self { entries, places } = self;
        let found = places.find_entry(key, |place| entries[*place as usize].is(digest));
        let Ok(found) = found else { return };
        let (place, _) = found.remove();
        let last = (entries.len() - 1) as u32;
        if place != last {
            // The last entry takes the free place.
            let moved = key_of(&entries[last as usize]);
            if let Some(at) = places.find_mut(moved, |at| *at == last) {
                *at = place;
            }
        }
        entries.swap_remove(place as usize);
    }

    fn place(&self, key: u64, digest: &Digest) -> Option<usize> {
        let is_it = |place: &u32| self.entries[*place as usize].is(digest);
        self.places.find(key, is_it).map(|place| *place as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::store::{index::Location, uses::Uses};

    fn digest(number: u8) -> Digest {
        Digest::of(&[number])
    }

    /// Keys that collide often.
    fn key(digest: &Digest) -> u64 {
        u64::from(digest.hash[0] % 4)
    }

    proptest! {
        #[test]
        fn a_table_is_what_a_map_would_be(steps: Vec<(bool, u8)>) {
            let mut table = Table::default();
            let mut map = BTreeMap::new();
            for (offset, (insert, number)) in (0..).zip(steps) {
                let digest = digest(number);
                let of = |entry: &Small| key(&entry.digest());
                if !insert {
                    table.remove(key(&digest), &digest, of);
                    map.remove(&digest);
                } else if let Some(entry) = table.find_mut(key(&digest), &digest) {
                    entry.location.offset = offset;
                    map.insert(digest, offset);
                } else {
                    let entry = Small {
                        hash: digest.hash,
                        size: 1,
                        location: Location { segment: 0, offset },
                        uses: Uses::new(0, 0),
                    };
                    table.insert(entry, of);
                    map.insert(digest, offset);
                }
                prop_assert_eq!(table.len(), map.len());
            }
            for number in 0..=u8::MAX {
                let digest = digest(number);
                let found = table.find(key(&digest), &digest).map(|entry| entry.location.offset);
                prop_assert_eq!(found, map.get(&digest).copied());
            }
        }
    }
}
