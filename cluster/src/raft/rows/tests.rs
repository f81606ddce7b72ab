use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::{
    Digest,
    raft::types::CommittedLeaderId,
    state::{RefKind, RefValue},
};

pub(crate) fn key(number: u64) -> RefKey {
    RefKey::new(RefKind::Blob, "", format!("uri-{number}"), vec![])
}

pub(crate) fn value(number: u64) -> RefValue {
    RefValue {
        digest: Digest::of(&number.to_be_bytes()),
        manifest: None,
        expire_at: None,
        pushed_at: 0,
    }
}

fn row(revision: u64) -> Ref {
    Ref {
        value: value(revision),
        revision,
    }
}

fn position(index: u64) -> Position {
    Position {
        last: Some(LogId {
            leader_id: CommittedLeaderId { term: 1 },
            index,
        }),
        membership: StoredMembership::default(),
    }
}

fn set(rows: &Rows, index: u64) {
    let batch = Batch {
        refs: BTreeMap::from([(key(index), Some(row(index)))]),
        ..Batch::default()
    };
    rows.write(&batch, &position(index)).unwrap();
}

fn mark(dir: &Path, mark: &str) {
    fs::write(dir.join("mark"), mark).unwrap();
}

#[test]
fn rows_are_thrown_away_unless_they_may_be_believed() {
    for (left, believed) in [
        (None, true), // open in this boot: the process was killed
        (Some("closed"), true),
        (Some("opening"), false), // damage ended the process
        (Some("open another-boot"), false),
        (Some("nonsense"), false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (rows, _) = Rows::open(dir.path()).unwrap();
        set(&rows, 7);
        rows.db.flush().unwrap();
        drop(rows);
        if let Some(left) = left {
            mark(dir.path(), left);
        }
        let (rows, wiped) = Rows::open(dir.path()).unwrap();
        assert_eq!(wiped, !believed, "{left:?}");
        let expected = if believed { 7 } else { 0 };
        assert_eq!(rows.position().unwrap().index(), expected, "{left:?}");
        assert_eq!(rows.get(&key(7)).unwrap().is_some(), believed, "{left:?}");
    }
}

#[test]
fn closed_rows_are_believed_after_the_machine_was_off() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, _) = Rows::open(dir.path()).unwrap();
    set(&rows, 7);
    rows.close().unwrap();
    assert_eq!(fs::read(dir.path().join("mark")).unwrap(), b"closed");
    drop(rows);
    let (rows, wiped) = Rows::open(dir.path()).unwrap();
    assert!(!wiped);
    assert_eq!(rows.position().unwrap().index(), 7);
    // In use again: the mark of before must not outlive it.
    let mark = fs::read_to_string(dir.path().join("mark")).unwrap();
    assert!(mark.starts_with("open "), "{mark}");
}

#[test]
fn a_reader_never_misses_a_row_that_is_there_before_and_after_a_replacement() {
    const ROWS: u64 = 200;
    let dir = tempfile::tempdir().unwrap();
    let (rows, _) = Rows::open(dir.path()).unwrap();
    (1..=ROWS).for_each(|index| set(&rows, index));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                for number in 1..=ROWS {
                    let found = rows.get(&key(number)).unwrap();
                    assert!(found.is_some(), "row {number} is missing for a moment");
                }
            }
        });
        for round in 1..=10 {
            let mut refs = (1..=ROWS).map(|number| Ok((key(number), row(round * 1_000 + number))));
            let state = ClusterState::default();
            let replaced = rows.replace(&position(round * 1_000), &state, &[], &mut refs);
            // Said before it may fail, or the reader would go on for ever.
            done.store(round == 10 || replaced.is_err(), Ordering::SeqCst);
            replaced.unwrap();
        }
    });
    let revision = rows.get(&key(3)).unwrap().unwrap().revision;
    assert_eq!(revision, 10_003);
}

#[test]
fn a_replacement_that_fails_half_way_leaves_the_old_rows() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, _) = Rows::open(dir.path()).unwrap();
    set(&rows, 7);
    let torn = [Ok((key(8), row(8))), Err(io::ErrorKind::InvalidData.into())];
    let state = ClusterState::default();
    rows.replace(&position(8), &state, &[], &mut torn.into_iter())
        .unwrap_err();
    drop(rows);
    let (rows, _) = Rows::open(dir.path()).unwrap();
    assert_eq!(rows.position().unwrap().index(), 7);
    assert!(rows.get(&key(7)).unwrap().is_some());
    // Nothing of the half is taken over by the next one.
    let whole = [Ok((key(9), row(9)))];
    rows.replace(&position(9), &state, &[], &mut whole.into_iter())
        .unwrap();
    let keys: Vec<_> = rows.refs().map(|row| row.unwrap().0).collect();
    assert_eq!(keys, [key(9)]);
}
