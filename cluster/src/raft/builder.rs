//! Builds a snapshot while entries are applied; see [`super::state_machine`].

use std::{collections::BTreeMap, io, sync::Arc};

use openraft::{RaftSnapshotBuilder, storage::Snapshot as RaftSnapshot};

use super::{
    snapshot::{Head, Writer},
    state_machine::{Shared, meta},
    types::{Snapshot, SnapshotFile, TypeConfig},
};
use crate::{
    outside,
    state::{Ref, RefKey},
};

/// Builds one snapshot. While it exists, changed rows are noted.
pub(super) struct Builder {
    pub(super) id: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) head: Head,
}

impl Shared {
    fn build(&self, builder: u64, head: &Head) -> io::Result<SnapshotFile> {
        let mut writer = self.snapshots.write(head)?;
        let path = writer.path().to_owned();
        self.write_rows(builder, &mut writer)
            .and_then(|()| self.snapshots.publish(&head.position, writer.finish()?))
            .inspect_err(|_| self.snapshots.discard(&path))
    }

    fn write_rows(&self, builder: u64, writer: &mut Writer) -> io::Result<()> {
        for row in self.rows.refs() {
            let (key, row) = row?;
            // Looked up after the row was read: who changes a row notes the old
            // one first.
            let noted = match &*self.capture() {
                Some(capture) if capture.builder == builder => capture.rows.contains_key(&key),
                _ => return Err(given_up()),
            };
            if !noted {
                writer.push(key, row)?;
            }
        }
        let notes = self.take_notes(builder).ok_or_else(given_up)?;
        for (key, old) in notes {
            if let Some(old) = old {
                writer.push(key, old)?;
            }
        }
        Ok(())
    }

    /// Ends the notes of a builder.
    fn take_notes(&self, builder: u64) -> Option<BTreeMap<RefKey, Option<Ref>>> {
        self.capture()
            .take_if(|capture| capture.builder == builder)
            .map(|capture| capture.rows)
    }
}

fn given_up() -> io::Error {
    io::Error::other("this snapshot was given up for a newer one")
}

impl Drop for Builder {
    fn drop(&mut self) {
        self.shared.take_notes(self.id);
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (id, shared) = (self.id, Arc::clone(&self.shared));
        let head = std::mem::take(&mut self.head);
        let meta = meta(&head.position);
        let snapshot = outside::blocking(move || shared.build(id, &head))
            .await
            .map_err(io::Error::other)??;
        Ok(RaftSnapshot { meta, snapshot })
    }
}
