//! Every fault can be ordered by its name, happens, and is healed: the members
//! serve again, all of them. Here are those that no scenario of `chaos smoke`
//! orders, so that each happens once where all tests are run.
//!
//! What must hold of the data meanwhile is said by the scenarios.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::{Result, ensure};
use weir_chaos_tests::{
    Trial,
    fleet::{Fleet, Options, clock},
    nemesis::{KINDS, Script},
    rig::{self, Backing, faultdisk},
    scenario::{self, SMOKE},
};

const LIMIT: Duration = Duration::from_secs(900);
const HOLD: Duration = Duration::from_secs(1);
const SEED: u64 = 11;

fn three() -> Options {
    Options {
        nodes: 3,
        ..Options::default()
    }
}

fn order(fleet: &mut Fleet, fault: &str) -> Result<()> {
    Script::just(fault, SEED, HOLD).run(fleet, |_, _| Ok(()))
}

/// Where networks and volumes cannot be had, nodes are killed and paused.
#[test]
fn faults_happen_and_heal_on_loopback() {
    Trial::run("nemesis-loopback", LIMIT, |trial| {
        let mut fleet = Fleet::on_loopback(trial, three())?;
        for fault in ["kill-leader", "pause"] {
            order(&mut fleet, fault)?;
        }
        ensure!(fleet.world().is_err() && fleet.power_cut(&[0], None).is_err());
        Ok(())
    });
}

/// One fleet suffers all of them. Their names may be narrowed by
/// `WEIR_FAULTS`, with commas between them.
#[test]
fn faults_of_no_other_test_happen_and_heal() {
    if let Err(why) = rig::available() {
        let _ = writeln!(io::stderr(), "nemesis-world: skipped: {why}");
        return;
    }
    let clocks = clock::available();
    if let Err(why) = &clocks {
        let _ = writeln!(io::stderr(), "nemesis-world: clocks are left alone: {why}");
    }
    let disks = faultdisk::available();
    if let Err(why) = &disks {
        let _ = writeln!(io::stderr(), "nemesis-world: disks do not fail: {why}");
    }
    Trial::run("nemesis-world", LIMIT, move |trial| {
        let wanted = std::env::var("WEIR_FAULTS").unwrap_or_default();
        let is_wanted = |name| match wanted.as_str() {
            "" => !is_ordered_elsewhere(name),
            some => some.split(',').any(|one| one == name),
        };
        let mut options = Options {
            clocks: clocks.is_ok(),
            ..three()
        };
        if disks.is_ok() {
            options.volume.backing = Backing::FaultDisk;
        }
        let mut fleet = Fleet::in_world(trial, options)?;
        let kinds = KINDS
            .iter()
            .filter(|kind| kind.fits(&fleet) && is_wanted(kind.name));
        let names: Vec<_> = kinds.map(|kind| kind.name).collect();
        ensure!(!names.is_empty(), "no faults");
        for name in names {
            order(&mut fleet, name)?;
        }
        Ok(())
    });
}

fn is_ordered_elsewhere(fault: &str) -> bool {
    // Errors of a disk are met only by a node with work.
    fault.ends_with("-errors")
        || SMOKE.iter().any(|name| {
            let scenario = scenario::find(name).expect("it is one of them");
            scenario.plan.faults().contains(&fault)
        })
}
