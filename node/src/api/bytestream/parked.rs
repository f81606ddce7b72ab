//! Uploads whose client vanished, kept for a short time so that it can go on.
//!
//! Bounded by number, by bytes and by time ([`ApiConfig`]); the oldest gives
//! way. Giving one up drops it, which leaves nothing behind in the store.
//! The table is of this node alone: a client that comes back through another
//! node is told to begin at 0.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{runtime::Handle, task::AbortHandle, time::sleep};
use weir_cluster::blob::Upload;

use super::ApiConfig;

/// The table, by full resource name.
pub(super) struct Parked {
    keep: Duration,
    max_uploads: usize,
    max_bytes: u64,
    // A std mutex: held for map operations only; uploads are dropped outside.
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    uploads: HashMap<String, Entry>,
    bytes: u64,
    /// Number of the next entry; smaller is older.
    next: u64,
}

struct Entry {
    upload: Box<dyn Upload>,
    offset: u64,
    number: u64,
    _expiry: Expiry,
}

/// The task that gives an upload up; ends with the entry.
struct Expiry(AbortHandle);

impl Drop for Expiry {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Parked {
    pub(super) fn new(config: &ApiConfig) -> Arc<Self> {
        Arc::new(Self {
            keep: config.resume(),
            max_uploads: config.resume_uploads,
            max_bytes: config.resume_bytes,
            table: Mutex::default(),
        })
    }

    /// Keeps an upload of which `offset` bytes were accepted.
    pub(super) fn park(self: &Arc<Self>, name: String, upload: Box<dyn Upload>, offset: u64) {
        // Outside a runtime nobody would ever give it up.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if offset > self.max_bytes || self.max_uploads == 0 {
            return;
        }
        let mut given_up = Vec::new();
        let mut table = self.lock();
        given_up.extend(table.remove(&name));
        while table.uploads.len() >= self.max_uploads || table.bytes + offset > self.max_bytes {
            let oldest = table.uploads.iter().min_by_key(|(_, entry)| entry.number);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else {
                break;
            };
            given_up.extend(table.remove(&oldest));
        }
        let number = table.next;
        table.next += 1;
        table.bytes += offset;
        let (parked, key, keep) = (Arc::downgrade(self), name.clone(), self.keep);
        let expiry = runtime.spawn(async move {
            sleep(keep).await;
            if let Some(parked) = parked.upgrade() {
                parked.expire(&key, number);
            }
        });
        let entry = Entry {
            upload,
            offset,
            number,
            _expiry: Expiry(expiry.abort_handle()),
        };
        table.uploads.insert(name, entry);
        drop(table);
        drop(given_up);
    }

    /// Takes an upload to go on with, if it stands exactly at `offset`.
    pub(super) fn take(&self, name: &str, offset: u64) -> Option<Box<dyn Upload>> {
        let mut table = self.lock();
        if table.uploads.get(name)?.offset != offset {
            return None;
        }
        table.remove(name).map(|entry| entry.upload)
    }

    /// Gives up an upload that begins anew.
    pub(super) fn forget(&self, name: &str) {
        let entry = self.lock().remove(name);
        drop(entry);
    }

    /// Bytes that were accepted of an upload; 0 if it is not here.
    pub(super) fn offset(&self, name: &str) -> u64 {
        self.lock()
            .uploads
            .get(name)
            .map_or(0, |entry| entry.offset)
    }

    fn expire(&self, name: &str, number: u64) {
        let mut table = self.lock();
        let same = |entry: &Entry| entry.number == number;
        let entry = match table.uploads.get(name) {
            Some(entry) if same(entry) => table.remove(name),
            _ => None,
        };
        drop(table);
        drop(entry);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table
            .lock()
            .expect("no panic while the table is locked")
    }
}

impl Table {
    fn remove(&mut self, name: &str) -> Option<Entry> {
        let entry = self.uploads.remove(name)?;
        self.bytes -= entry.offset;
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use weir_cluster::{
        Digest,
        blob::{BlobStore, Put, memory_store::MemoryStore},
    };

    use super::*;

    async fn upload() -> Box<dyn Upload> {
        match MemoryStore::new().put(Digest::of(b"some bytes")).await {
            Ok(Put::Upload(upload)) => upload,
            _ => panic!("an empty store has no blob"),
        }
    }

    fn parked(uploads: usize, bytes: u64) -> Arc<Parked> {
        Parked::new(&ApiConfig {
            resume_seconds: 50,
            resume_uploads: uploads,
            resume_bytes: bytes,
            ..ApiConfig::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_is_taken_once_and_only_where_it_stands() {
        let parked = parked(4, 100);
        parked.park("a".into(), upload().await, 7);
        assert_eq!(parked.offset("a"), 7);
        assert!(parked.take("a", 6).is_none());
        assert!(parked.take("b", 7).is_none());
        assert!(parked.take("a", 7).is_some());
        assert!(parked.take("a", 7).is_none());
        assert_eq!(parked.offset("a"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn number_bytes_and_time_are_bounded() {
        let parked = parked(2, 100);
        for name in ["a", "b", "c"] {
            parked.park(name.into(), upload().await, 10);
        }
        assert_eq!(["a", "b", "c"].map(|name| parked.offset(name)), [0, 10, 10]);
        parked.park("d".into(), upload().await, 95);
        assert_eq!(["b", "c", "d"].map(|name| parked.offset(name)), [0, 0, 95]);
        parked.park("e".into(), upload().await, 101);
        assert_eq!(parked.offset("e"), 0);
        sleep(Duration::from_secs(49)).await;
        assert_eq!(parked.offset("d"), 95);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(parked.offset("d"), 0);
        assert_eq!(parked.lock().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_expiry_leaves_a_newer_upload_alone() {
        let parked = parked(2, 100);
        parked.park("a".into(), upload().await, 1);
        sleep(Duration::from_secs(30)).await;
        assert!(parked.take("a", 1).is_some());
        parked.park("a".into(), upload().await, 2);
        sleep(Duration::from_secs(30)).await;
        assert_eq!(parked.offset("a"), 2);
    }
}
