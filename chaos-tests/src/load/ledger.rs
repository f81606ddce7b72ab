//! What was acknowledged, kept outside the cluster.
//!
//! It only grows, so its length at a moment names all that had been
//! acknowledged by then: whoever cuts the power takes the length first, and
//! only the entries before it must survive. What follows is unknown.

use std::{
    collections::HashSet,
    fs::File,
    io::Write,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};

use super::content::Name;

/// One promise that a node made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// When the answer came, in microseconds of the run's clock.
    pub at: u64,
    /// The node that gave it.
    pub node: u16,
    pub what: Acknowledged,
}

/// What was promised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Acknowledged {
    /// The bytes are durable.
    Blob(Name),
    /// All of the URIs name the blob, or one that was pushed later.
    Ref {
        key: u32,
        value: u64,
        uris: Vec<String>,
        blob: Name,
    },
}

#[derive(Default)]
struct Inner {
    entries: Vec<Entry>,
    blobs: HashSet<Name>,
    file: Option<File>,
}

/// The ledger. Clones are handles of the same one.
///
/// A std mutex round a push and, with a file, one write to it.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Inner>>);

impl Ledger {
    /// A ledger that is also written to a file, one line an entry, so that it
    /// outlives a test that is killed.
    pub fn in_file(path: &Path) -> Result<Ledger> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let ledger = Ledger::default();
        ledger.lock().file = Some(file);
        Ok(ledger)
    }

    /// Enters a blob, once.
    pub fn blob(&self, at: u64, node: u16, name: Name) {
        let mut inner = self.lock();
        if inner.blobs.insert(name) {
            let what = Acknowledged::Blob(name);
            inner.enter(Entry { at, node, what });
        }
    }

    /// Enters a push of a ref.
    pub fn push(&self, entry: Entry) {
        self.lock().enter(entry);
    }

    /// How many entries there are by now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first entries, up to a length that was taken earlier.
    #[must_use]
    pub fn first(&self, length: usize) -> Vec<Entry> {
        let inner = self.lock();
        inner.entries[..length.min(inner.entries.len())].to_vec()
    }

    /// All entries by now.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    /// One of the blobs, by any number; `None` if there is none yet.
    #[must_use]
    pub fn some_blob(&self, number: u64) -> Option<Name> {
        let inner = self.lock();
        let count = inner.entries.len();
        let from = number.checked_rem(count as u64)? as usize;
        let entries = inner.entries[from..].iter().chain(&inner.entries[..from]);
        entries
            .filter_map(|entry| match entry.what {
                Acknowledged::Blob(name) => Some(name),
                Acknowledged::Ref { .. } => None,
            })
            .next()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Whole after a panic elsewhere: entries are only added.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn enter(&mut self, entry: Entry) {
        if let Some(file) = &mut self.file {
            let Entry { at, node, what } = &entry;
            let line = match what {
                Acknowledged::Blob(name) => format!("{at} {node} blob {name}\n"),
                Acknowledged::Ref { uris, blob, .. } => {
                    format!("{at} {node} ref {blob} {}\n", uris.join(" "))
                }
            };
            // The file is for people; the judges read what is in memory.
            let _ = file.write_all(line.as_bytes());
        }
        self.entries.push(entry);
    }
}

/// The blobs among entries.
#[must_use]
pub fn blobs(entries: &[Entry]) -> Vec<Name> {
    let blob = |entry: &Entry| match entry.what {
        Acknowledged::Blob(name) => Some(name),
        Acknowledged::Ref { .. } => None,
    };
    entries.iter().filter_map(blob).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_length_names_what_was_acknowledged_by_then() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::in_file(&dir.path().join("ledger")).unwrap();
        assert_eq!(ledger.some_blob(7), None);
        let (one, two) = (Name::of(b"one"), Name::of(b"two"));
        ledger.blob(1, 0, one);
        let length = ledger.len();
        ledger.blob(2, 1, two);
        ledger.blob(3, 0, one);
        assert_eq!(blobs(&ledger.first(length)), [one]);
        assert_eq!(blobs(&ledger.entries()), [one, two]);
        assert_eq!(ledger.some_blob(3), Some(two));
        let text = std::fs::read_to_string(dir.path().join("ledger")).unwrap();
        assert_eq!(text.lines().count(), 2);
    }
}
