//! Every fault can be ordered by its name, happens, and is healed: the members
//! serve again, all of them.
//!
//! What must hold of the data meanwhile is said elsewhere, by those who put
//! work on the fleet.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::Result;
use weir_chaos_tests::{
    Trial,
    fleet::{Fleet, Options, clock},
    nemesis::{KINDS, Kind, Needs, Script},
    rig::{self, Backing, faultdisk},
};

const LIMIT: Duration = Duration::from_secs(900);
const HOLD: Duration = Duration::from_secs(1);
const SEED: u64 = 11;

/// Orders every fault of these kinds on one fleet, one after the other. Their
/// names may be narrowed by `WEIR_FAULTS`, with commas between them.
fn order_all(fleet: &mut Fleet, fits: impl Fn(&Kind) -> bool) -> Result<()> {
    let wanted = std::env::var("WEIR_FAULTS").unwrap_or_default();
    let is_wanted = |name| wanted.is_empty() || wanted.split(',').any(|one| one == name);
    for kind in KINDS
        .iter()
        .filter(|kind| fits(kind) && is_wanted(kind.name))
    {
        Script::just(kind.name, SEED, HOLD).run(fleet, |_, _| Ok(()))?;
    }
    Ok(())
}

fn without(name: &str, what: Result<(), String>) -> bool {
    if let Err(why) = &what {
        let _ = writeln!(io::stderr(), "{name}: skipped: {why}");
    }
    what.is_err()
}

fn three() -> Options {
    Options {
        nodes: 3,
        ..Options::default()
    }
}

#[test]
fn faults_of_processes_happen_and_heal_on_loopback() {
    Trial::run("nemesis-processes", LIMIT, |trial| {
        let mut fleet = Fleet::on_loopback(trial, three())?;
        order_all(&mut fleet, |kind| {
            kind.needs == Needs::Processes && !kind.loses_copies
        })
    });
}

#[test]
fn faults_of_networks_and_disks_happen_and_heal() {
    if without("nemesis-world", rig::available()) {
        return;
    }
    Trial::run("nemesis-world", LIMIT, |trial| {
        let mut fleet = Fleet::in_world(trial, three())?;
        order_all(&mut fleet, |kind| {
            kind.needs == Needs::World && !kind.loses_copies
        })
    });
}

/// But for errors, which only a node with work meets: they are scenarios.
#[test]
fn faults_of_disks_happen_and_heal() {
    if without("nemesis-disks", faultdisk::available()) {
        return;
    }
    Trial::run("nemesis-disks", LIMIT, |trial| {
        let mut options = three();
        options.volume.backing = Backing::FaultDisk;
        let mut fleet = Fleet::in_world(trial, options)?;
        order_all(&mut fleet, |kind| {
            kind.needs == Needs::Disks && !kind.name.ends_with("-errors")
        })
    });
}

#[test]
fn faults_of_clocks_happen_and_heal() {
    if without(
        "nemesis-clocks",
        rig::available().and_then(|()| clock::available()),
    ) {
        return;
    }
    Trial::run("nemesis-clocks", LIMIT, |trial| {
        let options = Options {
            clocks: true,
            ..three()
        };
        let mut fleet = Fleet::in_world(trial, options)?;
        order_all(&mut fleet, |kind| kind.needs == Needs::Clocks)
    });
}

/// After each of them every blob is where it belongs again.
#[test]
fn faults_that_lose_copies_happen_and_are_made_up_for() {
    if without("nemesis-losing", rig::available()) {
        return;
    }
    Trial::run("nemesis-losing", LIMIT, |trial| {
        let mut fleet = Fleet::in_world(trial, three())?;
        order_all(&mut fleet, |kind| kind.loses_copies)
    });
}

/// Two at once, drawn: faults get along with each other.
#[test]
fn faults_can_be_combined() {
    if without("nemesis-mixed", rig::available()) {
        return;
    }
    Trial::run("nemesis-mixed", LIMIT, |trial| {
        let mut fleet = Fleet::in_world(trial, three())?;
        let passing = KINDS
            .iter()
            .filter(|kind| kind.fits(&fleet) && !kind.loses_copies);
        let names: Vec<_> = passing.map(|kind| kind.name).collect();
        Script::draw(SEED, 6, 3, HOLD, &names)?.run(&mut fleet, |_, _| Ok(()))
    });
}
