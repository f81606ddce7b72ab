//! Rows in memory, for simulations: the same promises without threads and files.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Batch, Position, RecentBatch, RowStore};
use crate::{
    Error,
    state::{ClusterState, Ref, RefKey, RefRows},
};

/// Told what is applied, after each transaction.
pub(crate) type Watcher = Arc<dyn Fn(&Applied) + Send + Sync>;

/// Rows in memory.
pub(crate) struct MemoryRows {
    // A std mutex: held for map operations only.
    applied: Mutex<Applied>,
    watcher: Watcher,
}

/// What the rows hold.
#[derive(Clone, Default)]
pub(crate) struct Applied {
    position: Position,
    pub(crate) state: ClusterState,
    recent: BTreeMap<u64, RecentBatch>,
    pub(crate) refs: BTreeMap<RefKey, Ref>,
}

impl Applied {
    pub(crate) fn index(&self) -> u64 {
        self.position.index()
    }
}

impl MemoryRows {
    pub(crate) fn new(applied: Applied, watcher: Watcher) -> Self {
        let applied = Mutex::new(applied);
        Self { applied, watcher }
    }

    /// A copy of what they hold now.
    pub(crate) fn applied(&self) -> Applied {
        self.lock().clone()
    }

    /// As if they were new.
    pub(crate) fn clear(&self) {
        *self.lock() = Applied::default();
    }

    fn lock(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RefRows for MemoryRows {
    fn get(&self, key: &RefKey) -> Result<Option<Ref>, Error> {
        Ok(self.lock().refs.get(key).cloned())
    }
}

impl RowStore for MemoryRows {
    fn position(&self) -> io::Result<Position> {
        Ok(self.lock().position.clone())
    }

    fn state(&self) -> io::Result<ClusterState> {
        Ok(self.lock().state.clone())
    }

    fn recent(&self) -> io::Result<Vec<RecentBatch>> {
        Ok(self.lock().recent.values().cloned().collect())
    }

    fn write(&self, batch: &Batch, position: &Position) -> io::Result<()> {
        let mut applied = self.lock();
        for (key, row) in &batch.refs {
            match row {
                Some(row) => applied.refs.insert(key.clone(), row.clone()),
                None => applied.refs.remove(key),
            };
        }
        if let Some((last, _)) = batch.requests.last() {
            let requests = (*last, batch.requests.clone());
            applied.recent.insert(*last, requests);
        }
        for last in &batch.forget {
            applied.recent.remove(last);
        }
        if let Some(state) = &batch.state {
            applied.state.clone_from(state);
        }
        applied.position.clone_from(position);
        (self.watcher)(&applied);
        Ok(())
    }

    fn replace(
        &self,
        position: &Position,
        state: &ClusterState,
        recent: &[RecentBatch],
        refs: &mut dyn Iterator<Item = io::Result<(RefKey, Ref)>>,
    ) -> io::Result<()> {
        let new = Applied {
            position: position.clone(),
            state: state.clone(),
            recent: recent
                .iter()
                .map(|batch| (batch.0, batch.clone()))
                .collect(),
            refs: refs.collect::<io::Result<_>>()?,
        };
        let mut applied = self.lock();
        *applied = new;
        (self.watcher)(&applied);
        Ok(())
    }

    fn refs(&self) -> Box<dyn Iterator<Item = io::Result<(RefKey, Ref)>> + Send> {
        Box::new(self.lock().refs.clone().into_iter().map(Ok))
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}
