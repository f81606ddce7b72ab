//! Fleets: nodes in rooms of their own live, are hurt, and come back.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::{Result, ensure};
use weir_chaos_tests::{
    Trial,
    fleet::{Fleet, Options, clock},
    rig::{self, Link},
    wait::until,
};

const LIMIT: Duration = Duration::from_secs(300);
const STEP_LIMIT: Duration = Duration::from_secs(60);

fn three() -> Options {
    Options {
        nodes: 3,
        ..Options::default()
    }
}

fn in_a_world(
    name: &'static str,
    options: Options,
    body: impl FnOnce(&mut Fleet) -> Result<()> + Send + 'static,
) {
    if let Err(why) = rig::available() {
        let _ = writeln!(
            io::stderr(),
            "{name}: skipped, this machine has no rig: {why}"
        );
        return;
    }
    Trial::run(name, LIMIT, move |trial| {
        body(&mut Fleet::in_world(trial, options)?)
    });
}

#[test]
fn a_fleet_survives_kill_pause_cut_and_partition() {
    in_a_world("fleet", three(), |fleet| {
        let readings = fleet.readings(0)?;
        ensure!(
            readings.rss_bytes > 1 << 20 && readings.files > 5,
            "{readings:?}"
        );
        let leader = fleet.wait_leader()?;
        fleet.kill(leader);
        let next = until("another leader", STEP_LIMIT, || {
            Ok(fleet.leader()?.filter(|next| *next != leader))
        })?;
        fleet.start_node(leader)?;
        fleet.wait_serving(leader)?;

        fleet.pause(next)?;
        let third = until("a third leader", STEP_LIMIT, || {
            Ok(fleet.leader()?.filter(|third| *third != next))
        })?;
        fleet.resume(next)?;

        // The leader alone, while clients still reach it.
        let alone = fleet.room_number(third)?;
        let others = (1..=3).filter(|room| *room != alone);
        let cuts = others.flat_map(|room| rig::world::both(alone, room));
        let layer = fleet
            .world()?
            .switch()
            .lay("alone", cuts.map(|pair| (pair, Link::CUT)));
        until("a leader on the other side", STEP_LIMIT, || {
            let other = (third + 1) % 3;
            let status = fleet.status(other)?;
            let leader = status["leader"].as_str().unwrap_or("none").to_owned();
            Ok((leader != "none" && leader != fleet.node(third).name).then_some(()))
        })?;
        fleet.world()?.switch().lift(layer);

        fleet.power_cut(&[0, 1, 2], None)?;
        for number in 0..3 {
            fleet.start_node(number)?;
        }
        fleet.wait_all_serving()?;
        fleet.wait_members()?;
        fleet.stop(1)
    });
}

/// A node whose clock is days off serves on, and its log tells the time.
#[test]
fn clocks_step_under_a_running_node() {
    if let Err(why) = clock::available() {
        let _ = writeln!(io::stderr(), "fleet-clock: skipped: {why}");
        return;
    }
    let options = Options {
        nodes: 1,
        clocks: true,
        ..Options::default()
    };
    in_a_world("fleet-clock", options, |fleet| {
        let day = 24 * 3600;
        fleet.step_clock(0, 400 * day)?;
        // Its own words: every line of its log begins with the date.
        let year = |fleet: &Fleet| -> Result<String> {
            let log = std::fs::read_to_string(fleet.node(0).log())?;
            let last = log.lines().last().unwrap_or_default();
            Ok(last.chars().filter(char::is_ascii_digit).take(4).collect())
        };
        let before = year(fleet)?;
        fleet.stop(0)?;
        let after = year(fleet)?;
        ensure!(after > before, "a log of {before} ends in {after}");
        fleet.start_node(0)?;
        fleet.wait_serving(0)
    });
}
