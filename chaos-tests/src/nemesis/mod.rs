//! Faults, one a file, and the scripts that order them.
//!
//! ```text
//!  Script ── seed → steps; each is one or more faults and how long they last
//!    └── Fault ── inject → ticks → heal; victims follow from the seed
//!          └── Fleet, World, Volume ── what really happens, entered in Events
//! ```
//!
//! Promised: the same script on the same fleet orders the same faults; what a
//! fault did is undone by [`Fault::heal`], also after an injection that failed
//! half way; after a step is healed every member serves again, and where
//! copies were lost it is waited for until they are made up for.
//!
//! Not promised: that the same script meets the same instant of the work. A
//! leader is whoever leads then; processes take their own time.

mod churn;
mod clock;
mod damage;
mod disk_errors;
mod disk_full;
mod flap;
mod kill;
mod lost_alone;
mod names;
mod network;
mod old_image;
mod partition;
mod pause;
mod power_cut;
mod read_only;
mod refusal;
mod removed_returns;
mod removed_unaware;
mod replace;
mod rot;
mod script;
mod slow_disk;
mod starve;
mod stop;
mod target;
mod vanish;
mod zone_loss;

use anyhow::{Context, Result};

pub use self::{
    churn::Churn,
    clock::Clock,
    damage::{Damage, Part},
    disk_errors::DiskErrors,
    disk_full::DiskFull,
    flap::Flap,
    kill::Kill,
    lost_alone::LostAlone,
    names::Names,
    network::{Network, Trouble},
    old_image::OldImage,
    partition::{Partition, Shape},
    pause::Pause,
    power_cut::PowerCut,
    read_only::ReadOnly,
    removed_returns::RemovedReturns,
    removed_unaware::RemovedUnaware,
    replace::Replace,
    rot::Rot,
    script::{Hit, Order, Script, Step},
    slow_disk::SlowDisk,
    starve::{Scarce, Starve},
    stop::Stop,
    target::Target,
    vanish::Vanish,
    zone_loss::ZoneLoss,
};
use crate::{fleet::Fleet, rig::faultdisk::Access};

/// Entered when a node had to be started again that should have come back by
/// itself.
pub const NOT_ALONE: &str = "did not come back by itself";

/// Entered when a node was taken for a member that is none, or not any more.
pub const BELIEVED: &str = "was believed";

/// Something that happens to a fleet and ends again.
pub trait Fault: Send {
    /// Chooses victims and lets it happen.
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()>;

    /// Called about twice a second while it lasts, with the share of the time
    /// that has passed.
    fn tick(&mut self, _fleet: &mut Fleet, _passed: f64) -> Result<()> {
        Ok(())
    }

    /// The members that it hits, while it lasts; none where it hits no member in
    /// particular.
    fn victims(&self) -> &[usize] {
        &[]
    }

    /// Ends it, as far as it began. Nodes are started again, not waited for.
    fn heal(&mut self, fleet: &mut Fleet) -> Result<()>;
}

/// What a fault needs of a fleet, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Processes alone.
    Processes,
    /// Networks and volumes.
    World,
    /// Volumes on disks that fail as ordered.
    Disks,
    /// Wall clocks that step.
    Clocks,
}

/// A fault that can be ordered by name.
pub struct Kind {
    /// How scripts and records call it.
    pub name: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// Whether copies are lost by it: the next may have to wait until others
    /// were made.
    pub loses_copies: bool,
    /// Makes one that follows from a seed.
    pub make: fn(seed: u64) -> Box<dyn Fault>,
}

impl Kind {
    /// Whether a fleet has what it needs.
    pub fn fits(&self, fleet: &Fleet) -> bool {
        match self.needs {
            Needs::Processes => true,
            Needs::World => fleet.has_world(),
            Needs::Disks => fleet.has_disks(),
            Needs::Clocks => fleet.options().clocks,
        }
    }
}

/// The fault of this name.
pub fn find(name: &str) -> Result<&'static Kind> {
    let found = KINDS.iter().find(|kind| kind.name == name);
    found.with_context(|| format!("no fault is called {name:?}"))
}

/// The names of all faults that a fleet has what they need for.
pub fn fitting(fleet: &Fleet) -> Vec<&'static str> {
    let kinds = KINDS.iter().filter(|kind| kind.fits(fleet));
    kinds.map(|kind| kind.name).collect()
}

const fn passing(name: &'static str, needs: Needs, make: fn(seed: u64) -> Box<dyn Fault>) -> Kind {
    Kind {
        name,
        needs,
        loses_copies: false,
        make,
    }
}

const fn losing(name: &'static str, needs: Needs, make: fn(seed: u64) -> Box<dyn Fault>) -> Kind {
    Kind {
        name,
        needs,
        loses_copies: true,
        make,
    }
}

use Needs::{Clocks, Disks, Processes, World};

/// Every fault there is.
#[rustfmt::skip]
pub static KINDS: &[Kind] = &[
    passing("kill", Processes, |seed| Box::new(Kill::new(seed, Target::Any))),
    passing("kill-leader", Processes, |seed| Box::new(Kill::new(seed, Target::Leader))),
    passing("stop", Processes, |seed| Box::new(Stop::new(seed, Target::Any))),
    passing("stop-leader", Processes, |seed| Box::new(Stop::new(seed, Target::Leader))),
    passing("pause", Processes, |seed| Box::new(Pause::new(seed, Target::Any))),
    passing("pause-leader", Processes, |seed| Box::new(Pause::new(seed, Target::Leader))),
    passing("flap", Processes, |seed| Box::new(Flap::new(seed, Target::Any))),
    passing("power-cut", World, |seed| Box::new(PowerCut::new(seed, Target::Any))),
    passing("power-cut-leader", World, |seed| Box::new(PowerCut::new(seed, Target::Leader))),
    passing("power-cut-all", World, |seed| Box::new(PowerCut::new(seed, Target::All))),
    passing("torn-cut", Disks, |seed| Box::new(PowerCut::torn(seed, Target::Any))),
    passing("torn-cut-all", Disks, |seed| Box::new(PowerCut::torn(seed, Target::All))),
    passing("zone-loss", Processes, |seed| Box::new(ZoneLoss::new(seed))),
    passing("isolate", World, |seed| Box::new(Partition::new(seed, Shape::Isolate(Target::Any)))),
    passing("leader-alone", World, |seed| Box::new(Partition::new(seed, Shape::Isolate(Target::Leader)))),
    passing("zone-away", World, |seed| Box::new(Partition::new(seed, Shape::Isolate(Target::Zone)))),
    passing("halves", World, |seed| Box::new(Partition::new(seed, Shape::Halves))),
    passing("deaf", World, |seed| Box::new(Partition::new(seed, Shape::Deaf(Target::Any)))),
    passing("deaf-leader", World, |seed| Box::new(Partition::new(seed, Shape::Deaf(Target::Leader)))),
    passing("mute", World, |seed| Box::new(Partition::new(seed, Shape::Mute(Target::Any)))),
    passing("mute-leader", World, |seed| Box::new(Partition::new(seed, Shape::Mute(Target::Leader)))),
    passing("ring", World, |seed| Box::new(Partition::new(seed, Shape::Ring))),
    passing("bridge", World, |seed| Box::new(Partition::new(seed, Shape::Bridge))),
    passing("clients-away", World, |seed| Box::new(Partition::new(seed, Shape::Clients(Target::Any)))),
    passing("delay", World, |seed| Box::new(Network::new(seed, Trouble::Delay))),
    passing("loss", World, |seed| Box::new(Network::new(seed, Trouble::Loss))),
    passing("duplicate", World, |seed| Box::new(Network::new(seed, Trouble::Duplicate))),
    passing("reorder", World, |seed| Box::new(Network::new(seed, Trouble::Reorder))),
    passing("rate", World, |seed| Box::new(Network::new(seed, Trouble::Rate))),
    passing("names", World, |seed| Box::new(Names::new(seed))),
    passing("disk-full", World, |seed| Box::new(DiskFull::bytes(seed))),
    passing("inodes-full", World, |seed| Box::new(DiskFull::inodes(seed))),
    passing("read-only", World, |seed| Box::new(ReadOnly::new(seed))),
    passing("vanish", World, |seed| Box::new(Vanish::new(seed))),
    passing("read-errors", Disks, |seed| Box::new(DiskErrors::new(seed, Access::Read))),
    passing("write-errors", Disks, |seed| Box::new(DiskErrors::new(seed, Access::Write))),
    passing("sync-errors", Disks, |seed| Box::new(DiskErrors::new(seed, Access::Sync))),
    passing("slow-disk", Disks, |seed| Box::new(SlowDisk::new(seed, Target::Any))),
    passing("slow-disk-leader", Disks, |seed| Box::new(SlowDisk::new(seed, Target::Leader))),
    losing("rot", World, |seed| Box::new(Rot::new(seed))),
    losing("damage-journal", World, |seed| Box::new(Damage::new(seed, Part::Journal))),
    losing("damage-tail", World, |seed| Box::new(Damage::new(seed, Part::Tail))),
    losing("damage-snapshot", World, |seed| Box::new(Damage::new(seed, Part::Snapshot))),
    losing("damage-state", World, |seed| Box::new(Damage::new(seed, Part::State))),
    passing("clock", Clocks, |seed| Box::new(Clock::new(seed, Target::Any))),
    passing("clock-all", Clocks, |seed| Box::new(Clock::new(seed, Target::All))),
    losing("churn", Processes, |_| Box::new(Churn::new())),
    losing("replace", Processes, |seed| Box::new(Replace::new(seed))),
    losing("removed-returns", Processes, |seed| Box::new(RemovedReturns::new(seed))),
    losing("removed-unaware", World, |seed| Box::new(RemovedUnaware::new(seed))),
    losing("lost-alone", World, |seed| Box::new(LostAlone::new(seed, Target::Any))),
    losing("old-image", World, |seed| Box::new(OldImage::new(seed))),
    passing("starve-files", Processes, |seed| Box::new(Starve::new(seed, Scarce::Files))),
    passing("starve-cpu", World, |seed| Box::new(Starve::new(seed, Scarce::Cpu))),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_used_once() {
        for kind in KINDS {
            let same = KINDS.iter().filter(|other| other.name == kind.name);
            assert_eq!(same.count(), 1, "{}", kind.name);
            assert!(find(kind.name).is_ok());
        }
        assert!(find("happiness").is_err());
    }
}
