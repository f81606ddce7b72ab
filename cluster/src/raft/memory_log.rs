//! TEMPORARY log store in memory.
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::journal::disk::Disk;
use openraft::{
    RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use std::{
    collections::BTreeMap,
    io,
    ops::RangeBounds,
    sync::{Arc, Mutex},
};

#[derive(Default)]
struct Inner {
    log: BTreeMap<u64, Entry>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}
#[derive(Clone, Default)]
pub struct LogStore(Arc<Mutex<Inner>>);
#[derive(Default)]
pub struct JournalConfig {}
impl LogStore {
    pub fn open(_disk: Arc<dyn Disk>, _c: JournalConfig) -> io::Result<Self> {
        Ok(Self::default())
    }
}
impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + std::fmt::Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self
            .0
            .lock()
            .unwrap()
            .log
            .range(range)
            .map(|(_, e)| e.clone())
            .collect())
    }
    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.lock().unwrap().vote)
    }
}
impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;
    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let i = self.0.lock().unwrap();
        let last = i.log.values().next_back().map(|e| e.log_id).or(i.purged);
        Ok(LogState {
            last_purged_log_id: i.purged,
            last_log_id: last,
        })
    }
    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }
    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.0.lock().unwrap().vote = Some(*vote);
        Ok(())
    }
    async fn save_committed(&mut self, c: Option<LogId>) -> Result<(), io::Error> {
        self.0.lock().unwrap().committed = c;
        Ok(())
    }
    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.0.lock().unwrap().committed)
    }
    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        self.0
            .lock()
            .unwrap()
            .log
            .extend(entries.into_iter().map(|e| (e.log_id.index, e)));
        callback.io_completed(Ok(()));
        Ok(())
    }
    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |l| l.index + 1);
        self.0.lock().unwrap().log.split_off(&from);
        Ok(())
    }
    async fn purge(&mut self, id: LogId) -> Result<(), io::Error> {
        let mut i = self.0.lock().unwrap();
        i.log = i.log.split_off(&(id.index + 1));
        i.purged = Some(id);
        Ok(())
    }
}
