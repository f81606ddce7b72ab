//! What is applied, when it is applied again, and what snapshots hold.

use std::collections::BTreeMap;

use futures::FutureExt;
use openraft::{EntryPayload, RaftSnapshotBuilder};
use tempfile::TempDir;

use super::*;
use crate::{
    ClusterId,
    journal::disk::RealDisk,
    raft::{
        rows::tests::{key, value},
        types::{CommittedLeaderId, Entry, Proposal},
    },
    state::{Command, RequestId, Settings},
};

/// A node's state machine with its folders.
struct Node {
    dir: TempDir,
    machine: Option<StateMachine>,
    log: Arc<Mutex<Vec<Entry>>>,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("raft")).unwrap();
        let mut node = Self {
            dir,
            machine: None,
            log: Arc::default(),
        };
        node.open();
        node
    }

    fn open(&mut self) {
        // sled's lock goes with the last handle.
        self.machine = None;
        let disk = Arc::new(RealDisk::new(self.dir.path().join("raft")));
        let log = Arc::clone(&self.log);
        // A few at a time, so that more than one batch has to be read.
        let entries: Entries = Arc::new(move |range| {
            let log = log.lock().unwrap();
            let entries = log.iter().filter(|e| range.contains(&e.log_id.index));
            let entries = entries.take(3).cloned().collect();
            futures::future::ready(Ok(entries)).boxed()
        });
        let dir = self.dir.path().join("state");
        let last = self.log.lock().unwrap().last().map(|e| e.log_id.index);
        let past = Past {
            entries,
            last: last.unwrap_or(0),
        };
        let machine = StateMachine::open(&dir, disk, past).unwrap();
        self.machine = Some(machine);
    }

    fn machine(&mut self) -> &mut StateMachine {
        self.machine.as_mut().unwrap()
    }

    /// Applies one command; what the entry answers is in the rows.
    async fn apply(&mut self, index: u64, request: u128, command: Command) {
        let entry = Entry {
            log_id: log_id(index),
            payload: EntryPayload::Normal(Proposal {
                request: RequestId(request),
                command,
            }),
        };
        self.log.lock().unwrap().push(entry.clone());
        let entries = futures::stream::iter([Ok((entry, None))]);
        self.machine().apply(entries).await.unwrap();
    }

    async fn found(&mut self) {
        let command = Command::Found {
            cluster: ClusterId(1),
            settings: Settings::default(),
        };
        self.apply(1, 1, command).await;
    }

    async fn set(&mut self, index: u64, number: u64) {
        self.apply(index, index.into(), set(number, index)).await;
    }

    fn rows(&mut self) -> BTreeMap<RefKey, u64> {
        let rows = self.machine().shared.rows().unwrap().refs();
        rows.map(|row| row.map(|(key, row)| (key, row.revision)))
            .collect::<io::Result<_>>()
            .unwrap()
    }

    async fn snapshot(&mut self) -> Snapshot {
        let mut builder = self.machine().get_snapshot_builder().await;
        builder.build_snapshot().await.unwrap()
    }

    /// Takes over a snapshot of another node, as if it had come by the network.
    async fn install(&mut self, from: &Node, snapshot: &Snapshot) -> io::Result<()> {
        let bytes = std::fs::read(from.dir.path().join("raft").join(&snapshot.snapshot.path));
        let mut writer = self.machine().snapshots().temporary()?;
        writer.append(&bytes?)?;
        let file = writer.close()?;
        self.machine().install_snapshot(&snapshot.meta, file).await
    }
}

fn log_id(index: u64) -> LogId {
    LogId {
        leader_id: CommittedLeaderId { term: 1 },
        index,
    }
}

fn set(number: u64, content: u64) -> Command {
    Command::SetRefs {
        keys: vec![key(number)],
        value: value(content),
    }
}

fn revisions(expected: &[(u64, u64)]) -> BTreeMap<RefKey, u64> {
    expected
        .iter()
        .map(|(number, revision)| (key(*number), *revision))
        .collect()
}

#[tokio::test]
async fn a_proposal_that_is_sent_again_is_applied_once() {
    let (mut node, mut other) = (Node::new(), Node::new());
    node.found().await;
    node.apply(2, 77, set(1, 1)).await;
    node.apply(3, 78, set(1, 2)).await;
    node.apply(4, 77, set(1, 1)).await;
    assert_eq!(
        node.rows(),
        revisions(&[(1, 3)]),
        "the newer push was undone"
    );
    // Also after a restart, and on a node that came by a snapshot.
    node.open();
    node.apply(5, 77, set(1, 1)).await;
    assert_eq!(node.rows(), revisions(&[(1, 3)]), "forgotten by a restart");
    let snapshot = node.snapshot().await;
    other.install(&node, &snapshot).await.unwrap();
    other.apply(6, 78, set(1, 2)).await;
    assert_eq!(
        other.rows(),
        revisions(&[(1, 3)]),
        "forgotten by a snapshot"
    );
}

#[tokio::test]
async fn a_snapshot_holds_what_was_applied_when_it_began() {
    let (mut node, mut other) = (Node::new(), Node::new());
    node.found().await;
    node.set(2, 1).await;
    node.set(3, 2).await;
    let mut builder = node.machine().get_snapshot_builder().await;
    // One changed, one added, one removed, all before the builder looks.
    node.set(4, 1).await;
    node.set(5, 3).await;
    let remove = Command::RemoveRefs {
        refs: vec![(key(2), 3)],
    };
    node.apply(6, 6, remove).await;
    let snapshot = builder.build_snapshot().await.unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(log_id(3)));
    other.install(&node, &snapshot).await.unwrap();
    assert_eq!(other.rows(), revisions(&[(1, 2), (2, 3)]));
    assert_eq!(*other.machine().applied().borrow(), 3);
    assert_eq!(node.rows(), revisions(&[(1, 4), (3, 5)]));
}

#[tokio::test]
async fn a_snapshot_under_way_is_given_up_for_one_that_is_installed() {
    let (mut node, mut leader) = (Node::new(), Node::new());
    for node in [&mut node, &mut leader] {
        node.found().await;
        node.set(2, 1).await;
    }
    let mut builder = node.machine().get_snapshot_builder().await;
    leader.set(3, 2).await;
    let newer = leader.snapshot().await;
    node.install(&leader, &newer).await.unwrap();
    // It would hold row 2 under a position before it. An error would end Raft
    // here: it begins anew.
    let again = builder.build_snapshot().await.unwrap();
    assert_eq!(again.meta, newer.meta);
    let mut other = Node::new();
    other.install(&node, &again).await.unwrap();
    assert_eq!(other.rows(), revisions(&[(1, 2), (2, 3)]));
    let newest = node
        .machine()
        .get_current_snapshot()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(newest.meta, newer.meta);
}

#[tokio::test]
async fn a_snapshot_that_is_damaged_on_the_way_changes_nothing() {
    let (mut node, mut leader) = (Node::new(), Node::new());
    for node in [&mut node, &mut leader] {
        node.found().await;
        node.set(2, 1).await;
    }
    leader.set(3, 2).await;
    let snapshot = leader.snapshot().await;
    let path = leader.dir.path().join("raft").join(&snapshot.snapshot.path);
    let mut bytes = std::fs::read(&path).unwrap();
    for cut in [bytes.len() - 8, bytes.len() / 2, 20] {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        node.install(&leader, &snapshot).await.unwrap_err();
    }
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    node.install(&leader, &snapshot).await.unwrap_err();
    assert_eq!(node.rows(), revisions(&[(1, 2)]));
    node.open();
    assert_eq!(node.rows(), revisions(&[(1, 2)]));
}

#[tokio::test]
async fn rows_lost_to_a_power_cut_come_back_from_the_snapshot() {
    let mut node = Node::new();
    node.found().await;
    node.set(2, 1).await;
    node.snapshot().await;
    node.set(3, 2).await;
    std::fs::write(node.dir.path().join("state/mark"), "open another-boot").unwrap();
    node.open();
    // The snapshot gives what it has; openraft applies the rest from the log.
    assert_eq!(node.rows(), revisions(&[(1, 2)]));
    let (last, _) = node.machine().applied_state().await.unwrap();
    assert_eq!(last, Some(log_id(2)));
    node.set(3, 2).await;
    assert_eq!(node.rows(), revisions(&[(1, 2), (2, 3)]));
}

/// A follower that is killed may have applied what it had not written yet.
/// Found by the simulation: such a node could not start again.
#[tokio::test]
async fn rows_ahead_of_the_log_are_made_anew() {
    let mut node = Node::new();
    node.found().await;
    node.set(2, 1).await;
    node.snapshot().await;
    node.set(3, 2).await;
    node.set(4, 3).await;
    // The last one was not written; what is in the log is applied by openraft.
    let lost = node.log.lock().unwrap().pop();
    node.open();
    assert_eq!(node.rows(), revisions(&[(1, 2)]));
    let (last, _) = node.machine().applied_state().await.unwrap();
    assert_eq!(last, Some(log_id(2)));
    node.log.lock().unwrap().extend(lost);
    node.set(3, 2).await;
    node.open();
    assert_eq!(node.rows(), revisions(&[(1, 2), (2, 3)]));
    // What is in a snapshot needs not be in the log.
    node.snapshot().await;
    node.log.lock().unwrap().clear();
    node.open();
    assert_eq!(node.rows(), revisions(&[(1, 2), (2, 3)]));
}

/// P10, P12: what a full disk does to the rows lasts no longer than it. Losing
/// them is what `apply` does when they fail.
#[tokio::test]
async fn lost_rows_are_rebuilt_in_the_running_process() {
    for snapshot_at in [None, Some(2), Some(5), Some(9)] {
        let mut node = Node::new();
        node.found().await;
        let mut expected = Vec::new();
        for index in 2..=9 {
            node.set(index, index).await;
            expected.push((index, index));
            if snapshot_at == Some(index) {
                node.snapshot().await;
            }
        }
        let builder = node.machine().get_snapshot_builder().await;
        let lose = |machine: &StateMachine| {
            let mut applied = machine.shared.applied_state();
            machine.shared.give_up_rows(&mut applied);
        };
        lose(node.machine());
        // No answer rather than an old one, or none where there is a ref.
        let error = node.machine().get_ref(&key(2)).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        // The next batch finds that they are gone. A proposal that is sent again
        // is known still.
        node.apply(10, 9, set(3, 3)).await;
        assert_eq!(node.rows(), revisions(&expected), "{snapshot_at:?}");
        assert_eq!(*node.machine().applied().borrow(), 10);
        assert_eq!(node.machine().state().borrow().cluster, Some(ClusterId(1)));
        // Entries that were under way are answered as if nothing had happened.
        node.set(11, 11).await;
        node.set(12, 11).await;
        lose(node.machine());
        let answers = node.machine().rebuild(11, 12).await.unwrap();
        let done = |revision| Response::Done { revision };
        assert_eq!(answers, [done(11), done(12)]);
        // The snapshot that was begun on the lost rows is one of the new ones.
        let mut builder = builder;
        let snapshot = builder.build_snapshot().await.unwrap();
        assert_eq!(snapshot.meta.last_log_id, Some(log_id(12)));
        expected.push((11, 12));
        let mut other = Node::new();
        other.install(&node, &snapshot).await.unwrap();
        assert_eq!(other.rows(), revisions(&expected));
        // And a start believes what was rebuilt.
        node.open();
        assert_eq!(node.rows(), revisions(&expected));
    }
}

#[tokio::test]
async fn rows_are_not_rebuilt_around_a_hole() {
    let mut node = Node::new();
    node.found().await;
    node.set(2, 1).await;
    node.set(3, 2).await;
    node.log.lock().unwrap().remove(1);
    let error = node.machine().rebuild(4, 3).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

/// A node that needs it would refuse it, for as long as no other is made.
#[tokio::test]
async fn a_snapshot_that_is_damaged_at_rest_is_made_anew_before_it_is_sent() {
    let mut node = Node::new();
    node.found().await;
    for index in 2..100 {
        node.set(index, index).await;
    }
    let made = node.snapshot().await;
    let path = node.dir.path().join("raft").join(&made.snapshot.path);
    let whole = std::fs::read(&path).unwrap();
    // A node that has nothing else says where the damage is.
    let mut damaged = whole.clone();
    let last = damaged.len() - 9;
    damaged[last] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let mut rows = node.machine().snapshots().read(&made.snapshot).unwrap().1;
    let error = rows.find_map(Result::err).unwrap().to_string();
    assert!(error.contains(".snapshot at offset "), "{error}");
    // In the head, among the rows, at the end.
    for place in [20, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[place] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let sent = node
            .machine()
            .get_current_snapshot()
            .await
            .unwrap()
            .unwrap();
        let mut other = Node::new();
        other.install(&node, &sent).await.unwrap();
        assert_eq!(other.rows(), node.rows(), "damage at {place}");
    }
}
