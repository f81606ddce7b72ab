//! The choice of owners, slot by slot.

use super::{Place, Placement, beginning};
use crate::{
    Slot,
    planted::{self, Bug},
    words::ids::SLOTS,
};

/// How much two nodes must differ to hold copies of one slot; strictest first.
const SPREADS: [fn(&Place, &Place) -> bool; 3] = [
    |a, b| a.zone != b.zone,
    |a, b| a.host != b.host,
    |a, b| a.id != b.id,
];

impl Placement {
    /// The owners of all slots, one slot after the other.
    pub(super) fn choose_all(&self) -> Vec<u16> {
        let caps = self.caps();
        let mut held = vec![0; self.nodes.len()];
        let mut table = Vec::with_capacity(self.width * SLOTS);
        let mut walked = self.walked(0);
        for slot in Slot::all() {
            // Most slots begin between the same two vnodes as the one before.
            if beginning(slot) > walked.until {
                walked = self.walked(beginning(slot));
            }
            let owners = self.choose(&mut walked, &held, &caps);
            for number in &owners {
                held[usize::from(*number)] += 1;
            }
            table.extend(owners);
        }
        table
    }

    /// The walk from a position, which others share.
    fn walked(&self, position: u64) -> Walked<impl Iterator<Item = u16>> {
        Walked {
            until: self.ring.alike_until(position),
            order: Vec::new(),
            rest: self.walk(position),
        }
    }

    /// The owners of one slot: for each copy the first node on the walk that
    /// keeps the strictest spread still possible, with room if any such has.
    fn choose(
        &self,
        walked: &mut Walked<impl Iterator<Item = u16>>,
        held: &[u64],
        caps: &[u64],
    ) -> Vec<u16> {
        let any_zone = planted::is(Bug::ZonesIgnored);
        let mut owners: Vec<u16> = Vec::with_capacity(self.width);
        for _ in 0..self.width {
            let found = SPREADS.iter().find_map(|differ| {
                let fits = |number: u16| {
                    let node = &self.nodes[usize::from(number)];
                    owners.iter().all(|owner| {
                        let owner = &self.nodes[usize::from(*owner)];
                        differ(node, owner) || (any_zone && node.id != owner.id)
                    })
                };
                let roomy = |number: u16| held[usize::from(number)] < caps[usize::from(number)];
                walked
                    .find(|number| fits(number) && roomy(number))
                    // The walk has been to its end.
                    .or_else(|| walked.find(fits))
            });
            owners.extend(found);
        }
        owners
    }
}

/// A walk that remembers where it has been.
struct Walked<W> {
    /// The last position whose walk it is.
    until: u64,
    order: Vec<u16>,
    rest: W,
}

impl<W: Iterator<Item = u16>> Walked<W> {
    /// The first one that fits, from the beginning of the walk.
    fn find(&mut self, fits: impl Fn(u16) -> bool) -> Option<u16> {
        let known = self.order.iter().copied().find(|number| fits(*number));
        known.or_else(|| {
            let further = self.rest.by_ref();
            further
                .inspect(|number| self.order.push(*number))
                .find(|number| fits(*number))
        })
    }
}
