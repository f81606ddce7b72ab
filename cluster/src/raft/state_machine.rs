//! The state machine: applies committed entries to the rows.
//!
//! One batch of entries is one transaction of the rows, with the position in
//! it. Entries are answered after the transaction.
//!
//! A snapshot is built while further entries are applied. The builder walks the
//! rows as they are; whoever changes a row meanwhile first notes what it was
//! ([`Capture`]), and the builder prefers the notes. The tempting alternative,
//! a copy of all refs in memory, costs as much memory as there are refs.
//!
//! sled is lost to a process once one of its writes failed, and it also writes
//! on threads of its own, whenever it likes. So rows that fail are rebuilt where
//! they stand, from the newest snapshot and the journal, as a start does with
//! damaged ones, and as soon as there is room. Until then refs cannot be read
//! here, and what is agreed waits; Raft votes and appends meanwhile. The tempting
//! alternative, to keep room free whenever sled writes, cannot be had: others
//! fill the volume between the look and the write.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use futures::{Stream, StreamExt};
use openraft::{
    RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine, Snapshot as RaftSnapshot},
};
use tokio::sync::watch;

use super::{
    applied::{Applied, Entries, Past},
    builder::Builder,
    rows::{Batch, Position, RowStore, Rows},
    snapshot::{Head, Snapshots},
    types::{Entry, LogId, Snapshot, SnapshotFile, SnapshotMeta, StoredMembership, TypeConfig},
};
use crate::{
    Error,
    journal::disk::{Disk, is_shortage},
    outside,
    planted::{self, Bug},
    state::{ClusterState, Ref, RefKey, Response},
};

/// Entries applied in one transaction. More would delay answers more than it
/// saves.
const BATCH_ENTRIES: usize = 512;

/// Room that the volume has before rows are written: a transaction and what the
/// rows write on their own, several times over.
const APPLY_ROOM: u64 = 4 << 20;
/// Between looks for that room.
const ROOM_PAUSE: Duration = Duration::from_millis(200);
/// Between attempts to rebuild the rows: each may read all refs.
const REBUILD_PAUSE: Duration = Duration::from_secs(1);

/// The applied state. Clones share it.
#[derive(Clone)]
pub(super) struct StateMachine {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    opening: Opening,
    pub(super) snapshots: Snapshots,
    entries: Entries,
    /// For readers; none while the rows are being rebuilt.
    /// A std lock: held to clone or store it.
    rows: RwLock<Option<Arc<dyn RowStore>>>,
    /// What follows from the entries so far; none while it is being rebuilt. A
    /// std mutex: held while a batch is applied or a snapshot taken over, by a
    /// thread that may block. Taken before `capture`.
    applied_state: Mutex<Option<Applied>>,
    /// A std mutex: held for short synchronous sections.
    capture: Mutex<Option<Capture>>,
    state: watch::Sender<Arc<ClusterState>>,
    /// Index of the last entry applied.
    applied: watch::Sender<u64>,
}

/// Opens the rows; `true` asks for empty ones in place of those that are there.
pub(super) type Opening = Box<dyn Fn(bool) -> io::Result<Arc<dyn RowStore>> + Send + Sync>;

/// Rows as they were when a snapshot began, for those that changed since.
#[derive(Default)]
pub(super) struct Capture {
    /// Which builder it belongs to: one that was given up must neither take
    /// nor clear the notes of its successor.
    pub(super) builder: u64,
    pub(super) rows: BTreeMap<RefKey, Option<Ref>>,
}

/// A snapshot that has begun: its head, the rows to walk and the name of its
/// notes, all as of one position.
pub(super) struct Begun {
    pub(super) id: u64,
    pub(super) head: Head,
    pub(super) rows: Arc<dyn RowStore>,
}

impl StateMachine {
    /// Opens the applied state in `dir`. Rows that are damaged, or older than
    /// the newest snapshot, are restored from it; the rest is read from the
    /// log, by Raft now and by the rows themselves when they are lost.
    ///
    /// Rows that are ahead of the log on this disk are given up. A follower
    /// applies what a majority has before it has written that itself; Raft
    /// would take the log for one that was cut off at the rows, with no
    /// snapshot of what is missing.
    pub(super) fn open(dir: &Path, disk: Arc<dyn Disk>, past: Past) -> io::Result<Self> {
        let dir = dir.to_owned();
        let opening = move |anew| {
            if anew {
                Rows::remove(&dir)?;
            }
            let (rows, _wiped) = Rows::open(&dir)?;
            Ok(Arc::new(rows) as Arc<dyn RowStore>)
        };
        Self::over(Box::new(opening), disk, past)
    }

    /// The same over rows that are kept elsewhere.
    pub(super) fn over(opening: Opening, disk: Arc<dyn Disk>, past: Past) -> io::Result<Self> {
        let snapshots = Snapshots::open(disk)?;
        let mut applied = Applied::open(opening(false)?, &snapshots)?;
        let index = applied.position.index();
        let is_in_snapshot = || -> io::Result<bool> {
            let newest = snapshots.newest()?;
            Ok(newest.is_some_and(|(_, head)| index <= head.position.index()))
        };
        if index > past.last && !is_in_snapshot()? {
            tracing::warn!(
                applied = index,
                log = past.last,
                "applied state is ahead of the log on this disk; making it anew"
            );
            // The old ones hold a lock.
            drop(applied);
            applied = Applied::open(opening(true)?, &snapshots)?;
        }
        let shared = Shared {
            opening,
            snapshots,
            entries: past.entries,
            rows: RwLock::new(Some(Arc::clone(&applied.rows))),
            capture: Mutex::new(None),
            state: watch::Sender::new(Arc::clone(&applied.state)),
            applied: watch::Sender::new(applied.position.index()),
            applied_state: Mutex::new(Some(applied)),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    pub(super) fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.shared.state.subscribe()
    }

    /// Index of the last entry applied, and its changes.
    pub(super) fn applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    pub(super) fn get_ref(&self, key: &RefKey) -> Result<Option<Ref>, Error> {
        match self.shared.rows() {
            Some(rows) => rows.get(key),
            None => Err(Error::io("cannot read a ref", being_rebuilt())),
        }
    }

    pub(super) fn snapshots(&self) -> &Snapshots {
        &self.shared.snapshots
    }

    /// Makes the rows durable, so that the next start may believe them. Only
    /// after Raft has stopped.
    pub(super) fn close(&self) -> io::Result<()> {
        match self.shared.rows() {
            Some(rows) => rows.close(),
            // The next start finds none and rebuilds them.
            None => Ok(()),
        }
    }

    /// Waits until the volume has room for a transaction, which spares the rows
    /// most failures for want of it. Raft votes and appends meanwhile, from its
    /// reserve, and the entries are applied when there is room.
    async fn wait_for_room(&self) {
        let disk = self.shared.snapshots.disk();
        let mut told = false;
        loop {
            // Where it cannot be told, the write itself will tell.
            let free = disk.free_bytes().unwrap_or(u64::MAX);
            if free >= APPLY_ROOM || disk.give_up_reserve() {
                return;
            }
            if !told {
                tracing::warn!(
                    free,
                    "the disk is full; what is agreed is applied when there is room"
                );
                told = true;
            }
            tokio::time::sleep(ROOM_PAUSE).await;
        }
    }

    /// Applies entries in one transaction; one answer for each.
    fn apply_batch(&self, entries: Vec<Entry>) -> io::Result<Vec<Response>> {
        let mut slot = self.shared.applied_state();
        let applied = slot.as_mut().ok_or_else(being_rebuilt)?;
        let rows = Arc::clone(&applied.rows);
        let noting = |batch: &Batch| match planted::is(Bug::SnapshotCapturesLater) {
            true => Ok(()),
            false => self.shared.note_old_rows(&*rows, batch),
        };
        let answers = applied.apply(entries, noting);
        match &answers {
            Ok(_) => self.shared.publish(applied),
            Err(_) => self.shared.give_up_rows(&mut slot),
        }
        answers
    }

    /// Makes the rows anew, from the newest snapshot and the journal up to the
    /// entry `last`; tries again for as long as there is no room for it. The
    /// answers of the entries from `first` on.
    async fn rebuild(&self, first: u64, last: u64) -> io::Result<Vec<Response>> {
        loop {
            self.wait_for_room().await;
            match self.try_rebuild(first, last).await {
                Err(error) if is_shortage(&error) => {
                    tracing::warn!(%error, "applied state cannot be rebuilt yet");
                    tokio::time::sleep(REBUILD_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_rebuild(&self, first: u64, last: u64) -> io::Result<Vec<Response>> {
        let shared = Arc::clone(&self.shared);
        // Who still reads the rows that are lost reads on in files that have no
        // name any more.
        let restoring = move || Applied::open((shared.opening)(true)?, &shared.snapshots);
        let restored = outside::blocking(restoring).await;
        let mut applied = restored.map_err(io::Error::other)??;
        let mut answers = Vec::new();
        while applied.position.index() < last {
            let next = applied.position.index() + 1;
            let mut entries = (self.shared.entries)(next..last + 1).await?;
            let in_order = entries.iter().zip(next..);
            let in_order = in_order.take_while(|(entry, index)| entry.log_id.index == *index);
            let count = in_order.take(BATCH_ENTRIES).count();
            if count == 0 {
                let why = format!("entry {next} is in no snapshot and not in the journal");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            entries.truncate(count);
            let known = entries.iter().filter(|entry| entry.log_id.index < first);
            let known = known.count();
            answers.extend(applied.apply(entries, |_| Ok(()))?.into_iter().skip(known));
        }
        tracing::info!(applied = last, "applied state is rebuilt");
        self.shared.set_rows(Some(Arc::clone(&applied.rows)));
        self.shared.publish(&applied);
        *self.shared.applied_state() = Some(applied);
        Ok(answers)
    }
}

impl Shared {
    fn rows(&self) -> Option<Arc<dyn RowStore>> {
        self.rows
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_rows(&self, rows: Option<Arc<dyn RowStore>>) {
        *self.rows.write().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    fn applied_state(&self) -> MutexGuard<'_, Option<Applied>> {
        // Changed after the last step that can fail.
        self.applied_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn capture(&self) -> MutexGuard<'_, Option<Capture>> {
        self.capture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells who waits.
    fn publish(&self, applied: &Applied) {
        // State first: who waits for an index finds the state of it.
        self.state.send_if_modified(|state| {
            let is_new = !Arc::ptr_eq(state, &applied.state);
            if is_new {
                *state = Arc::clone(&applied.state);
            }
            is_new
        });
        self.applied.send_replace(applied.position.index());
    }

    /// Rows that failed are read no more, and no snapshot of them is finished.
    fn give_up_rows(&self, applied: &mut Option<Applied>) {
        *applied = None;
        self.set_rows(None);
        *self.capture() = None;
    }

    /// Begins a snapshot. With `instead` one that is under way is given up for
    /// it; else there is none while another is. None either while the rows are
    /// being rebuilt.
    pub(super) fn begin(&self, instead: bool) -> Option<Begun> {
        // No entry is applied while it is held, so that all is as of one position.
        let applied = self.applied_state();
        let applied = applied.as_ref()?;
        let mut capture = self.capture();
        if capture.is_some() && !instead {
            return None;
        }
        let id = outside::random();
        *capture = Some(Capture {
            builder: id,
            ..Capture::default()
        });
        Some(Begun {
            id,
            head: applied.head(),
            rows: Arc::clone(&applied.rows),
        })
    }

    /// Before rows change: notes what they were, if a snapshot is being built.
    fn note_old_rows(&self, rows: &dyn RowStore, batch: &Batch) -> io::Result<()> {
        if let Some(capture) = &mut *self.capture() {
            for key in batch.refs.keys() {
                if !capture.rows.contains_key(key) {
                    let old = rows.get(key).map_err(io::Error::other)?;
                    capture.rows.insert(key.clone(), old);
                }
            }
        }
        Ok(())
    }

    /// Takes over a snapshot of another node. Blocks. None if the rows were lost
    /// over it: then they have to be rebuilt, from this snapshot.
    fn install(&self, file: SnapshotFile, expected: Option<LogId>) -> io::Result<Option<()>> {
        // The whole file is read before anything is given up for it.
        let head = self.snapshots.verify(&file, expected)?;
        let mut slot = self.applied_state();
        // A snapshot that is being built would mix the rows of before and
        // after under the position of before.
        *self.capture() = None;
        // Durable first: from here a restart finds it and installs it.
        let file = self.snapshots.publish(&head.position, file)?;
        let (head, mut refs) = self.snapshots.read(&file)?;
        let applied = slot.as_mut().ok_or_else(being_rebuilt)?;
        if let Err(error) = applied.replace(head, &mut refs) {
            lost(&error);
            self.give_up_rows(&mut slot);
            return Ok(None);
        }
        self.publish(applied);
        Ok(Some(()))
    }
}

fn being_rebuilt() -> io::Error {
    io::Error::other("applied state is being rebuilt")
}

fn lost(error: &io::Error) {
    tracing::warn!(
        %error,
        "applied state is lost to this process; rebuilding it from the snapshot and the journal"
    );
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.shared.applied_state();
        let Position { last, membership } =
            applied.as_ref().ok_or_else(being_rebuilt)?.position.clone();
        Ok((last, membership))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        let mut batches = entries.ready_chunks(BATCH_ENTRIES);
        while let Some(batch) = batches.next().await {
            let mut responders = Vec::with_capacity(batch.len());
            let mut applying = Vec::with_capacity(batch.len());
            for item in batch {
                let (entry, responder) = item?;
                responders.push(responder);
                applying.push(entry);
            }
            let [Some(first), Some(last)] =
                [applying.first(), applying.last()].map(|e| e.map(|entry| entry.log_id.index))
            else {
                continue;
            };
            self.wait_for_room().await;
            let answers = match self.apply_batch(applying) {
                Ok(answers) => answers,
                Err(error) => {
                    lost(&error);
                    self.rebuild(first, last).await?
                }
            };
            for (responder, answer) in responders.into_iter().zip(answers) {
                if let Some(responder) = responder {
                    responder.send(answer);
                }
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if self.shared.capture().is_some() && !force {
            return None;
        }
        Some(self.builder())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builder()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        file: SnapshotFile,
    ) -> Result<(), io::Error> {
        let shared = Arc::clone(&self.shared);
        let last = meta.last_log_id;
        let installed = outside::blocking(move || shared.install(file, last)).await;
        let applied = last.map_or(0, |last| last.index);
        if installed.map_err(io::Error::other)??.is_none() {
            self.rebuild(applied + 1, applied).await?;
        }
        tracing::info!(applied, "took over a snapshot of the leader");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let shared = Arc::clone(&self.shared);
        let newest = move || -> io::Result<_> {
            let Some((snapshot, head)) = shared.snapshots.newest()? else {
                return Ok((None, shared.snapshots.is_there_any()?));
            };
            // Asked for to be sent, and a receiver would refuse a damaged one
            // for as long as no other is made.
            let verified = shared.snapshots.verify(&snapshot, head.position.last);
            Ok((Some((snapshot, head)), verified.is_err()))
        };
        let newest = outside::blocking(newest);
        let (newest, is_damaged) = newest.await.map_err(io::Error::other)??;
        // One that is being built takes its place in a moment.
        if is_damaged && self.shared.capture().is_none() {
            tracing::warn!("the newest snapshot is damaged; making another");
            return self.builder().build_snapshot().await.map(Some);
        }
        Ok(newest.map(|(snapshot, head)| RaftSnapshot {
            meta: meta(&head.position),
            snapshot,
        }))
    }
}

impl StateMachine {
    /// A builder before it is given up.
    fn builder(&self) -> Builder {
        Builder::new(Arc::clone(&self.shared), self.shared.begin(true))
    }
}

pub(super) fn meta(position: &Position) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: position.last,
        last_membership: position.membership.clone(),
    }
}

#[cfg(test)]
mod tests;
