//! Random use against a map.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use proptest::prelude::*;
use weir_cluster::{
    Digest, Error,
    blob::{BlobStore, ByteRange, Lease, Verified, collect, conformance::sample, put_bytes},
    journal::sim_disk::SimDisk,
};

use super::super::{LocalStore, StoreConfig};

#[derive(Debug, Clone)]
enum Step {
    Put {
        seed: u64,
        len: usize,
    },
    Batch {
        seed: u64,
        count: u64,
        len: usize,
    },
    Find,
    Read {
        pick: usize,
        offset: u64,
        length: u64,
    },
    Pass {
        seconds: u32,
    },
    Clean {
        bytes: u64,
    },
    Checkpoint,
    Close,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len =
        prop_oneof![8 => 1..2_000usize, 3 => 2_000..70_000usize, 1 => 1_048_000..1_050_000usize];
    let step = prop_oneof![
        6 => (0..40u64, len).prop_map(|(seed, len)| Step::Put { seed, len }),
        3 => (0..40u64, 1..20u64, 1..5_000usize)
            .prop_map(|(seed, count, len)| Step::Batch { seed, count, len }),
        3 => Just(Step::Find),
        4 => (any::<usize>(), 0..80_000u64, 0..80_000u64)
            .prop_map(|(pick, offset, length)| Step::Read { pick, offset, length }),
        2 => (1..20_000u32).prop_map(|seconds| Step::Pass { seconds }),
        2 => (1..300_000u64).prop_map(|bytes| Step::Clean { bytes }),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..60)
}

struct Run {
    disk: SimDisk,
    store: Arc<LocalStore>,
    /// All that was ever stored.
    stored: BTreeMap<Digest, Bytes>,
    /// Those that may not go until that store time.
    leases: BTreeMap<Digest, u32>,
}

fn open(disk: &SimDisk) -> Arc<LocalStore> {
    let config = StoreConfig {
        capacity_bytes: 4 << 20,
        segment_bytes: 32 << 10,
        ..StoreConfig::default()
    };
    LocalStore::open(config, Arc::new(disk.clone())).unwrap()
}

impl Run {
    fn new() -> Self {
        let disk = SimDisk::new();
        let store = open(&disk);
        Self {
            disk,
            store,
            stored: BTreeMap::new(),
            leases: BTreeMap::new(),
        }
    }

    fn lease(&mut self, digest: Digest) {
        let end = self.store.core.clock.now() + Lease::SHORT.seconds;
        self.leases.insert(digest, end);
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Put { seed, len } => {
                let bytes = sample(seed, len);
                let digest = Digest::of(&bytes);
                match put_bytes(&*self.store, bytes.clone()).await {
                    Ok(_) => {
                        self.stored.insert(digest, bytes);
                        self.lease(digest);
                    }
                    Err(Error::Exhausted(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Batch { seed, count, len } => {
                let blobs: Vec<_> = (seed..seed + count)
                    .map(|seed| Verified::of(sample(seed, len)))
                    .collect();
                let answers = self.store.put_batch(blobs.clone()).await;
                assert_eq!(answers.len(), blobs.len());
                for (blob, answer) in blobs.into_iter().zip(answers) {
                    match answer {
                        Ok(()) => {
                            self.lease(blob.digest());
                            self.stored.insert(blob.digest(), blob.into_bytes());
                        }
                        Err(Error::Exhausted(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            Step::Find => self.find().await,
            Step::Read {
                pick,
                offset,
                length,
            } => self.read(pick, offset, length).await,
            Step::Pass { seconds } => self.store.core.clock.advance(seconds),
            Step::Clean { bytes } => {
                self.store.clean(bytes);
            }
            Step::Checkpoint => self.store.write_checkpoint(),
            Step::Close => {
                self.store.close();
                self.reopen();
            }
            Step::Crash => self.reopen(),
        }
    }

    fn reopen(&mut self) {
        let before = self.store.report();
        let now = self.store.core.clock.now();
        // Dropped before the next is opened.
        self.store = open(&SimDisk::new());
        self.store = open(&self.disk);
        let after = self.store.report();
        assert!(after.blobs >= before.blobs, "{before:?} {after:?}");
        // Store time may go back to what was written down; leases do not end
        // sooner for it.
        let back = now.saturating_sub(self.store.core.clock.now());
        for end in self.leases.values_mut() {
            *end = end.saturating_sub(back);
        }
    }

    async fn find(&mut self) {
        let digests: Vec<Digest> = self.stored.keys().copied().collect();
        let now = self.store.core.clock.now();
        let missing = self
            .store
            .find_missing(&digests, Lease::SHORT)
            .await
            .unwrap();
        let missing: BTreeSet<usize> = missing.into_iter().map(|index| index as usize).collect();
        for (index, digest) in digests.into_iter().enumerate() {
            if missing.contains(&index) {
                let lease = self.leases.get(&digest);
                assert!(lease.is_none_or(|end| *end <= now), "{digest} was leased");
                self.stored.remove(&digest);
                self.leases.remove(&digest);
            } else {
                self.lease(digest);
            }
        }
    }

    async fn read(&mut self, pick: usize, offset: u64, length: u64) {
        let Some((digest, bytes)) = self.stored.iter().nth(pick % self.stored.len().max(1)) else {
            return;
        };
        let (digest, bytes) = (*digest, bytes.clone());
        let range = ByteRange { offset, length };
        match self.store.get(digest, range).await {
            Ok(stream) => {
                let end = offset.saturating_add(length).min(digest.size) as usize;
                let read = collect(stream).await.unwrap();
                assert!(read == bytes[offset as usize..end], "{digest} {range:?}");
                self.lease(digest);
            }
            Err(Error::OutOfRange { .. }) => assert!(offset > digest.size),
            Err(Error::NotFound(_)) => {
                let now = self.store.core.clock.now();
                let lease = self.leases.get(&digest);
                assert!(lease.is_none_or(|end| *end <= now), "{digest} was leased");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_is_a_map_that_forgets_only_what_is_not_leased(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new();
            for step in steps {
                run.step(step).await;
            }
            run.find().await;
            for pick in 0..run.stored.len() {
                run.read(pick, 0, u64::MAX).await;
            }
        });
    }
}
