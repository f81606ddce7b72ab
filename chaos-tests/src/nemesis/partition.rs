//! Networks that are split.

use anyhow::Result;

use super::{Fault, Target, target::shuffled};
use crate::{
    fleet::Fleet,
    rig::{
        Link,
        switch::{Layer, Pair},
        world::{CLIENTS, both},
    },
    seeded::Words,
};

/// Who does not hear whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// These and the others do not hear each other.
    Isolate(Target),
    /// Two parts, one of them a majority where the number is odd.
    Halves,
    /// These hear nobody, and all hear them.
    Deaf(Target),
    /// Nobody hears these, and they hear all.
    Mute(Target),
    /// Each hears its neighbours on a ring: just a majority, each another one.
    /// Of less than five nodes a majority is all: nothing is cut.
    Ring,
    /// Two parts that both hear one node between them.
    Bridge,
    /// Clients and these do not hear each other; members do.
    Clients(Target),
}

/// A partition of the members; healed by lifting it.
pub struct Partition {
    words: Words,
    shape: Shape,
    /// Those who are cut off, where it is about some.
    apart: Vec<usize>,
    layer: Option<Layer>,
}

impl Partition {
    /// One whose sides follow from the seed.
    pub fn new(seed: u64, shape: Shape) -> Partition {
        Partition {
            words: Words::new(seed),
            shape,
            apart: Vec::new(),
            layer: None,
        }
    }

    fn sides(&mut self, fleet: &Fleet) -> Result<Sides> {
        let mut others = shuffled(fleet.members(), &mut self.words);
        let half = others.len() / 2;
        Ok(match &self.shape {
            Shape::Isolate(target)
            | Shape::Deaf(target)
            | Shape::Mute(target)
            | Shape::Clients(target) => {
                let apart = target.pick(fleet, &mut self.words)?;
                others.retain(|number| !apart.contains(number));
                Sides { apart, others }
            }
            Shape::Bridge => {
                // The last is the bridge, and on no side.
                others.pop();
                let apart = others.split_off(others.len() / 2);
                Sides { apart, others }
            }
            Shape::Halves | Shape::Ring => {
                let apart = others.drain(..half).collect();
                Sides { apart, others }
            }
        })
    }
}

/// Two groups of nodes, by number.
struct Sides {
    apart: Vec<usize>,
    others: Vec<usize>,
}

impl Fault for Partition {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let sides = self.sides(fleet)?;
        let rooms = |numbers: &[usize]| {
            let rooms = numbers.iter().map(|number| fleet.room_number(*number));
            rooms.collect::<Result<Vec<_>>>()
        };
        let (apart, others) = (rooms(&sides.apart)?, rooms(&sides.others)?);
        let mut cuts = match self.shape {
            Shape::Ring => ring(&[&apart[..], &others].concat()),
            Shape::Clients(_) => between(&apart, &[CLIENTS]),
            _ => between(&apart, &others),
        };
        match self.shape {
            Shape::Deaf(_) => cuts.retain(|(_, to)| apart.contains(to)),
            Shape::Mute(_) => cuts.retain(|(from, _)| apart.contains(from)),
            // Every other time clients are on the larger side only; else they
            // still reach those who are cut off, and may be told old news.
            Shape::Isolate(_) | Shape::Halves if self.words.below(2) == 0 => {
                cuts.extend(between(&apart, &[CLIENTS]));
            }
            _ => {}
        }
        if !matches!(self.shape, Shape::Halves | Shape::Ring | Shape::Bridge) {
            self.apart = sides.apart;
        }
        let what = format!("{:?}", self.shape);
        let links = cuts.into_iter().map(|pair| (pair, Link::CUT));
        self.layer = Some(fleet.world()?.switch().lay(&what, links));
        Ok(())
    }

    fn victims(&self) -> &[usize] {
        &self.apart
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        if let Some(layer) = self.layer.take() {
            fleet.world()?.switch().lift(layer);
        }
        Ok(())
    }
}

/// Every pair across, in both directions.
pub(super) fn between(one: &[usize], two: &[usize]) -> Vec<Pair> {
    let pairs = one.iter().flat_map(|a| two.iter().map(|b| (*a, *b)));
    pairs.flat_map(|(a, b)| both(a, b)).collect()
}

/// Every pair that is further apart on the ring than a majority needs.
fn ring(rooms: &[usize]) -> Vec<Pair> {
    let count = rooms.len();
    // A majority is the node itself and half of the others.
    let reach = (count / 2).div_ceil(2);
    let mut cuts = Vec::new();
    for (a, one) in rooms.iter().enumerate() {
        for (b, two) in rooms.iter().enumerate() {
            let way = a.abs_diff(b);
            if way.min(count - way) > reach {
                cuts.push((*one, *two));
            }
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn on_a_ring_each_hears_a_majority_and_no_two_the_same() {
        for count in [5, 7, 9] {
            let rooms: Vec<usize> = (1..=count).collect();
            let cuts: BTreeSet<Pair> = ring(&rooms).into_iter().collect();
            let heard = |to: usize| -> BTreeSet<usize> {
                let all = rooms.iter().copied();
                all.filter(|from| !cuts.contains(&(*from, to))).collect()
            };
            let all: BTreeSet<_> = rooms.iter().map(|room| heard(*room)).collect();
            assert_eq!(all.len(), count, "of {count}");
            assert!(
                all.iter()
                    .all(|one| one.len() > count / 2 && one.len() < count)
            );
        }
    }

    #[test]
    fn a_cut_between_two_sides_is_one_in_both_directions() {
        let cuts = between(&[1], &[2, 3]);
        assert_eq!(cuts, [(1, 2), (2, 1), (1, 3), (3, 1)]);
    }
}
