//! The applied state on disk: rows in sled, a cache that can be rebuilt.
//!
//! sled's flush does not reach the disk (docs/adr/0002), so nothing here may be
//! the only copy: whatever is lost comes back from the last snapshot file and
//! the journal. What matters is that the rows are *consistent*: one batch of
//! applied entries is one transaction, with last-applied in it.
//!
//! ```text
//!   refs     RefKey (order-preserving)       → Ref
//!   recent   last log index of a batch       → its requests, to know them again
//!   meta     "position"                      → Position: last applied, membership
//!            "state"                         → ClusterState
//!            "side"                          → which of two `refs` and `recent` counts
//! ```
//!
//! A snapshot is written to the side that does not count, and then the sides
//! change places in one step. The tempting alternative, to clear the rows and
//! fill them again, lets a reader meanwhile miss a ref that was there all along.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use sled::{
    Transactional,
    transaction::{ConflictableTransactionError, TransactionError},
};

use super::{
    mark::Mark,
    ref_key::{decode_key, encode_key},
    types::{LogId, StoredMembership},
    wire::{self, Wire},
};
use crate::{
    Error,
    state::{ClusterState, Ref, RefKey, RefRows, RequestId},
};

/// Memory for sled's pages. sled uses some times more than it is told.
const CACHE_BYTES: u64 = 32 << 20;

/// How far the log is applied, and the membership as of there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Position {
    pub(super) last: Option<LogId>,
    pub(super) membership: StoredMembership,
}

impl Position {
    pub(super) fn index(&self) -> u64 {
        self.last.map_or(0, |last| last.index)
    }
}

/// What one batch of entries changes.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) refs: BTreeMap<RefKey, Option<Ref>>,
    /// Requests of the batch, by log index.
    pub(super) requests: Vec<(u64, RequestId)>,
    /// Batches whose requests may be forgotten, by the last index of each.
    pub(super) forget: Vec<u64>,
    /// The cluster state, if it changed.
    pub(super) state: Option<ClusterState>,
}

/// The requests of one batch of entries with their log indices, under the last
/// of these.
pub(super) type RecentBatch = (u64, Vec<(u64, RequestId)>);

/// Rows, wherever they are kept.
pub(super) trait RowStore: RefRows + Send + Sync {
    fn position(&self) -> io::Result<Position>;

    fn state(&self) -> io::Result<ClusterState>;

    /// Requests of the batches that are not forgotten, in log order; with each
    /// the last index of its batch.
    fn recent(&self) -> io::Result<Vec<RecentBatch>>;

    /// Writes a batch and where it ends, all or nothing.
    fn write(&self, batch: &Batch, position: &Position) -> io::Result<()>;

    /// Takes over what is given in place of everything, all or nothing; until
    /// then readers find the old rows.
    fn replace(
        &self,
        position: &Position,
        state: &ClusterState,
        recent: &[RecentBatch],
        refs: &mut dyn Iterator<Item = io::Result<(RefKey, Ref)>>,
    ) -> io::Result<()>;

    /// Every ref, in order of its key.
    fn refs(&self) -> Box<dyn Iterator<Item = io::Result<(RefKey, Ref)>> + Send>;

    /// Makes the rows durable and says so. Nothing may be written after it.
    fn close(&self) -> io::Result<()>;
}

/// The rows in sled. Clones share them.
#[derive(Clone)]
pub(super) struct Rows {
    db: sled::Db,
    meta: sled::Tree,
    /// The side that counts.
    side: Arc<ArcSwap<Side>>,
    dir: PathBuf,
    mark: Mark,
}

/// One of two places for rows.
struct Side {
    number: u8,
    refs: sled::Tree,
    recent: sled::Tree,
}

const POSITION: &[u8] = b"position";
const STATE: &[u8] = b"state";
const SIDE: &[u8] = b"side";

impl Side {
    fn open(db: &sled::Db, number: u8) -> io::Result<Self> {
        Ok(Self {
            number,
            refs: db.open_tree(format!("refs {number}"))?,
            recent: db.open_tree(format!("recent {number}"))?,
        })
    }

    fn clear(&self) -> io::Result<()> {
        self.refs.clear()?;
        self.recent.clear()?;
        Ok(())
    }
}

impl Rows {
    /// Opens the rows in a folder; creates them empty if they are missing. Rows
    /// that cannot be read, or not be believed, are thrown away, which `true`
    /// says: they have to be restored.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, bool)> {
        std::fs::create_dir_all(dir)?;
        let mark = Mark::new(dir);
        let dir = dir.join("rows");
        let mut wiped = false;
        if dir.exists()
            && let Some(doubt) = mark.doubt()?
        {
            tracing::warn!(
                dir = %dir.display(),
                doubt,
                "applied state cannot be trusted; rebuilding it from the snapshot and the journal"
            );
            std::fs::remove_dir_all(&dir)?;
            wiped = true;
        }
        mark.set_opening()?;
        let rows = match Self::try_open(&dir, &mark) {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(
                    dir = %dir.display(),
                    error = %error,
                    "applied state is damaged; rebuilding it from the snapshot and the journal"
                );
                std::fs::remove_dir_all(&dir)?;
                wiped = true;
                Self::try_open(&dir, &mark)?
            }
        };
        mark.set_open()?;
        Ok((rows, wiped))
    }

    /// Removes what rows are in a folder, in use or not; the next opening finds
    /// none.
    pub(super) fn remove(dir: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(dir.join("rows")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn try_open(dir: &Path, mark: &Mark) -> io::Result<Self> {
        // Recovery of a damaged file may panic (sled issue 1387). Where a panic
        // ends the process instead, the mark tells the next start.
        let opened = catch_unwind(AssertUnwindSafe(|| -> io::Result<Self> {
            let db = sled::Config::new()
                .path(dir)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(Some(1_000))
                .open()?;
            let meta = db.open_tree("meta")?;
            let number = match meta.get(SIDE)? {
                None => 0,
                Some(number) if *number == [0] => 0,
                Some(number) if *number == [1] => 1,
                Some(_) => return Err(invalid("side of the rows")),
            };
            let rows = Self {
                side: Arc::new(ArcSwap::from_pointee(Side::open(&db, number)?)),
                meta,
                db,
                dir: dir.to_owned(),
                mark: mark.clone(),
            };
            // All of it is read once: damage shows now or not at all.
            rows.position()?;
            rows.state()?;
            rows.recent()?;
            rows.refs().try_for_each(|row| row.map(drop))?;
            Ok(rows)
        }));
        opened.unwrap_or_else(|_| Err(io::Error::other("opening it panicked")))
    }

    fn meta<T: Wire + Default>(&self, key: &[u8]) -> io::Result<T> {
        match self.meta.get(key)? {
            Some(bytes) => decode(&bytes),
            None => Ok(T::default()),
        }
    }
}

impl RowStore for Rows {
    fn position(&self) -> io::Result<Position> {
        self.meta(POSITION)
    }

    fn state(&self) -> io::Result<ClusterState> {
        self.meta(STATE)
    }

    fn recent(&self) -> io::Result<Vec<RecentBatch>> {
        let side = self.side.load();
        side.recent
            .iter()
            .map(|row| {
                let (key, value) = row?;
                let last = key.as_ref().try_into().map(u64::from_be_bytes);
                let last = last.map_err(|_| invalid("index of recent requests"))?;
                Ok((last, decode(&value)?))
            })
            .collect()
    }

    fn write(&self, batch: &Batch, position: &Position) -> io::Result<()> {
        let refs = batch.refs.iter();
        let refs: Vec<_> = refs
            .map(|(key, row)| (encode_key(key), row.as_ref().map(wire::encode)))
            .collect();
        let last = batch.requests.last();
        let requests = last.map(|(last, _)| (last.to_be_bytes(), wire::encode(&batch.requests)));
        let position = wire::encode(position);
        let state = batch.state.as_ref().map(wire::encode);
        let side = self.side.load();
        let trees = (&side.refs, &side.recent, &self.meta);
        let outcome = trees.transaction(|(to, recent, meta)| {
            for (key, row) in &refs {
                match row {
                    Some(row) => to.insert(key.as_slice(), row.as_slice())?,
                    None => to.remove(key.as_slice())?,
                };
            }
            if let Some((last, requests)) = &requests {
                recent.insert(last, requests.as_slice())?;
            }
            for last in &batch.forget {
                recent.remove(&last.to_be_bytes())?;
            }
            if let Some(state) = &state {
                meta.insert(STATE, state.as_slice())?;
            }
            meta.insert(POSITION, position.as_slice())?;
            Ok::<_, ConflictableTransactionError<Infallible>>(())
        });
        outcome.map_err(storage_error)
    }

    fn replace(
        &self,
        position: &Position,
        state: &ClusterState,
        recent: &[RecentBatch],
        refs: &mut dyn Iterator<Item = io::Result<(RefKey, Ref)>>,
    ) -> io::Result<()> {
        let new = Side::open(&self.db, 1 - self.side.load().number)?;
        // An earlier replacement may have been cut off half way.
        new.clear()?;
        for row in refs {
            let (key, row) = row?;
            new.refs.insert(encode_key(&key), wire::encode(&row))?;
        }
        for (last, requests) in recent {
            let requests = wire::encode(requests);
            new.recent.insert(last.to_be_bytes(), requests)?;
        }
        self.db.flush()?;
        let (state, position) = (wire::encode(state), wire::encode(position));
        let outcome = self.meta.transaction(|meta| {
            meta.insert(SIDE, &[new.number])?;
            meta.insert(STATE, state.as_slice())?;
            meta.insert(POSITION, position.as_slice())?;
            Ok::<_, ConflictableTransactionError<Infallible>>(())
        });
        outcome.map_err(storage_error)?;
        self.db.flush()?;
        let old = self.side.swap(Arc::new(new));
        // Readers hold a side for one lookup. Emptied under their hands, it
        // would tell them that a ref is not there.
        while Arc::strong_count(&old) > 1 {
            std::thread::yield_now();
        }
        old.clear()
    }

    fn refs(&self) -> Box<dyn Iterator<Item = io::Result<(RefKey, Ref)>> + Send> {
        Box::new(self.side.load().refs.iter().map(|row| {
            let (key, value) = row?;
            Ok((decode_key(&key)?, decode(&value)?))
        }))
    }

    fn close(&self) -> io::Result<()> {
        self.db.flush()?;
        sync_folder(&self.dir)?;
        self.mark.set_closed()
    }
}

/// Syncs a folder with all that is in it, which sled does not.
fn sync_folder(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folder(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(dir)?.sync_all()
}

impl RefRows for Rows {
    fn get(&self, key: &RefKey) -> Result<Option<Ref>, Error> {
        let failed = |error| Error::io("cannot read a ref from applied state", error);
        let row = self
            .side
            .load()
            .refs
            .get(encode_key(key))
            .map_err(|e| failed(e.into()))?;
        row.map(|row| decode(&row).map_err(failed)).transpose()
    }
}

fn decode<T: Wire>(bytes: &[u8]) -> io::Result<T> {
    wire::decode(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn storage_error(error: TransactionError<Infallible>) -> io::Error {
    match error {
        TransactionError::Abort(never) => match never {},
        TransactionError::Storage(error) => error.into(),
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} cannot be read"))
}

#[cfg(all(test, tokio_unstable))]
pub(super) mod memory;
#[cfg(test)]
pub(super) mod tests;
