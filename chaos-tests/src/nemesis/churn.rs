//! Members that come and go.

use anyhow::Result;

use super::Fault;
use crate::fleet::Fleet;

/// A node joins, and leaves in good order when it is healed: drained, removed,
/// its disk erased. The same machine is used every time, under a new identity.
#[derive(Default)]
pub struct Churn {
    guest: Option<usize>,
}

impl Churn {
    /// There is nothing to choose.
    pub fn new() -> Churn {
        Churn::default()
    }
}

impl Fault for Churn {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let mut all = 0..fleet.nodes().len();
        let is_idle = |node: &crate::fleet::Node| !node.is_member() && node.pid().is_none();
        let guest = match all.find(|number| is_idle(fleet.node(*number))) {
            Some(idle) => idle,
            None => fleet.make()?,
        };
        fleet.erase(guest)?;
        fleet.join(guest)?;
        self.guest = Some(guest);
        fleet.start_node(guest)?;
        fleet.wait_serving(guest)
    }

    fn victims(&self) -> &[usize] {
        self.guest.as_slice()
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        if let Some(guest) = self.guest.take() {
            fleet.drain(guest)?;
            fleet.remove(guest)?;
            fleet.kill(guest);
            fleet.erase(guest)?;
        }
        Ok(())
    }
}
