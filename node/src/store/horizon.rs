//! What a full store does not take back.
//!
//! A store that has evicted blobs would evict others that were used no later
//! as well: it declines them, or repair would bring again and again what
//! eviction takes away. The horizon is the latest use of what was evicted, or
//! refused for lack of room, since the store was opened. It never goes back,
//! but counts only while room is short.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Part of the bytes up to the high-water mark that must be free for a blob
/// behind the horizon to be taken. Eviction frees a segment or a file at a
/// time; if that were room enough, the same would come back at once.
const ROOM_AGAIN: u64 = 8;

/// Blobs last used before this store time are declined; 0 is none of them.
#[derive(Default)]
pub(super) struct Horizon(AtomicU32);

/// How full a store is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fill {
    pub(super) used: u64,
    pub(super) high_water: u64,
}

impl Horizon {
    /// A blob that was last used then had no place here.
    pub(super) fn raise(&self, last_use: u32) {
        self.0.fetch_max(last_use.saturating_add(1), Relaxed);
    }

    /// Whether a blob would be evicted by now. It is leased for no time.
    pub(super) fn declines(&self, last_use: u32, bytes: u64, fill: Fill) -> bool {
        let low_water = fill.high_water - fill.high_water / ROOM_AGAIN;
        last_use < self.0.load(Relaxed) && fill.used.saturating_add(bytes) > low_water
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_cluster::Digest;

    use super::*;
    use crate::store::eviction::{Name, Unit, plan};

    const HIGH_WATER: u64 = 10_000;

    #[test]
    fn what_was_used_no_later_is_declined_until_there_is_room() {
        let horizon = Horizon::default();
        let fill = |used| Fill {
            used,
            high_water: HIGH_WATER,
        };
        assert!(!horizon.declines(0, 10, fill(HIGH_WATER)));
        horizon.raise(50);
        horizon.raise(40);
        for (last_use, used, declined) in [
            (50, HIGH_WATER, true),
            (51, HIGH_WATER, false),
            (0, HIGH_WATER, true),
            (50, 8_740, false),
            (50, 8_741, true),
        ] {
            assert_eq!(horizon.declines(last_use, 10, fill(used)), declined);
        }
    }

    #[derive(Debug, Clone)]
    struct Blob {
        id: u8,
        bytes: u64,
        last_use: u32,
        leased: bool,
    }

    /// A store of files that is offered blobs.
    #[derive(Default)]
    struct Model {
        held: Vec<Blob>,
        horizon: Horizon,
    }

    impl Model {
        fn used(&self) -> u64 {
            self.held.iter().map(|blob| blob.bytes).sum()
        }

        fn make_room(&mut self, bytes: u64, before: u32) -> bool {
            let want = (self.used() + bytes).saturating_sub(HIGH_WATER);
            let units = self.held.iter().map(|blob| Unit {
                name: Name::File(digest(blob.id)),
                bytes: blob.bytes,
                leased: if blob.leased { blob.bytes } else { 0 },
                touched: 0,
                last_use: blob.last_use,
                last_touch: 0,
            });
            let plan = plan(units.collect(), want, before);
            if plan.freed < want {
                return false;
            }
            for (name, _) in plan.victims {
                self.held.retain(|blob| {
                    let goes = name == Name::File(digest(blob.id));
                    if goes {
                        self.horizon.raise(blob.last_use);
                    }
                    !goes
                });
            }
            true
        }

        /// Whether anything came of it.
        fn offer(&mut self, blob: &Blob) -> bool {
            let fill = Fill {
                used: self.used(),
                high_water: HIGH_WATER,
            };
            let is_here = self.held.iter().any(|held| held.id == blob.id);
            if is_here || (!blob.leased && self.horizon.declines(blob.last_use, blob.bytes, fill)) {
                return false;
            }
            let before = if blob.leased { u32::MAX } else { blob.last_use };
            if self.make_room(blob.bytes, before) {
                self.held.push(blob.clone());
                return true;
            }
            if !blob.leased {
                self.horizon.raise(blob.last_use);
            }
            !blob.leased
        }
    }

    fn digest(id: u8) -> Digest {
        Digest {
            hash: [id; 32],
            size: 1,
        }
    }

    proptest! {
        #[test]
        fn offers_come_to_rest(
            blobs in prop::collection::vec((100..4_000u64, 0..50u32, any::<bool>()), 1..40),
        ) {
            let blobs: Vec<_> = (0..)
                .zip(blobs)
                .map(|(id, (bytes, last_use, leased))| Blob { id, bytes, last_use, leased })
                .collect();
            let mut model = Model::default();
            // Each round settles at least one blob for good.
            let at_rest = (0..=blobs.len()).any(|_| {
                let came_of = blobs.iter().filter(|blob| model.offer(blob)).count();
                came_of == 0
            });
            prop_assert!(at_rest);
            prop_assert!(model.used() <= HIGH_WATER);
        }
    }
}
