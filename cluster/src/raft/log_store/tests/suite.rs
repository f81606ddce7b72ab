//! openraft's own tests of stores, on the log and the state machine.

use std::{io, path::PathBuf, sync::Arc};

use futures::Stream;
use openraft::{
    RaftSnapshotBuilder, StorageError,
    alias::SnapshotOf,
    storage::{EntryResponder, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
};

use crate::{
    journal::{
        disk::{Disk, read_exact_at, replace_file},
        sim_disk::SimDisk,
    },
    raft::{
        applied::past_of,
        log_store::LogStore,
        state_machine::StateMachine,
        types::{LogId, Snapshot, SnapshotFile, SnapshotMeta, StoredMembership, TypeConfig},
    },
};

#[tokio::test]
async fn openraft_is_content() {
    Suite::test_all(Stores).await.unwrap();
}

struct Stores;

impl StoreBuilder<TypeConfig, LogStore, Portable, tempfile::TempDir> for Stores {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, Portable), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let disk = SimDisk::new();
        let mut store = super::open(&disk, 2000).unwrap();
        let past = past_of(&mut store).await.unwrap();
        let inner = StateMachine::open(dir.path(), Arc::new(disk.clone()), past).unwrap();
        Ok((dir, store, Portable { inner, disk }))
    }
}

/// Something with the disk that its snapshots are on. The suite hands snapshots
/// from one node to another, as the network does; so here they are bytes.
struct Portable<T = StateMachine> {
    inner: T,
    disk: SimDisk,
}

type PortableSnapshot = SnapshotOf<TypeConfig, Vec<u8>>;

impl<T> Portable<T> {
    fn pack(&self, snapshot: Snapshot) -> io::Result<PortableSnapshot> {
        let file = self.disk.open(&snapshot.snapshot.path)?;
        Ok(PortableSnapshot {
            meta: snapshot.meta,
            snapshot: read_exact_at(&*file, snapshot.snapshot.len as usize, 0)?,
        })
    }
}

impl<T: RaftSnapshotBuilder<TypeConfig, SnapshotData = SnapshotFile>>
    RaftSnapshotBuilder<TypeConfig> for Portable<T>
{
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<PortableSnapshot, io::Error> {
        let built = self.inner.build_snapshot().await?;
        self.pack(built)
    }
}

impl RaftStateMachine<TypeConfig> for Portable {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder =
        Portable<<StateMachine as RaftStateMachine<TypeConfig>>::SnapshotBuilder>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.inner.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        self.inner.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Portable {
            inner: self.inner.get_snapshot_builder().await,
            disk: self.disk.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Vec<u8>,
    ) -> Result<(), io::Error> {
        let path = PathBuf::from("received");
        replace_file(&self.disk, &path, &snapshot)?;
        let len = snapshot.len() as u64;
        let file = SnapshotFile { path, len };
        self.inner.install_snapshot(meta, file).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<PortableSnapshot>, io::Error> {
        let current = self.inner.get_current_snapshot().await?;
        current.map(|current| self.pack(current)).transpose()
    }
}
