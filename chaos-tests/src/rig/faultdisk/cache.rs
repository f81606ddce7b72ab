//! What a disk was told and has not made durable yet. Pure: what becomes
//! durable is returned, and others write it.

use serde::{Deserialize, Serialize};

use crate::seeded::Words;

/// What is torn apart stays whole up to here: file systems count on a block.
pub const BLOCK_BYTES: usize = 4096;

/// Bytes at an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// What a power cut leaves of the writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keep {
    /// None of them.
    Nothing,
    /// Each as a whole or not at all, at even odds.
    Some,
    /// The same of each of their blocks.
    Torn,
}

/// Writes since the last sync, in their order.
///
/// What is read is what was written last ([`show`](Self::show) over what is
/// durable); a cut takes any part of it, a sync none.
#[derive(Debug, Default)]
pub(super) struct Cache {
    held: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    write: Write,
    /// A sync failed since: it is shown, and never becomes durable, as a
    /// kernel or a disk that forgets what it could not write.
    is_lost: bool,
}

impl Cache {
    /// Takes a write.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let write = Write {
            offset,
            bytes: bytes.to_vec(),
        };
        self.held.push(Held {
            write,
            is_lost: false,
        });
    }

    /// How many bytes it holds.
    pub(super) fn bytes(&self) -> usize {
        self.held.iter().map(|held| held.write.bytes.len()).sum()
    }

    /// Puts what was written over `bytes`, which are what is durable at
    /// `offset`.
    pub(super) fn show(&self, offset: u64, bytes: &mut [u8]) {
        for held in &self.held {
            let (from, to) = meet(&held.write, offset, bytes.len());
            if from < to {
                let target = (from - offset) as usize..(to - offset) as usize;
                bytes[target].copy_from_slice(held.write.part(from, to));
            }
        }
    }

    /// A sync: what becomes durable by it.
    pub(super) fn sync(&mut self) -> Vec<Write> {
        let mut durable = Vec::new();
        let mut lost: Vec<Held> = Vec::new();
        for held in self.held.drain(..) {
            if held.is_lost {
                lost.push(held);
                continue;
            }
            // Seen in its place from here on, not what was lost there before.
            let rest = lost.drain(..);
            lost = rest.flat_map(|old| old.without(&held.write)).collect();
            durable.push(held.write);
        }
        self.held = lost;
        durable
    }

    /// A sync that fails: what is held stays to be seen, until it is forgotten.
    pub(super) fn lose(&mut self) {
        for held in &mut self.held {
            held.is_lost = true;
        }
    }

    /// A power cut: what became durable all the same. Nothing is held after it.
    pub(super) fn cut(&mut self, keep: Keep, words: &mut Words) -> Vec<Write> {
        let mut coin = || words.below(2) == 1;
        let held = self.held.drain(..).filter(|held| !held.is_lost);
        let writes = held.map(|held| held.write);
        match keep {
            Keep::Nothing => Vec::new(),
            Keep::Some => writes.filter(|_| coin()).collect(),
            Keep::Torn => writes.flat_map(blocks).filter(|_| coin()).collect(),
        }
    }
}

impl Write {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    fn part(&self, from: u64, to: u64) -> &[u8] {
        &self.bytes[(from - self.offset) as usize..(to - self.offset) as usize]
    }
}

impl Held {
    /// What is left of it beside `other`.
    fn without(self, other: &Write) -> Vec<Held> {
        let write = &self.write;
        let (from, to) = meet(write, other.offset, other.bytes.len());
        if from >= to {
            return vec![self];
        }
        let sides = [(write.offset, from), (to, write.end())];
        let sides = sides.into_iter().filter(|(from, to)| from < to);
        sides
            .map(|(from, to)| Held {
                write: Write {
                    offset: from,
                    bytes: write.part(from, to).to_vec(),
                },
                is_lost: self.is_lost,
            })
            .collect()
    }
}

/// Where a write and a range have bytes in common; none if the first is not
/// below the second.
fn meet(write: &Write, offset: u64, length: usize) -> (u64, u64) {
    let from = write.offset.max(offset);
    (from, write.end().min(offset + length as u64))
}

/// Cuts a write where blocks begin.
fn blocks(write: Write) -> Vec<Write> {
    let mut parts = Vec::new();
    let mut from = write.offset;
    while from < write.end() {
        let next = (from / BLOCK_BYTES as u64 + 1) * BLOCK_BYTES as u64;
        let to = next.min(write.end());
        parts.push(Write {
            offset: from,
            bytes: write.part(from, to).to_vec(),
        });
        from = to;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of a few bytes under a cache.
    #[derive(Default)]
    struct Small {
        durable: [u8; 12],
        cache: Cache,
    }

    impl Small {
        fn take(&mut self, writes: Vec<Write>) {
            for write in writes {
                let from = write.offset as usize;
                self.durable[from..from + write.bytes.len()].copy_from_slice(&write.bytes);
            }
        }

        fn sync(&mut self) {
            let durable = self.cache.sync();
            self.take(durable);
        }

        fn view(&self) -> [u8; 12] {
            let mut bytes = self.durable;
            self.cache.show(0, &mut bytes);
            bytes
        }
    }

    #[test]
    fn what_was_written_last_is_read_and_only_what_was_synced_is_durable() {
        let mut disk = Small::default();
        disk.cache.write(2, &[1; 4]);
        disk.sync();
        disk.cache.write(4, &[2; 4]);
        disk.cache.write(5, &[3; 1]);
        assert_eq!(disk.view(), [0, 0, 1, 1, 2, 3, 2, 2, 0, 0, 0, 0]);
        let mut part = [9; 3];
        part.copy_from_slice(&disk.durable[3..6]);
        disk.cache.show(3, &mut part);
        assert_eq!(part, [1, 2, 3]);
        assert_eq!(disk.durable, [0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
        let left = disk.cache.cut(Keep::Nothing, &mut Words::new(1));
        assert!(left.is_empty() && disk.cache.bytes() == 0);
        assert_eq!(disk.view(), disk.durable);
    }

    /// The tempting model of a failed sync, to keep the writes for the next
    /// one, would have a program that syncs again lose nothing.
    #[test]
    fn what_a_failed_sync_lost_is_seen_and_never_durable() {
        let mut disk = Small::default();
        disk.cache.write(0, &[1; 8]);
        disk.cache.lose();
        disk.cache.write(3, &[2; 2]);
        disk.sync();
        assert_eq!(disk.view(), [1, 1, 1, 2, 2, 1, 1, 1, 0, 0, 0, 0]);
        assert_eq!(disk.durable, [0, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0]);
        // What was synced later lies above what was lost.
        disk.cache.write(4, &[3; 1]);
        disk.sync();
        assert_eq!(disk.view()[3..6], [2, 3, 1]);
        let mut words = Words::new(3);
        assert!(disk.cache.cut(Keep::Some, &mut words).is_empty());
        assert_eq!(disk.view(), [0, 0, 0, 2, 3, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_cut_keeps_whole_writes_or_whole_blocks_as_the_seed_says() {
        let block = BLOCK_BYTES as u64;
        let cut = |keep, seed| {
            let mut cache = Cache::default();
            for number in 0..40_u64 {
                // Half a block, two blocks, half a block.
                let bytes = vec![number as u8; 3 * BLOCK_BYTES];
                cache.write(number * 4 * block + block / 2, &bytes);
            }
            cache.cut(keep, &mut Words::new(seed))
        };
        let some = cut(Keep::Some, 7);
        assert!((8..=32).contains(&some.len()), "{}", some.len());
        assert!(some.iter().all(|one| one.bytes.len() == 3 * BLOCK_BYTES));
        let torn = cut(Keep::Torn, 7);
        assert!((50..=110).contains(&torn.len()), "{}", torn.len());
        for part in &torn {
            let blocks = (part.offset / block, (part.end() - 1) / block);
            assert_eq!(blocks.0, blocks.1, "a part lies in one block");
        }
        let of_first = torn.iter().filter(|part| part.bytes[0] == 0).count();
        assert!(torn.len() > some.len() && of_first <= 4);
        assert_eq!(torn, cut(Keep::Torn, 7));
        assert_ne!(torn, cut(Keep::Torn, 8));
        assert!(cut(Keep::Nothing, 7).is_empty());
    }

    /// Any order of writes, syncs, failed syncs: the view is that of a plain
    /// array, and what is durable never has a byte that was not written there.
    #[test]
    fn the_view_is_that_of_an_array() {
        for seed in 0..200 {
            let mut words = Words::new(seed);
            let (mut disk, mut plain) = (Small::default(), [0; 12]);
            for value in 1..60_u8 {
                let from = words.below(12);
                let to = from + 1 + words.below(12 - from);
                plain[from..to].fill(value);
                disk.cache.write(from as u64, &vec![value; to - from]);
                match words.below(6) {
                    0 => disk.sync(),
                    1 => disk.cache.lose(),
                    _ => {}
                }
                assert_eq!(disk.view(), plain, "seed {seed}, write {value}");
            }
        }
    }
}
