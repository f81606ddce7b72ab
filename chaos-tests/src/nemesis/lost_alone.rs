//! Machines that are cut off from the others, and then lost.

use anyhow::Result;

use super::{Fault, Target, partition::between};
use crate::{
    fleet::Fleet,
    rig::{Link, switch::Layer},
    seeded::Words,
};

/// Some machines and the others do not hear each other, and clients reach both;
/// then their disks are lost. Whatever they alone had is gone: they must not
/// have promised any of it. Healed by new nodes in their place.
pub struct LostAlone {
    words: Words,
    target: Target,
    victims: Vec<usize>,
    layer: Option<Layer>,
}

impl LostAlone {
    /// One whose victims follow from the seed.
    pub fn new(seed: u64, target: Target) -> LostAlone {
        LostAlone {
            words: Words::new(seed),
            target,
            victims: Vec::new(),
            layer: None,
        }
    }
}

impl Fault for LostAlone {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        self.victims = self.target.pick(fleet, &mut self.words)?;
        self.layer = Some(cut_off(fleet, &self.victims)?);
        Ok(())
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        // Gone before anybody hears them again.
        for number in &self.victims {
            fleet.kill(*number);
        }
        if let Some(layer) = self.layer.take() {
            fleet.world()?.switch().lift(layer);
        }
        for number in self.victims.drain(..) {
            fleet.replace(number)?;
        }
        Ok(())
    }
}

/// These and the other members do not hear each other; clients reach all.
pub(super) fn cut_off(fleet: &Fleet, apart: &[usize]) -> Result<Layer> {
    let mut others = fleet.members();
    others.retain(|number| !apart.contains(number));
    let rooms = |numbers: &[usize]| {
        let rooms = numbers.iter().map(|number| fleet.room_number(*number));
        rooms.collect::<Result<Vec<_>>>()
    };
    let cuts = between(&rooms(apart)?, &rooms(&others)?);
    let links = cuts.into_iter().map(|pair| (pair, Link::CUT));
    Ok(fleet.world()?.switch().lay("cut off", links))
}
