//! Members that leave, return, change places or start again.

use super::{
    tests::{Machine, member},
    *,
};

fn id(number: u64) -> NodeId {
    NodeId(number)
}

/// Active members 1, 2, … in zones a, b, c, a, …
fn cluster(nodes: u64) -> Machine {
    let mut machine = Machine::founded();
    let numbers: Vec<_> = (1..=nodes).collect();
    for number in &numbers {
        let zone = ["a", "b", "c"][(*number as usize - 1) % 3];
        machine.add(*number, &format!("n{number}"), zone);
    }
    let command = machine.activate(&numbers);
    machine.done(command);
    machine
}

fn owners(machine: &Machine) -> Vec<u64> {
    let plan = machine.state.epochs.last().unwrap();
    plan.nodes.keys().map(|id| id.0).collect()
}

fn epoch(machine: &Machine) -> Epoch {
    machine.state.epochs.last().unwrap().epoch
}

fn hand_off(machine: &mut Machine, numbers: &[u64]) {
    for number in numbers {
        let epoch = epoch(machine);
        machine.done(Command::HandedOff {
            id: id(*number),
            epoch,
        });
    }
}

fn drain(number: u64, on: bool) -> Command {
    Command::Drain { id: id(number), on }
}

fn remove(number: u64, force: bool) -> Command {
    Command::Remove {
        id: id(number),
        force,
    }
}

#[test]
fn a_node_leaves_only_after_every_owner_holds_what_it_held() {
    let mut machine = cluster(4);
    let reason = machine.refused(remove(4, false));
    assert!(reason.contains("drain it first"), "{reason}");
    assert!(machine.done(drain(4, true)).changed);
    assert!(!machine.done(drain(4, true)).changed, "drained twice");
    assert_eq!(owners(&machine), [1, 2, 3]);
    let reason = machine.refused(remove(4, false));
    assert!(reason.contains("has not drained yet"), "{reason}");
    hand_off(&mut machine, &[1, 2]);
    assert_eq!(machine.state.epochs.len(), 2, "one owner has not said so");
    hand_off(&mut machine, &[3]);
    assert_eq!(machine.state.epochs.len(), 1);
    machine.done(remove(4, false));
    assert!(machine.state.removed.contains(&id(4)));
    for (command, why) in [
        (remove(4, true), "removed already"),
        (drain(4, true), "removed already"),
        (
            Command::AddMember {
                id: id(4),
                member: member("n4", "a"),
            },
            "was removed",
        ),
    ] {
        let reason = machine.refused(command);
        assert!(reason.contains(why), "{reason}");
    }
}

#[test]
fn a_drained_node_is_called_back_through_joining() {
    let mut machine = cluster(3);
    machine.done(drain(3, true));
    machine.done(drain(3, false));
    assert_eq!(machine.state.members[&id(3)].status, MemberStatus::Joining);
    assert_eq!(owners(&machine), [1, 2]);
    let command = machine.activate(&[3]);
    machine.done(command);
    assert_eq!(owners(&machine), [1, 2, 3]);
}

#[test]
fn the_last_owner_stays() {
    let mut machine = cluster(2);
    machine.done(drain(1, true));
    for command in [drain(2, true), remove(2, true)] {
        let reason = machine.refused(command);
        assert!(reason.contains("the last that owns blobs"), "{reason}");
    }
}

#[test]
fn a_dead_node_is_removed_even_where_all_else_waits() {
    let mut machine = cluster(LIVE_EPOCHS as u64 + 2);
    for number in 2..=LIVE_EPOCHS as u64 {
        machine.done(drain(number, true));
    }
    assert_eq!(machine.state.epochs.len(), LIVE_EPOCHS);
    machine.refused(drain(LIVE_EPOCHS as u64 + 1, true));
    machine.done(remove(LIVE_EPOCHS as u64 + 1, true));
    let left: Vec<_> = owners(&machine);
    assert_eq!(left, [1, LIVE_EPOCHS as u64 + 2]);
    hand_off(&mut machine, &left);
    assert_eq!(machine.state.epochs.len(), 1, "the way is free again");
}

#[test]
fn a_removal_retires_epochs_that_waited_for_the_removed_alone() {
    let mut machine = cluster(4);
    machine.done(drain(4, true));
    hand_off(&mut machine, &[1, 2]);
    // Node 3 dies before it has handed off.
    machine.done(remove(3, true));
    assert_eq!(owners(&machine), [1, 2]);
    hand_off(&mut machine, &[1, 2]);
    assert_eq!(machine.state.epochs.len(), 1);
}

#[test]
fn marks_count_for_the_current_epoch_alone() {
    let mut machine = cluster(3);
    machine.add(4, "n4", "a");
    let command = machine.activate(&[4]);
    machine.done(command);
    hand_off(&mut machine, &[1, 2, 3]);
    let old = epoch(&machine);
    machine.done(drain(2, true));
    let late = Command::HandedOff {
        id: id(4),
        epoch: old,
    };
    assert!(!machine.done(late).changed);
    assert_eq!(machine.state.epochs.len(), 3);
    let drained = Command::HandedOff {
        id: id(2),
        epoch: epoch(&machine),
    };
    let reason = machine.refused(drained);
    assert!(reason.contains("owns nothing"), "{reason}");
    hand_off(&mut machine, &[1, 3, 4]);
    assert_eq!(machine.state.epochs.len(), 1);
}

#[test]
fn a_new_node_takes_a_dead_ones_place_in_one_step() {
    let mut machine = cluster(3);
    let replace = |old, new, name: &str| Command::Replace {
        old: id(old),
        id: id(new),
        member: member(name, "b"),
    };
    for (command, why) in [
        (replace(9, 7, "n2"), "is no member"),
        (replace(2, 3, "n2"), "is taken"),
        (replace(2, 7, "other"), "is named"),
    ] {
        let reason = machine.refused(command);
        assert!(reason.contains(why), "{reason}");
    }
    machine.done(replace(2, 7, "n2"));
    assert!(machine.state.removed.contains(&id(2)));
    assert_eq!(machine.state.members[&id(7)].status, MemberStatus::Joining);
    // In name only, until the new one has caught up.
    assert_eq!(owners(&machine), [1, 2, 3]);
    let command = machine.activate(&[7]);
    machine.done(command);
    assert_eq!(owners(&machine), [1, 3, 7]);
    hand_off(&mut machine, &[1, 3, 7]);
    assert_eq!(machine.state.epochs.len(), 1);
}

#[test]
fn a_new_label_of_an_owner_begins_an_epoch() {
    let mut machine = cluster(3);
    let relabel = |number, zone: &str, weight| Command::Relabel {
        id: id(number),
        zone: zone.into(),
        host: format!("host-of-n{number}"),
        weight,
    };
    assert!(!machine.done(relabel(1, "a", 1)).changed);
    machine.refused(relabel(1, "a", 0));
    machine.refused(relabel(1, "", 1));
    assert_eq!(machine.state.epochs.len(), 1);
    machine.done(relabel(1, "d", 2));
    let share = &machine.state.epochs[1].nodes[&id(1)];
    assert_eq!((&*share.zone, share.weight), ("d", 2));
    machine.add(4, "n4", "a");
    machine.done(relabel(4, "b", 1));
    assert_eq!(machine.state.epochs.len(), 2, "it owned nothing");
}

#[test]
fn a_start_that_does_not_go_on_from_the_last_is_refused() {
    let mut machine = cluster(1);
    let announce = |boot, known: &[u64]| Command::Announce {
        id: id(1),
        peer_address: "n1:1".into(),
        client_address: "n1:2".into(),
        admin_address: "n1:3".into(),
        boot,
        known_boots: known.to_vec(),
    };
    machine.done(announce(10, &[]));
    assert!(!machine.done(announce(10, &[])).changed, "asked again");
    machine.done(announce(11, &[10]));
    let reason = machine.refused(announce(12, &[10]));
    assert!(reason.contains("older copy"), "{reason}");
    // Cut off between the announcement and the note of it: both are known.
    machine.done(announce(13, &[10, 11]));
    let reason = machine.refused(Command::Announce {
        id: id(99),
        peer_address: String::new(),
        client_address: String::new(),
        admin_address: String::new(),
        boot: 1,
        known_boots: vec![],
    });
    assert!(reason.contains("is no member"), "{reason}");
}
