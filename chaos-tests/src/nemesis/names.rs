//! Addresses that lead to the wrong node.

use anyhow::{Result, ensure};

use super::{Fault, target::shuffled};
use crate::{fleet::Fleet, seeded::Words};

/// Two members exchange their addresses, which is what wrong names come to:
/// whoever calls one of them reaches the other, and must not believe it.
/// Healed by exchanging them again.
pub struct Names {
    words: Words,
    swapped: Option<(usize, usize)>,
}

impl Names {
    /// One whose victims follow from the seed.
    pub fn new(seed: u64) -> Names {
        Names {
            words: Words::new(seed),
            swapped: None,
        }
    }
}

impl Fault for Names {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let members = shuffled(fleet.members(), &mut self.words);
        ensure!(members.len() > 1, "there are no two members");
        fleet.swap_addresses(members[0], members[1])?;
        self.swapped = Some((members[0], members[1]));
        Ok(())
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        match self.swapped.take() {
            Some((one, two)) => fleet.swap_addresses(one, two),
            None => Ok(()),
        }
    }
}
