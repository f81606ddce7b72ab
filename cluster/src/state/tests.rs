//! Rules of [`apply`], one by one and over random histories.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    apply::{MAX_LABEL_BYTES, MAX_REF_KEY_BYTES, MAX_REFS_PER_COMMAND, MAX_WEIGHT},
    settings::{MAX_INITIAL_NODES, MAX_REF_PATIENCE_MS, MAX_REPLICAS},
    *,
};
use crate::Digest;

type Rows = BTreeMap<RefKey, Ref>;

/// A member as `weir join` would enter it.
pub(crate) fn member(name: &str, zone: &str) -> Member {
    Member {
        name: name.into(),
        zone: zone.into(),
        host: format!("host-of-{name}"),
        weight: 1,
        peer_address: format!("{name}:1"),
        client_address: format!("{name}:2"),
        admin_address: format!("{name}:3"),
        status: MemberStatus::Joining,
        boot: 0,
    }
}

fn key(uri: &str) -> RefKey {
    RefKey::new(RefKind::Blob, "main", uri, vec![])
}

fn value(text: &str) -> RefValue {
    RefValue {
        digest: Digest::of(text.as_bytes()),
        manifest: None,
        expire_at: None,
        pushed_at: 0,
    }
}

/// A state, its rows and the number of commands applied so far.
#[derive(Default, Clone, PartialEq, Debug)]
pub(super) struct Machine {
    pub(super) state: ClusterState,
    rows: Rows,
    revision: u64,
}

impl Machine {
    pub(super) fn founded() -> Self {
        let mut machine = Self::default();
        machine.done(Command::Found {
            cluster: ClusterId(1),
            settings: Settings::default(),
        });
        machine
    }

    fn apply(&mut self, command: Command) -> Effects {
        self.revision += 1;
        let effects = apply(&mut self.state, &self.rows, self.revision, command).unwrap();
        for (key, row) in effects.rows.clone() {
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
        effects
    }

    pub(super) fn done(&mut self, command: Command) -> Effects {
        let effects = self.apply(command.clone());
        let revision = self.revision;
        assert_eq!(effects.response, Response::Done { revision }, "{command:?}");
        effects
    }

    pub(super) fn refused(&mut self, command: Command) -> String {
        let before = self.state.clone();
        let effects = self.apply(command.clone());
        assert_eq!(self.state, before, "a refusal changed the state");
        assert!(effects.rows.is_empty() && !effects.changed);
        match effects.response {
            Response::Refused { reason } => reason,
            Response::Done { .. } => panic!("{command:?} was not refused"),
        }
    }

    pub(super) fn add(&mut self, id: u64, name: &str, zone: &str) {
        self.done(Command::AddMember {
            id: NodeId(id),
            member: member(name, zone),
        });
    }

    pub(super) fn activate(&mut self, ids: &[u64]) -> Command {
        Command::Activate {
            nodes: ids.iter().map(|id| NodeId(*id)).collect(),
        }
    }
}

#[test]
fn a_cluster_is_founded_once_and_first() {
    let mut machine = Machine::default();
    let reason = machine.refused(Command::SetRefs {
        keys: vec![key("a")],
        value: value("a"),
    });
    assert!(reason.contains("not founded"), "{reason}");
    let mut machine = Machine::founded();
    let reason = machine.refused(Command::Found {
        cluster: ClusterId(2),
        settings: Settings::default(),
    });
    assert!(reason.contains("founded already"), "{reason}");
}

#[test]
fn a_name_belongs_to_one_member_and_an_id_to_one_name() {
    let mut machine = Machine::founded();
    machine.add(1, "one", "a");
    let again = Command::AddMember {
        id: NodeId(1),
        member: member("one", "a"),
    };
    assert!(!machine.done(again).changed, "the same node asked again");
    for (id, name, why) in [(2, "one", "is taken"), (1, "two", "belongs to")] {
        let reason = machine.refused(Command::AddMember {
            id: NodeId(id),
            member: member(name, "b"),
        });
        assert!(reason.contains(why), "{reason}");
    }
}

#[test]
fn a_member_always_enters_as_joining() {
    let mut machine = Machine::founded();
    machine.done(Command::AddMember {
        id: NodeId(1),
        member: Member {
            status: MemberStatus::Active,
            ..member("one", "a")
        },
    });
    assert_eq!(
        machine.state.members[&NodeId(1)].status,
        MemberStatus::Joining
    );
    assert!(machine.state.epochs.is_empty());
}

#[test]
fn a_member_that_could_not_be_used_is_refused() {
    let good = member("one", "a");
    let long = "x".repeat(MAX_LABEL_BYTES + 1);
    for bad in [
        Member {
            name: String::new(),
            ..good.clone()
        },
        Member {
            zone: String::new(),
            ..good.clone()
        },
        Member {
            peer_address: String::new(),
            ..good.clone()
        },
        Member {
            host: long.clone(),
            ..good.clone()
        },
        Member {
            weight: 0,
            ..good.clone()
        },
        Member {
            weight: MAX_WEIGHT + 1,
            ..good.clone()
        },
    ] {
        let id = NodeId(1);
        Machine::founded().refused(Command::AddMember { id, member: bad });
    }
    let mut machine = Machine::founded();
    machine.add(1, "one", "a");
    machine.refused(Command::Announce {
        id: NodeId(1),
        peer_address: long,
        client_address: String::new(),
        admin_address: String::new(),
        boot: 1,
        known_boots: vec![],
    });
}

#[test]
fn an_epoch_holds_every_active_member_and_no_other() {
    let mut machine = Machine::founded();
    for (id, zone) in [(1, "a"), (2, "b"), (3, "c"), (4, "a")] {
        machine.add(id, &format!("n{id}"), zone);
    }
    let first = machine.activate(&[1, 2]);
    assert!(machine.done(first.clone()).changed);
    assert!(!machine.done(first).changed, "activated a second time");
    let second = machine.activate(&[3]);
    machine.done(second);
    let shape: Vec<_> = machine
        .state
        .epochs
        .iter()
        .map(|plan| (plan.epoch.0, plan.nodes.keys().map(|id| id.0).collect()))
        .collect::<Vec<(u64, Vec<u64>)>>();
    assert_eq!(shape, [(1, vec![1, 2]), (2, vec![1, 2, 3])]);
    let reason = {
        let unknown = machine.activate(&[4, 9]);
        machine.refused(unknown)
    };
    assert!(reason.contains("is no member"), "{reason}");
}

#[test]
fn a_ninth_epoch_waits_for_the_oldest() {
    let mut machine = Machine::founded();
    for id in 1..=LIVE_EPOCHS as u64 + 1 {
        machine.add(id, &format!("n{id}"), "a");
    }
    for id in 1..=LIVE_EPOCHS as u64 {
        let command = machine.activate(&[id]);
        machine.done(command);
    }
    let ninth = machine.activate(&[LIVE_EPOCHS as u64 + 1]);
    let reason = machine.refused(ninth);
    assert!(reason.contains("from epoch 1"), "{reason}");
    let settings = Settings {
        replicas: 4,
        ..Settings::default()
    };
    machine.refused(Command::Settle { settings });
    let lease = Settings {
        lease_seconds: 9,
        ..Settings::default()
    };
    machine.done(Command::Settle { settings: lease });
}

#[test]
fn settings_are_checked_and_a_new_factor_begins_an_epoch() {
    let good = Settings::default();
    for bad in [
        Settings {
            replicas: 0,
            ..good.clone()
        },
        Settings {
            replicas: MAX_REPLICAS + 1,
            ..good.clone()
        },
        Settings {
            write_quorum: 0,
            ..good.clone()
        },
        Settings {
            write_quorum: 4,
            ..good.clone()
        },
        Settings {
            lease_seconds: 0,
            ..good.clone()
        },
        Settings {
            ref_patience_ms: MAX_REF_PATIENCE_MS + 1,
            ..good.clone()
        },
        Settings {
            initial_nodes: 0,
            ..good.clone()
        },
        Settings {
            initial_nodes: MAX_INITIAL_NODES + 1,
            ..good.clone()
        },
    ] {
        Machine::founded().refused(Command::Settle {
            settings: bad.clone(),
        });
        Machine::default().refused(Command::Found {
            cluster: ClusterId(1),
            settings: bad,
        });
    }
    let mut machine = Machine::founded();
    machine.add(1, "one", "a");
    let command = machine.activate(&[1]);
    machine.done(command);
    let same = Command::Settle {
        settings: good.clone(),
    };
    assert!(!machine.done(same).changed);
    machine.done(Command::Settle {
        settings: Settings {
            lease_seconds: 60,
            ..good.clone()
        },
    });
    assert_eq!(machine.state.epochs.len(), 1, "a lease moves no blob");
    machine.done(Command::Settle {
        settings: Settings {
            replicas: 2,
            ..good
        },
    });
    assert_eq!(machine.state.epochs.len(), 2);
    assert_eq!(machine.state.epochs[1].replicas, 2);
}

#[test]
fn all_keys_of_a_push_get_one_revision_and_a_removal_needs_it() {
    let mut machine = Machine::founded();
    machine.done(Command::SetRefs {
        keys: vec![key("a"), key("b"), key("a")],
        value: value("1"),
    });
    let revision = machine.revision;
    assert_eq!(machine.rows.len(), 2);
    assert!(machine.rows.values().all(|row| row.revision == revision));
    machine.done(Command::SetRefs {
        keys: vec![key("a")],
        value: value("2"),
    });
    let effects = machine.done(Command::RemoveRefs {
        refs: vec![
            (key("a"), revision),
            (key("b"), revision),
            (key("c"), revision),
        ],
    });
    assert_eq!(effects.rows, [(key("b"), None)]);
    assert_eq!(machine.rows[&key("a")].value, value("2"));
}

#[test]
fn refs_past_a_limit_are_refused() {
    let mut machine = Machine::founded();
    for keys in [
        vec![],
        vec![key(&"x".repeat(MAX_REF_KEY_BYTES))],
        vec![key("a"); MAX_REFS_PER_COMMAND + 1],
    ] {
        machine.refused(Command::SetRefs {
            keys,
            value: value("1"),
        });
    }
    machine.refused(Command::RemoveRefs {
        refs: vec![(key("a"), 1); MAX_REFS_PER_COMMAND + 1],
    });
}

#[test]
fn rows_that_cannot_be_read_change_nothing() {
    struct Broken;
    impl RefRows for Broken {
        fn get(&self, _: &RefKey) -> Result<Option<Ref>, Error> {
            Err(Error::Internal("unreadable".into()))
        }
    }
    let mut machine = Machine::founded();
    let before = machine.state.clone();
    let command = Command::RemoveRefs {
        refs: vec![(key("a"), 1)],
    };
    apply(&mut machine.state, &Broken, 9, command).unwrap_err();
    assert_eq!(machine.state, before);
}

fn any_settings() -> impl Strategy<Value = Settings> {
    (0..6u32, 0..6u32).prop_map(|(replicas, write_quorum)| Settings {
        replicas,
        write_quorum,
        ..Settings::default()
    })
}

fn any_command() -> impl Strategy<Value = Command> {
    let id = || (0..12u64).prop_map(NodeId);
    let key = || (0..6u8).prop_map(|n| key(&format!("uri-{n}")));
    prop_oneof![
        1 => any_settings().prop_map(|settings| Command::Found {
            cluster: ClusterId(3),
            settings
        }),
        3 => any_settings().prop_map(|settings| Command::Settle { settings }),
        5 => (id(), 0..10u8, 0..3u8).prop_map(|(id, name, zone)| Command::AddMember {
            id,
            member: member(&format!("name-{name}"), &format!("zone-{zone}")),
        }),
        5 => proptest::collection::vec(id(), 0..4)
            .prop_map(|nodes| Command::Activate { nodes }),
        2 => (id(), 0..3u8, 1..4u64, 1..4u64).prop_map(|(id, n, boot, known)| Command::Announce {
            id,
            peer_address: format!("moved-{n}:1"),
            client_address: String::new(),
            admin_address: String::new(),
            boot,
            known_boots: vec![known],
        }),
        3 => (id(), any::<bool>()).prop_map(|(id, on)| Command::Drain { id, on }),
        2 => (id(), any::<bool>()).prop_map(|(id, force)| Command::Remove { id, force }),
        2 => (id(), id(), 0..10u8, 0..3u8).prop_map(|(old, id, name, zone)| Command::Replace {
            old,
            id,
            member: member(&format!("name-{name}"), &format!("zone-{zone}")),
        }),
        2 => (id(), 0..3u8, 1..3u32).prop_map(|(id, zone, weight)| Command::Relabel {
            id,
            zone: format!("zone-{zone}"),
            host: "host".into(),
            weight,
        }),
        4 => (id(), 0..12u64).prop_map(|(id, epoch)| Command::HandedOff {
            id,
            epoch: Epoch(epoch),
        }),
        5 => (proptest::collection::vec(key(), 0..4), 0..9u8).prop_map(|(keys, n)| {
            Command::SetRefs { keys, value: value(&format!("value-{n}")) }
        }),
        5 => proptest::collection::vec((key(), 0..60u64), 0..4)
            .prop_map(|refs| Command::RemoveRefs { refs }),
    ]
}

proptest! {
    #[test]
    fn any_history_keeps_the_rules(commands in proptest::collection::vec(any_command(), 0..60)) {
        let mut machine = Machine::default();
        machine.apply(Command::Found {
            cluster: ClusterId(1),
            settings: Settings::default(),
        });
        let mut twin = machine.clone();
        for command in commands {
            let before = machine.clone();
            let effects = machine.apply(command.clone());
            prop_assert_eq!(&twin.apply(command.clone()), &effects, "two nodes disagree");
            prop_assert_eq!(&twin, &machine);
            prop_assert_eq!(effects.changed, machine.state != before.state);
            if matches!(effects.response, Response::Refused { .. }) {
                prop_assert!(effects.rows.is_empty() && !effects.changed);
            }
            check_invariants(&machine.state)?;
            for (key, row) in &effects.rows {
                match (row, &command) {
                    (Some(row), _) => prop_assert_eq!(row.revision, machine.revision),
                    (None, Command::RemoveRefs { refs }) => {
                        let revision = before.rows[key].revision;
                        prop_assert!(refs.contains(&(key.clone(), revision)));
                    }
                    (None, _) => prop_assert!(false, "{:?} removed a ref", command),
                }
            }
        }
    }
}

fn check_invariants(state: &ClusterState) -> Result<(), TestCaseError> {
    let settings = &state.settings;
    prop_assert!(1 <= settings.write_quorum && settings.write_quorum <= settings.replicas);
    let names: BTreeSet<_> = state.members.values().map(|row| &row.name).collect();
    prop_assert_eq!(names.len(), state.members.len(), "two members share a name");
    // A removal may begin an epoch where all else waits.
    prop_assert!(state.epochs.len() <= LIVE_EPOCHS + state.removed.len());
    prop_assert!(
        state
            .removed
            .iter()
            .all(|id| !state.members.contains_key(id))
    );
    for pair in state.epochs.windows(2) {
        prop_assert_eq!(pair[0].epoch.0 + 1, pair[1].epoch.0);
    }
    let active: BTreeSet<_> = state
        .members
        .iter()
        .filter(|(_, row)| row.status == MemberStatus::Active)
        .map(|(id, _)| *id)
        .collect();
    match state.epochs.last() {
        Some(plan) => {
            prop_assert_eq!(plan.replicas, settings.replicas);
            let is_member = |id: &&NodeId| state.members.contains_key(id);
            let owners: BTreeSet<_> = plan.nodes.keys().filter(is_member).copied().collect();
            prop_assert_eq!(owners, active);
            prop_assert!(plan.handed_off.iter().all(|id| plan.nodes.contains_key(id)));
        }
        None => prop_assert!(active.is_empty()),
    }
    Ok(())
}
