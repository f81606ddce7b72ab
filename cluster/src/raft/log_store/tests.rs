use std::{path::Path, sync::Arc};

use openraft::{
    EntryPayload, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
    type_config::TypeConfigExt,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{LogConfig, LogStore};
use crate::{
    NodeId,
    journal::{
        JournalConfig, JournalError,
        disk::Disk,
        sim_disk::{Keep, SimDisk},
    },
    raft::types::{CommittedLeaderId, Entry, LogId, Proposal, TypeConfig, Vote},
    state::{Command, command::RequestId},
};

mod suite;

const DIR: &str = "log";

fn open(disk: &SimDisk, segment_bytes: u64) -> Result<LogStore, JournalError> {
    let config = LogConfig {
        journal: JournalConfig {
            dir: DIR.into(),
            segment_bytes,
        },
        cache_bytes: 300,
    };
    LogStore::open(Arc::new(disk.clone()), config)
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

fn entry(log_id: LogId, request: u128, nodes: u64) -> Entry {
    Entry {
        log_id,
        payload: EntryPayload::Normal(Proposal {
            request: RequestId(request),
            command: Command::Activate {
                nodes: (0..nodes).map(NodeId).collect(),
            },
        }),
    }
}

/// What a log holds.
#[derive(Clone, PartialEq, Debug, Default)]
struct Model {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
}

impl Model {
    async fn of(store: &LogStore) -> Self {
        let mut store = store.clone();
        Self {
            vote: store.read_vote().await.unwrap(),
            purged: store.get_log_state().await.unwrap().last_purged_log_id,
            entries: store.try_get_log_entries(..).await.unwrap(),
        }
    }

    fn last(&self) -> Option<LogId> {
        self.entries
            .last()
            .map(|entry| entry.log_id)
            .or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }
}

/// A change of a log.
#[derive(Clone, Debug)]
enum Change {
    Append(Vec<Entry>),
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
    Commit(LogId),
}

/// A random log, what became of it, and since when each state is sure.
struct History {
    rng: StdRng,
    requests: u128,
    /// The state after each record, the first being that of an empty log.
    states: Vec<Model>,
    /// (operations of the disk, index of a state): sure after so many operations.
    sure: Vec<(usize, usize)>,
    committed: Vec<Option<LogId>>,
}

impl History {
    fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            requests: 0,
            states: vec![Model::default()],
            sure: Vec::new(),
            committed: vec![None],
        }
    }

    fn now(&self) -> &Model {
        self.states.last().unwrap()
    }

    fn next_change(&mut self) -> Change {
        let now = self.now().clone();
        let term = now.vote.map_or(1, |vote| vote.leader_id.term);
        let kept = now.entries.len();
        match self.rng.random_range(0..10) {
            0 => Change::Vote(Vote::new(term + 1, self.rng.random_range(1..4))),
            1 => Change::Vote(Vote::new_committed(term, 1)),
            2 if kept > 0 => {
                let last = self.rng.random_range(0..=kept);
                let before = last.checked_sub(1).map(|at| now.entries[at].log_id);
                Change::Truncate(before.or(now.purged))
            }
            3 | 4 if kept > 2 => {
                let upto = self.rng.random_range(0..kept);
                Change::Purge(now.entries[upto].log_id)
            }
            // A snapshot from the leader reaches past the log.
            5 if self.rng.random_bool(0.1) => Change::Purge(log_id(term, now.next() + 3)),
            6 if kept > 0 => {
                let upto = self.rng.random_range(0..kept);
                Change::Commit(now.entries[upto].log_id)
            }
            _ => {
                let count = self.rng.random_range(1..5);
                let entries = (now.next()..now.next() + count).map(|index| {
                    self.requests += 1;
                    let nodes = self.rng.random_range(0..300);
                    entry(log_id(term, index), self.requests, nodes)
                });
                Change::Append(entries.collect())
            }
        }
    }

    /// Adds the states that a change leads through, one a record.
    fn expect(&mut self, change: &Change) {
        let mut next = self.now().clone();
        match change {
            Change::Append(entries) => {
                for entry in entries {
                    next.entries.push(entry.clone());
                    self.states.push(next.clone());
                }
                return;
            }
            Change::Vote(vote) => next.vote = Some(*vote),
            Change::Truncate(last) => {
                let last = last.map_or(0, |last| last.index + 1);
                next.entries.retain(|entry| entry.log_id.index < last);
            }
            Change::Purge(upto) => {
                next.entries.retain(|entry| entry.log_id.index > upto.index);
                next.purged = Some(*upto);
            }
            Change::Commit(committed) => {
                self.committed.push(Some(*committed));
                return;
            }
        }
        self.states.push(next);
    }

    /// Makes changes until one fails; tells whether one did.
    async fn run(&mut self, store: &mut LogStore, disk: &SimDisk, changes: usize) -> bool {
        let mut waiting = Vec::new();
        for _ in 0..changes {
            let change = self.next_change();
            self.expect(&change);
            let result = match &change {
                Change::Append(entries) => {
                    let (told, flushed) = TypeConfig::oneshot();
                    waiting.push((flushed, self.states.len() - 1));
                    let callback = IOFlushed::signal(told);
                    store.append(entries.clone(), callback).await
                }
                Change::Vote(vote) => store.save_vote(vote).await,
                Change::Truncate(last) => store.truncate_after(*last).await,
                Change::Purge(upto) => store.purge(*upto).await,
                Change::Commit(committed) => store.save_committed(Some(*committed)).await,
            };
            let waits = matches!(change, Change::Append(_) | Change::Commit(_));
            if result.is_ok() && !waits {
                self.sure.push((disk.operations(), self.states.len() - 1));
            }
            if result.is_err() || self.rng.random_bool(0.4) {
                for (flushed, state) in waiting.drain(..) {
                    if !matches!(flushed.await, Ok(Ok(()))) {
                        return true;
                    }
                    self.sure.push((disk.operations(), state));
                }
            }
            if result.is_err() {
                return true;
            }
        }
        false
    }

    /// Whether a log read after a cut is one that this history allows.
    async fn check(&self, store: &LogStore, cut_at: usize, hint: &str) {
        let found = Model::of(store).await;
        let sure = self
            .sure
            .iter()
            .filter(|(operations, _)| *operations <= cut_at);
        let sure = sure.map(|(_, state)| *state).max().unwrap_or(0);
        assert!(
            self.states[sure..].contains(&found),
            "{hint}: sure is {:?}\nfound is {found:?}",
            self.states[sure]
        );
        let committed = store.clone().read_committed().await.unwrap();
        assert!(
            self.committed.contains(&committed),
            "{hint}: invented {committed:?}"
        );
    }
}

#[tokio::test]
async fn a_power_cut_anywhere_loses_nothing_that_was_told_safe() {
    let seed: u64 = rand::random();
    for round in 0..5 {
        let mut history = History::new(seed.wrapping_add(round));
        let segment_bytes = history.rng.random_range(500..3000);
        let disk = SimDisk::new();
        let mut store = open(&disk, segment_bytes).unwrap();
        assert!(!history.run(&mut store, &disk, 60).await);
        drop(store);
        for at in 0..=disk.operations() {
            let sampled = [history.rng.random(), history.rng.random()].map(Keep::Sampled);
            for keep in [Keep::Nothing, Keep::Everything].into_iter().chain(sampled) {
                let hint = format!("seed {seed} round {round} cut at {at} {keep:?}");
                let cut = disk.after_power_cut(at, keep);
                let store =
                    open(&cut, segment_bytes).unwrap_or_else(|error| panic!("{hint}: {error}"));
                history.check(&store, at, &hint).await;
            }
        }
    }
}

#[tokio::test]
async fn an_io_error_anywhere_stops_the_log_and_loses_nothing() {
    let seed: u64 = rand::random();
    let faults: [fn(&SimDisk, u64); 2] = [SimDisk::fail_write, SimDisk::fail_sync];
    for (kind, fault) in faults.into_iter().enumerate() {
        for nth in 1.. {
            let mut history = History::new(seed);
            let disk = SimDisk::new();
            fault(&disk, nth);
            let mut failed = true;
            if let Ok(mut store) = open(&disk, 900) {
                failed = history.run(&mut store, &disk, 40).await;
                if failed {
                    let before = disk.operations();
                    store.save_vote(&Vote::new(99, 9)).await.unwrap_err();
                    assert_eq!(
                        disk.operations(),
                        before,
                        "seed {seed}: written after an error"
                    );
                }
            }
            let sampled = (0..4).map(|_| Keep::Sampled(history.rng.random()));
            let keeps = [Keep::Nothing, Keep::Everything].into_iter();
            for keep in keeps.chain(sampled.collect::<Vec<_>>()) {
                let hint = format!("seed {seed} fault {kind} at {nth} {keep:?}");
                let at = disk.operations();
                let cut = disk.after_power_cut(at, keep);
                let store = open(&cut, 900).unwrap_or_else(|error| panic!("{hint}: {error}"));
                history.check(&store, at, &hint).await;
            }
            if !failed {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_log_is_what_a_vector_would_be() {
    let seed: u64 = rand::random();
    for round in 0..20 {
        let mut history = History::new(seed.wrapping_add(round));
        let disk = SimDisk::new();
        let mut store = open(&disk, 2000).unwrap();
        for step in 0..40 {
            let hint = format!("seed {seed} round {round} step {step}");
            assert!(!history.run(&mut store, &disk, 1).await, "{hint}");
            if history.rng.random_bool(0.1) {
                drop(store);
                store = open(&disk, 2000).unwrap();
                let committed = store.read_committed().await.unwrap();
                assert_eq!(committed, *history.committed.last().unwrap(), "{hint}");
            }
            let now = history.now().clone();
            assert_eq!(Model::of(&store).await, now, "{hint}");
            let state = store.get_log_state().await.unwrap();
            assert_eq!(state.last_log_id, now.last(), "{hint}");
            let start = history.rng.random_range(0..=now.next());
            let end = history.rng.random_range(start..=now.next() + 2);
            let range = now.entries.iter();
            let range: Vec<Entry> = range
                .filter(|entry| (start..end).contains(&entry.log_id.index))
                .cloned()
                .collect();
            assert_eq!(
                store.try_get_log_entries(start..end).await.unwrap(),
                range,
                "{hint}"
            );
            let limited = store.limited_get_log_entries(start, end).await.unwrap();
            assert!(range.starts_with(&limited), "{hint}");
            assert_eq!(limited.is_empty(), range.is_empty(), "{hint}");
        }
    }
}

async fn append(store: &mut LogStore, entries: Vec<Entry>) -> Result<(), std::io::Error> {
    let (told, flushed) = TypeConfig::oneshot();
    store.append(entries, IOFlushed::signal(told)).await?;
    flushed.await.unwrap()
}

#[tokio::test]
async fn old_segments_go_and_the_marks_in_them_stay() {
    let disk = SimDisk::new();
    let mut store = open(&disk, 1000).unwrap();
    store.save_vote(&Vote::new_committed(1, 7)).await.unwrap();
    for index in 0..50 {
        append(&mut store, vec![entry(log_id(1, index), 1, 100)])
            .await
            .unwrap();
    }
    let segments = || disk.list(Path::new(DIR)).unwrap().len();
    let before = segments();
    assert!(before > 5);
    store.save_committed(Some(log_id(1, 45))).await.unwrap();
    store.purge(log_id(1, 44)).await.unwrap();
    // Also waits for the removal.
    append(&mut store, vec![entry(log_id(1, 50), 1, 1)])
        .await
        .unwrap();
    assert!(segments() < before - 3);
    let cut = disk.after_power_cut(disk.operations(), Keep::Nothing);
    let mut store = open(&cut, 1000).unwrap();
    let found = Model::of(&store).await;
    assert_eq!(found.vote, Some(Vote::new_committed(1, 7)));
    assert_eq!(found.purged, Some(log_id(1, 44)));
    assert_eq!(found.entries.len(), 6);
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(1, 45)));
}

#[tokio::test]
async fn a_hole_is_refused() {
    let disk = SimDisk::new();
    let mut store = open(&disk, 1000).unwrap();
    append(&mut store, vec![entry(log_id(1, 0), 1, 1)])
        .await
        .unwrap();
    for index in [0, 2] {
        let error = append(&mut store, vec![entry(log_id(1, index), 1, 1)]).await;
        assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
    append(&mut store, vec![entry(log_id(1, 1), 1, 1)])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_damage_is_refused() {
    let disk = SimDisk::new();
    let mut store = open(&disk, 4000).unwrap();
    for index in 0..3 {
        append(&mut store, vec![entry(log_id(1, index), 1, 10)])
            .await
            .unwrap();
    }
    drop(store);
    let disk = disk.after_power_cut(usize::MAX, Keep::Nothing);
    let file = Path::new(DIR).join(&disk.list(Path::new(DIR)).unwrap()[0].name);
    let entry_bytes = 40;
    let record = |n: u64| 40 + n * entry_bytes + 20;

    let torn = disk.after_power_cut(0, Keep::Nothing);
    torn.flip_bits(&file, record(2), 1).unwrap();
    let store = open(&torn, 4000).unwrap();
    assert_eq!(Model::of(&store).await.entries.len(), 2);

    disk.flip_bits(&file, record(1), 1).unwrap();
    let error = open(&disk, 4000).err().unwrap();
    let JournalError::Damaged { offset, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*offset, 40 + entry_bytes);
    assert!(
        error.to_string().contains("must not go on with this data"),
        "{error}"
    );
}
