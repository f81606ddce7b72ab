//! Builds a snapshot while entries are applied; see [`super::state_machine`].
//!
//! openraft ends Raft on this node for a build that fails. Most failures pass:
//! there is no room on the volume, or the build was given up for a snapshot of
//! the leader's. So such a build begins anew after a while, as of the position
//! then, and the log stays uncut until it has succeeded.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use openraft::{RaftSnapshotBuilder, storage::Snapshot as RaftSnapshot};

use super::{
    snapshot::Writer,
    state_machine::{Begun, Shared, meta},
    types::{Snapshot, SnapshotFile, TypeConfig},
};
use crate::{
    journal::disk::is_shortage,
    outside,
    state::{Ref, RefKey},
};

/// Between attempts: each may write all refs.
const PAUSE: Duration = Duration::from_secs(1);

/// Builds one snapshot. While it exists, changed rows are noted.
pub(super) struct Builder {
    shared: Arc<Shared>,
    /// None if it could not begin yet.
    begun: Option<Begun>,
}

impl Builder {
    pub(super) fn new(shared: Arc<Shared>, begun: Option<Begun>) -> Self {
        Self { shared, begun }
    }
}

/// Why there is no snapshot.
enum Failed {
    /// Another took its place, or the rows were lost.
    GivenUp,
    Io(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Shared {
    fn build(&self, begun: &Begun) -> Result<SnapshotFile, Failed> {
        let mut writer = self.snapshots.write(&begun.head)?;
        let path = writer.path().to_owned();
        self.write_rows(begun, &mut writer)
            .and_then(|()| {
                Ok(self
                    .snapshots
                    .publish(&begun.head.position, writer.finish()?)?)
            })
            .inspect_err(|_| self.snapshots.discard(&path))
    }

    fn write_rows(&self, begun: &Begun, writer: &mut Writer) -> Result<(), Failed> {
        for row in begun.rows.refs() {
            // Looked up after the row was read: who changes a row notes the old
            // one first.
            let noted = |key| match &*self.capture() {
                Some(capture) if capture.builder == begun.id => Ok(capture.rows.contains_key(key)),
                _ => Err(Failed::GivenUp),
            };
            match row {
                Ok((key, row)) => {
                    if !noted(&key)? {
                        writer.push(key, row)?;
                    }
                }
                // Of rows that are given up nothing needs to be read.
                Err(error) => {
                    return Err(match self.is_going_on(begun) {
                        true => Failed::Io(error),
                        false => Failed::GivenUp,
                    });
                }
            }
        }
        let notes = self.take_notes(begun.id).ok_or(Failed::GivenUp)?;
        for (key, old) in notes {
            if let Some(old) = old {
                writer.push(key, old)?;
            }
        }
        Ok(())
    }

    fn is_going_on(&self, begun: &Begun) -> bool {
        let capture = self.capture();
        capture
            .as_ref()
            .is_some_and(|capture| capture.builder == begun.id)
    }

    /// Ends the notes of a builder.
    fn take_notes(&self, builder: u64) -> Option<BTreeMap<RefKey, Option<Ref>>> {
        self.capture()
            .take_if(|capture| capture.builder == builder)
            .map(|capture| capture.rows)
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        if let Some(begun) = &self.begun {
            self.shared.take_notes(begun.id);
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        loop {
            if let Some(begun) = self.begun.take() {
                let (id, meta) = (begun.id, meta(&begun.head.position));
                let shared = Arc::clone(&self.shared);
                let building = outside::blocking(move || shared.build(&begun));
                let built = building.await.map_err(io::Error::other)?;
                // Notes of a build that ended are of no use.
                self.shared.take_notes(id);
                match built {
                    Ok(snapshot) => return Ok(RaftSnapshot { meta, snapshot }),
                    Err(Failed::GivenUp) => tracing::info!("a snapshot was given up for another"),
                    Err(Failed::Io(error)) if is_shortage(&error) => {
                        tracing::warn!(%error, "a snapshot cannot be written yet");
                    }
                    Err(Failed::Io(error)) => return Err(error),
                }
            }
            tokio::time::sleep(PAUSE).await;
            self.begun = self.shared.begin(false);
        }
    }
}
