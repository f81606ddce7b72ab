//! The state machine: applies committed entries to the rows.
//!
//! One batch of entries is one transaction of the rows, with the position in
//! it. Entries are answered after the transaction.
//!
//! A snapshot is built while further entries are applied. The builder walks the
//! rows as they are; whoever changes a row meanwhile first notes what it was
//! ([`Capture`]), and the builder prefers the notes. The tempting alternative,
//! a copy of all refs in memory, costs as much memory as there are refs.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt};
use openraft::{
    EntryPayload,
    storage::{EntryResponder, RaftStateMachine, Snapshot as RaftSnapshot},
};
use tokio::sync::watch;

use super::{
    builder::Builder,
    recent::Recent,
    rows::{Batch, Position, RowStore, Rows},
    snapshot::{Head, Snapshots},
    types::{LogId, Payload, Snapshot, SnapshotFile, SnapshotMeta, StoredMembership, TypeConfig},
};
use crate::{
    Error,
    journal::disk::Disk,
    outside,
    planted::{self, Bug},
    state::{self, ClusterState, Ref, RefKey, RefRows, Response},
};

/// Entries applied in one transaction. More would delay answers more than it
/// saves.
const BATCH_ENTRIES: usize = 512;

/// Room that the volume has before rows are written: a transaction and what the
/// rows write on their own, several times over.
const APPLY_ROOM: u64 = 4 << 20;
/// Between looks for that room.
const ROOM_PAUSE: Duration = Duration::from_millis(200);

/// The applied state. Clones share it.
#[derive(Clone)]
pub(super) struct StateMachine {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) rows: Arc<dyn RowStore>,
    pub(super) snapshots: Snapshots,
    /// Std mutexes: held for short synchronous sections, never across an await.
    memory: Mutex<Memory>,
    capture: Mutex<Option<Capture>>,
    state: watch::Sender<Arc<ClusterState>>,
    /// Index of the last entry applied.
    applied: watch::Sender<u64>,
}

/// What is kept in memory beside the rows.
struct Memory {
    position: Position,
    recent: Recent,
}

/// Rows as they were when a snapshot began, for those that changed since.
#[derive(Default)]
pub(super) struct Capture {
    /// Which builder it belongs to: one that was given up must neither take
    /// nor clear the notes of its successor.
    pub(super) builder: u64,
    pub(super) rows: BTreeMap<RefKey, Option<Ref>>,
}

impl StateMachine {
    /// Opens the applied state in `dir`. Rows that are damaged, or older than
    /// the newest snapshot, are restored from it; the journal gives the rest.
    pub(super) fn open(dir: &Path, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let (rows, _wiped) = Rows::open(dir)?;
        Self::over(Arc::new(rows), disk)
    }

    /// The same over rows that are open.
    pub(super) fn over(rows: Arc<dyn RowStore>, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let snapshots = Snapshots::open(disk)?;
        if let Some((file, head)) = snapshots.newest()?
            && head.position.last > rows.position()?.last
        {
            let (head, mut refs) = snapshots.read(&file)?;
            rows.replace(&head.position, &head.state, &head.recent, &mut refs)?;
        }
        let memory = Memory {
            position: rows.position()?,
            recent: Recent::restore(rows.recent()?),
        };
        let state = watch::Sender::new(Arc::new(rows.state()?));
        let applied = watch::Sender::new(memory.position.index());
        let shared = Shared {
            rows,
            snapshots,
            memory: Mutex::new(memory),
            capture: Mutex::new(None),
            state,
            applied,
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
        self.shared.rows.get(key)
    }

    pub(super) fn snapshots(&self) -> &Snapshots {
        &self.shared.snapshots
    }

    /// Makes the rows durable, so that the next start may believe them. Only
    /// after Raft has stopped.
    pub(super) fn close(&self) -> io::Result<()> {
        self.shared.rows.close()
    }

    /// Waits until the volume has room for a transaction. The rows are lost to
    /// this process when they run out of it in the middle of one, and Raft's part
    /// with them; a full disk is no such failure. Raft votes and appends
    /// meanwhile, from its reserve, and the entries are applied when there is room.
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
    fn apply_batch(&self, entries: Vec<Applying>) -> io::Result<Vec<Response>> {
        let mut memory = self.shared.memory();
        let mut state = ClusterState::clone(&self.shared.state.borrow());
        let mut changed = false;
        let mut position = memory.position.clone();
        let mut overlay = Overlay {
            rows: &*self.shared.rows,
            batch: Batch::default(),
        };
        let mut answers = Vec::with_capacity(entries.len());
        for Applying { log_id, payload } in entries {
            let index = log_id.index;
            position.last = Some(log_id);
            answers.push(match payload {
                EntryPayload::Blank => Response::Done { revision: index },
                EntryPayload::Membership(membership) => {
                    position.membership = StoredMembership::new(Some(log_id), membership);
                    Response::Done { revision: index }
                }
                EntryPayload::Normal(proposal) => {
                    let request = proposal.request;
                    let batch = &overlay.batch.requests;
                    if let Some(revision) = memory.recent.find(request, index, batch) {
                        Response::Done { revision }
                    } else {
                        let effects = state::apply(&mut state, &overlay, index, proposal.command)
                            .map_err(io::Error::other)?;
                        changed |= effects.changed;
                        overlay.batch.refs.extend(effects.rows);
                        // A refusal changed nothing; it may be judged again.
                        if matches!(effects.response, Response::Done { .. }) {
                            overlay.batch.requests.push((index, request));
                        }
                        effects.response
                    }
                }
            });
        }
        let mut batch = overlay.batch;
        if let Some(last) = &position.last {
            batch.forget = memory.recent.outdated(last.index);
        }
        batch.state = changed.then(|| state.clone());
        if !planted::is(Bug::SnapshotCapturesLater) {
            self.shared.note_old_rows(&batch)?;
        }
        self.shared.rows.write(&batch, &position)?;
        memory.position = position;
        memory.recent.advance(batch.requests, &batch.forget);
        let applied = memory.position.index();
        drop(memory);
        // State first: who waits for an index finds the state of it.
        if changed {
            self.shared.state.send_replace(Arc::new(state));
        }
        self.shared.applied.send_replace(applied);
        Ok(answers)
    }
}

struct Applying {
    log_id: LogId,
    payload: Payload,
}

/// The rows with the changes of a batch on top.
struct Overlay<'a> {
    rows: &'a dyn RowStore,
    batch: Batch,
}

impl RefRows for Overlay<'_> {
    fn get(&self, key: &RefKey) -> Result<Option<Ref>, Error> {
        match self.batch.refs.get(key) {
            Some(row) => Ok(row.clone()),
            None => self.rows.get(key),
        }
    }
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Memory is changed after the last step that can fail.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn capture(&self) -> MutexGuard<'_, Option<Capture>> {
        self.capture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before rows change: notes what they were, if a snapshot is being built.
    fn note_old_rows(&self, batch: &Batch) -> io::Result<()> {
        if let Some(capture) = &mut *self.capture() {
            for key in batch.refs.keys() {
                if !capture.rows.contains_key(key) {
                    let old = self.rows.get(key).map_err(io::Error::other)?;
                    capture.rows.insert(key.clone(), old);
                }
            }
        }
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let Position { last, membership } = self.shared.memory().position.clone();
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
                applying.push(Applying {
                    log_id: entry.log_id,
                    payload: entry.payload,
                });
            }
            self.wait_for_room().await;
            let answers = self.apply_batch(applying)?;
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
        let expected = meta.last_log_id;
        let head = outside::blocking(move || {
            // The whole file is read before anything is given up for it.
            let head = shared.snapshots.verify(&file, expected)?;
            // A snapshot that is being built would mix the rows of before and
            // after under the position of before.
            *shared.capture() = None;
            // Durable first: from here a restart finds it and installs it.
            let file = shared.snapshots.publish(&head.position, file)?;
            let (head, mut refs) = shared.snapshots.read(&file)?;
            shared
                .rows
                .replace(&head.position, &head.state, &head.recent, &mut refs)?;
            Ok::<_, io::Error>(head)
        })
        .await
        .map_err(io::Error::other)??;
        let mut memory = self.shared.memory();
        memory.position = head.position;
        memory.recent = Recent::restore(head.recent);
        let applied = memory.position.index();
        drop(memory);
        self.shared.state.send_replace(Arc::new(head.state));
        self.shared.applied.send_replace(applied);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let newest = self.shared.snapshots.newest()?;
        Ok(newest.map(|(snapshot, head)| RaftSnapshot {
            meta: meta(&head.position),
            snapshot,
        }))
    }
}

impl StateMachine {
    /// No entries are applied while this runs, so head and notes begin at the
    /// same position. A builder before it is given up.
    fn builder(&self) -> Builder {
        let id = outside::random();
        *self.shared.capture() = Some(Capture {
            builder: id,
            ..Capture::default()
        });
        let memory = self.shared.memory();
        let head = Head {
            position: memory.position.clone(),
            state: ClusterState::clone(&self.shared.state.borrow()),
            recent: memory.recent.batches(),
        };
        drop(memory);
        Builder {
            id,
            shared: Arc::clone(&self.shared),
            head,
        }
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
