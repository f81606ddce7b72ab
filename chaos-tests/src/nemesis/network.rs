//! Networks that work badly.

use std::time::Duration;

use anyhow::Result;

use super::{Fault, Target};
use crate::{
    fleet::Fleet,
    rig::{
        Link,
        switch::{Layer, Pair},
        world::{CLIENTS, both},
    },
    seeded::Words,
};

/// What is bad about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Packets take 5 to 100 ms, and up to half as much more.
    Delay,
    /// 1, 10 or 30 % are lost.
    Loss,
    /// 1 or 25 % arrive twice.
    Duplicate,
    /// A quarter is overtaken by others.
    Reorder,
    /// One node has 1 or 10 Mbit/s in each direction.
    Rate,
}

/// The same trouble on every wire, those of clients included; healed by
/// lifting it.
pub struct Network {
    words: Words,
    trouble: Trouble,
    layer: Option<Layer>,
}

impl Network {
    /// One whose figures follow from the seed.
    pub fn new(seed: u64, trouble: Trouble) -> Network {
        Network {
            words: Words::new(seed),
            trouble,
            layer: None,
        }
    }

    fn link(&mut self) -> Link {
        fn one_of<T: Copy>(words: &mut Words, values: &[T]) -> T {
            values[words.below(values.len())]
        }
        let mut link = Link::default();
        let words = &mut self.words;
        match self.trouble {
            Trouble::Delay => {
                link.delay = Duration::from_millis(one_of(words, &[5, 25, 100]));
                link.jitter = link.delay / 2;
            }
            Trouble::Loss => link.loss = one_of(words, &[0.01, 0.1, 0.3]),
            Trouble::Duplicate => link.duplicate = one_of(words, &[0.01, 0.25]),
            Trouble::Reorder => link.reorder = 0.25,
            Trouble::Rate => link.rate = Some(one_of(words, &[1_000_000, 10_000_000])),
        }
        link
    }
}

impl Fault for Network {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let link = self.link();
        let mut rooms = vec![CLIENTS];
        for number in fleet.members() {
            rooms.push(fleet.room_number(number)?);
        }
        let mut pairs: Vec<Pair> = Vec::new();
        for (place, one) in rooms.iter().enumerate() {
            pairs.extend(rooms[..place].iter().flat_map(|two| both(*one, *two)));
        }
        if self.trouble == Trouble::Rate {
            let slow = Target::Any.pick_one(fleet, &mut self.words)?;
            let slow = fleet.room_number(slow)?;
            pairs.retain(|(from, to)| *from == slow || *to == slow);
        }
        let what = format!("{:?}", self.trouble);
        let links = pairs.into_iter().map(|pair| (pair, link));
        self.layer = Some(fleet.world()?.switch().lay(&what, links));
        Ok(())
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        if let Some(layer) = self.layer.take() {
            fleet.world()?.switch().lift(layer);
        }
        Ok(())
    }
}
