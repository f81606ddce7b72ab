//! What is applied: the rows, and what is kept in memory beside them.
//!
//! It follows from a snapshot file and the journal alone, and can be made anew
//! from these at any time: at a start, or in a process whose rows are lost.

use std::{io, ops::Range, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use openraft::{EntryPayload, RaftLogReader, storage::RaftLogStorage};

use super::{
    recent::Recent,
    rows::{Batch, Position, RowStore},
    snapshot::{Head, Reader, Snapshots},
    types::{Entry, StoredMembership, TypeConfig},
};
use crate::{
    Error,
    state::{self, ClusterState, Ref, RefKey, RefRows, Response},
};

/// Reads committed entries: of this range, in order from its start; as many as
/// are convenient, but at least one.
pub(super) type Entries =
    Arc<dyn Fn(Range<u64>) -> BoxFuture<'static, io::Result<Vec<Entry>>> + Send + Sync>;

/// What a start finds of the log.
pub(super) struct Past {
    pub(super) entries: Entries,
    /// Index of the last entry that is on disk, or was before it was cut off.
    pub(super) last: u64,
}

/// What this log has.
pub(super) async fn past_of(log: &mut impl RaftLogStorage<TypeConfig>) -> io::Result<Past> {
    let last = log.get_log_state().await?.last_log_id;
    let reader = Arc::new(tokio::sync::Mutex::new(log.get_log_reader().await));
    let entries = move |range: Range<u64>| {
        let reader = Arc::clone(&reader);
        async move {
            let mut reader = reader.lock().await;
            reader.limited_get_log_entries(range.start, range.end).await
        }
        .boxed()
    };
    Ok(Past {
        entries: Arc::new(entries),
        last: last.map_or(0, |last| last.index),
    })
}

/// The applied state of one node.
pub(super) struct Applied {
    pub(super) rows: Arc<dyn RowStore>,
    pub(super) position: Position,
    recent: Recent,
    pub(super) state: Arc<ClusterState>,
}

impl Applied {
    /// What these rows hold. Where they are damaged, or older than the newest
    /// snapshot, they are restored from it; the journal has the rest.
    pub(super) fn open(rows: Arc<dyn RowStore>, snapshots: &Snapshots) -> io::Result<Self> {
        if let Some((file, head)) = snapshots.newest()?
            && head.position.last > rows.position()?.last
        {
            let (head, mut refs) = snapshots.read(&file)?;
            tracing::info!(
                path = %file.path.display(),
                "applied state is restored from a snapshot"
            );
            rows.replace(&head.position, &head.state, &head.recent, &mut refs)?;
        }
        Ok(Self {
            position: rows.position()?,
            recent: Recent::restore(rows.recent()?),
            state: Arc::new(rows.state()?),
            rows,
        })
    }

    /// What a snapshot as of here holds beside refs.
    pub(super) fn head(&self) -> Head {
        Head {
            position: self.position.clone(),
            state: ClusterState::clone(&self.state),
            recent: self.recent.batches(),
        }
    }

    /// Takes over a snapshot in place of everything.
    pub(super) fn replace(&mut self, head: Head, refs: &mut Reader) -> io::Result<()> {
        let rows = &self.rows;
        rows.replace(&head.position, &head.state, &head.recent, refs)?;
        self.position = head.position;
        self.recent = Recent::restore(head.recent);
        self.state = Arc::new(head.state);
        Ok(())
    }

    /// Applies entries in one transaction; one answer for each. `noting` sees
    /// what will change before it does. After an error the rows are lost: they
    /// may hold a part.
    pub(super) fn apply(
        &mut self,
        entries: impl IntoIterator<Item = Entry>,
        noting: impl FnOnce(&Batch) -> io::Result<()>,
    ) -> io::Result<Vec<Response>> {
        let mut state = ClusterState::clone(&self.state);
        let mut changed = false;
        let mut position = self.position.clone();
        let mut overlay = Overlay {
            rows: &*self.rows,
            batch: Batch::default(),
        };
        let mut answers = Vec::new();
        for Entry { log_id, payload } in entries {
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
                    if let Some(revision) = self.recent.find(request, index, batch) {
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
            batch.forget = self.recent.outdated(last.index);
        }
        batch.state = changed.then(|| state.clone());
        noting(&batch)?;
        self.rows.write(&batch, &position)?;
        self.position = position;
        self.recent.advance(batch.requests, &batch.forget);
        if changed {
            self.state = Arc::new(state);
        }
        Ok(answers)
    }
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
