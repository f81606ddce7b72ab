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
//! ```

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use sled::{
    Transactional,
    transaction::{ConflictableTransactionError, TransactionError},
};

use super::{
    types::{LogId, StoredMembership},
    wire::{self, Wire},
};
use crate::{
    Error,
    state::{ClusterState, Ref, RefKey, RefKind, RefRows, RequestId},
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

/// The rows. Clones share them.
#[derive(Clone)]
pub(super) struct Rows {
    db: sled::Db,
    refs: sled::Tree,
    recent: sled::Tree,
    meta: sled::Tree,
}

const POSITION: &[u8] = b"position";
const STATE: &[u8] = b"state";

impl Rows {
    /// Opens the rows in a folder; creates them empty if they are missing. Rows
    /// that cannot be read are thrown away, which `true` says: they have to be
    /// restored.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, bool)> {
        match Self::try_open(dir) {
            Ok(rows) => Ok((rows, false)),
            Err(error) => {
                tracing::warn!(
                    dir = %dir.display(),
                    error = %error,
                    "applied state is damaged; rebuilding it from the snapshot and the journal"
                );
                std::fs::remove_dir_all(dir)?;
                Ok((Self::try_open(dir)?, true))
            }
        }
    }

    fn try_open(dir: &Path) -> io::Result<Self> {
        let dir = PathBuf::from(dir);
        // Recovery of a damaged file may panic (sled issue 1387).
        let opened = catch_unwind(AssertUnwindSafe(|| -> io::Result<Self> {
            let db = sled::Config::new()
                .path(&dir)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(Some(1_000))
                .open()?;
            let rows = Self {
                refs: db.open_tree("refs")?,
                recent: db.open_tree("recent")?,
                meta: db.open_tree("meta")?,
                db,
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

    pub(super) fn position(&self) -> io::Result<Position> {
        self.meta(POSITION)
    }

    pub(super) fn state(&self) -> io::Result<ClusterState> {
        self.meta(STATE)
    }

    fn meta<T: Wire + Default>(&self, key: &[u8]) -> io::Result<T> {
        match self.meta.get(key)? {
            Some(bytes) => decode(&bytes),
            None => Ok(T::default()),
        }
    }

    /// Requests of the batches that are not forgotten, in log order; with each
    /// the last index of its batch.
    pub(super) fn recent(&self) -> io::Result<Vec<RecentBatch>> {
        self.recent
            .iter()
            .map(|row| {
                let (key, value) = row?;
                let last = key.as_ref().try_into().map(u64::from_be_bytes);
                let last = last.map_err(|_| invalid("index of recent requests"))?;
                Ok((last, decode(&value)?))
            })
            .collect()
    }

    /// Writes a batch and where it ends, all or nothing.
    pub(super) fn write(&self, batch: &Batch, position: &Position) -> io::Result<()> {
        let refs = batch.refs.iter();
        let refs: Vec<_> = refs
            .map(|(key, row)| (encode_key(key), row.as_ref().map(wire::encode)))
            .collect();
        let last = batch.requests.last();
        let requests = last.map(|(last, _)| (last.to_be_bytes(), wire::encode(&batch.requests)));
        let position = wire::encode(position);
        let state = batch.state.as_ref().map(wire::encode);
        let outcome = (&self.refs, &self.recent, &self.meta).transaction(|(to, recent, meta)| {
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
        outcome.map_err(|error| match error {
            TransactionError::Abort(never) => match never {},
            TransactionError::Storage(error) => error.into(),
        })
    }

    /// Throws everything away and takes over what is given.
    pub(super) fn replace(
        &self,
        position: &Position,
        state: &ClusterState,
        recent: &[RecentBatch],
        refs: impl Iterator<Item = io::Result<(RefKey, Ref)>>,
    ) -> io::Result<()> {
        // Without a position the rows count as empty: a crash from here until
        // the last write leaves nothing that could be believed.
        self.meta.clear()?;
        self.refs.clear()?;
        self.recent.clear()?;
        for row in refs {
            let (key, row) = row?;
            self.refs.insert(encode_key(&key), wire::encode(&row))?;
        }
        for (last, requests) in recent {
            let requests = wire::encode(requests);
            self.recent.insert(last.to_be_bytes(), requests)?;
        }
        self.meta.insert(STATE, wire::encode(state))?;
        self.db.flush()?;
        self.meta.insert(POSITION, wire::encode(position))?;
        self.db.flush()?;
        Ok(())
    }

    /// Every ref, in order of its key.
    pub(super) fn refs(&self) -> impl Iterator<Item = io::Result<(RefKey, Ref)>> + Send + use<> {
        self.refs.iter().map(|row| {
            let (key, value) = row?;
            Ok((decode_key(&key)?, decode(&value)?))
        })
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        self.db.flush()?;
        Ok(())
    }
}

impl RefRows for Rows {
    fn get(&self, key: &RefKey) -> Result<Option<Ref>, Error> {
        let failed = |error| Error::io("cannot read a ref from applied state", error);
        let row = self
            .refs
            .get(encode_key(key))
            .map_err(|e| failed(e.into()))?;
        row.map(|row| decode(&row).map_err(failed)).transpose()
    }
}

/// Kind, instance, URI and qualifiers, each text ended by a zero byte that no
/// text may have; so rows of one instance and a prefix of URIs are neighbours.
fn encode_key(key: &RefKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.text_bytes() + 16);
    out.push(match key.kind {
        RefKind::Blob => 1,
        RefKind::Directory => 2,
        RefKind::BuildStream1 => 3,
    });
    let qualifiers = key
        .qualifiers
        .iter()
        .flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    for text in [key.instance.as_str(), key.uri.as_str()]
        .into_iter()
        .chain(qualifiers)
    {
        for byte in text.bytes() {
            // Zero and one are written as two bytes, in an order that keeps
            // that of the texts.
            match byte {
                0 => out.extend([1, 1]),
                1 => out.extend([1, 2]),
                byte => out.push(byte),
            }
        }
        out.push(0);
    }
    out
}

fn decode_key(bytes: &[u8]) -> io::Result<RefKey> {
    let bad = || invalid("key of a ref");
    let (kind, rest) = bytes.split_first().ok_or_else(bad)?;
    let kind = match kind {
        1 => RefKind::Blob,
        2 => RefKind::Directory,
        3 => RefKind::BuildStream1,
        _ => return Err(bad()),
    };
    let mut texts = Vec::new();
    let mut text = Vec::new();
    let mut bytes = rest.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            0 => {
                let text = String::from_utf8(std::mem::take(&mut text)).map_err(|_| bad())?;
                texts.push(text);
            }
            1 => match bytes.next() {
                Some(1) => text.push(0),
                Some(2) => text.push(1),
                _ => return Err(bad()),
            },
            byte => text.push(*byte),
        }
    }
    let mut texts = texts.into_iter();
    let (Some(instance), Some(uri), true) = (texts.next(), texts.next(), text.is_empty()) else {
        return Err(bad());
    };
    let mut qualifiers = Vec::new();
    while let Some(name) = texts.next() {
        qualifiers.push((name, texts.next().ok_or_else(bad)?));
    }
    Ok(RefKey {
        kind,
        instance,
        uri,
        qualifiers,
    })
}

fn decode<T: Wire>(bytes: &[u8]) -> io::Result<T> {
    wire::decode(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} cannot be read"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = RefKey> {
        let kind = prop_oneof![
            Just(RefKind::Blob),
            Just(RefKind::Directory),
            Just(RefKind::BuildStream1)
        ];
        let text = "[a-c\u{0}\u{1}\u{2}é/]{0,6}";
        let qualifiers = proptest::collection::vec((text, text), 0..3);
        (kind, text, text, qualifiers)
            .prop_map(|(kind, instance, uri, rest)| RefKey::new(kind, instance, uri, rest))
    }

    proptest! {
        #[test]
        fn keys_come_back_and_keep_their_order(a in keys(), b in keys()) {
            prop_assert_eq!(&decode_key(&encode_key(&a)).unwrap(), &a);
            prop_assert_eq!(encode_key(&a).cmp(&encode_key(&b)), a.cmp(&b));
        }

        #[test]
        fn arbitrary_bytes_are_refused_not_believed(bytes: Vec<u8>) {
            if let Ok(key) = decode_key(&bytes) {
                prop_assert_eq!(encode_key(&key), bytes);
            }
        }
    }
}
