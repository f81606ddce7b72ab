//! Full stores.

use std::sync::Arc;

use weir_cluster::{
    Digest, Error,
    blob::{BlobStore, Lease, conformance::sample, put_bytes},
    journal::sim_disk::SimDisk,
};

use super::super::{LocalStore, StoreConfig};

const CAPACITY: u64 = 4 << 20;
const LEN: usize = 10_000;

fn config() -> StoreConfig {
    StoreConfig {
        capacity_bytes: CAPACITY,
        segment_bytes: 64 << 10,
        ..StoreConfig::default()
    }
}

fn open() -> Arc<LocalStore> {
    LocalStore::open(config(), Arc::new(SimDisk::new())).unwrap()
}

/// Puts until one is refused.
async fn fill(store: &LocalStore, seeds: std::ops::Range<u64>) -> (Vec<Digest>, Option<Error>) {
    let mut stored = Vec::new();
    for seed in seeds {
        match put_bytes(store, sample(seed, LEN)).await {
            Ok(digest) => stored.push(digest),
            Err(error) => return (stored, Some(error)),
        }
    }
    (stored, None)
}

fn held(store: &LocalStore, digests: &[Digest]) -> usize {
    let held = digests
        .iter()
        .filter(|digest| store.core.index.contains(digest));
    held.count()
}

#[tokio::test]
async fn leased_blobs_stay_and_new_ones_are_refused() {
    let store = open();
    let (stored, refused) = fill(&store, 0..1000).await;
    let refused = refused.expect("a store has an end");
    assert!(matches!(refused, Error::Exhausted(_)), "{refused}");
    assert!(refused.to_string().contains("leased"), "{refused}");
    assert!(stored.len() > 300, "only {} fit", stored.len());
    assert_eq!(held(&store, &stored), stored.len());
    assert_eq!(store.report().volume, "full");
    // A blob that could never fit evicts nothing.
    store.core.clock.advance(Lease::SHORT.seconds + 10);
    let huge = Digest {
        hash: [1; 32],
        size: 1 << 40,
    };
    assert!(matches!(
        store.put(huge).await.err(),
        Some(Error::Exhausted(_))
    ));
    // (Down to the high-water mark the store may evict at any time.)
    assert!(held(&store, &stored) > stored.len() / 10 * 9);
    // Once the leases are over there is room.
    let (more, refused) = fill(&store, 1000..1010).await;
    assert!(refused.is_none(), "{refused:?}");
    assert_eq!(held(&store, &more), more.len());
    assert!(held(&store, &stored) < stored.len());
}

/// P6: what is agreed for FindMissing holds for uploads and reads as well.
#[tokio::test]
async fn uploads_and_reads_lease_for_as_long_as_is_agreed() {
    let store = open();
    store.set_lease(Lease { seconds: 60 });
    let (stored, refused) = fill(&store, 0..1000).await;
    assert!(refused.is_some());
    store.core.clock.advance(62);
    // Read, and so leased until 122; the others are not any more.
    let read = &stored[..20];
    assert!(store.get_batch(read).await.iter().all(Result::is_ok));
    store.core.clock.advance(50);
    let (new, refused) = fill(&store, 1000..1200).await;
    assert!(refused.is_none(), "{refused:?}");
    assert_eq!(held(&store, &new), new.len());
    assert_eq!(held(&store, read), read.len(), "what was read is leased");
    assert!(held(&store, &stored) < stored.len());

    // Longer or shorter, it is kept in a crash.
    let disk = SimDisk::new();
    let open = || LocalStore::open(config(), Arc::new(disk.clone())).unwrap();
    for seconds in [60, 2 * Lease::SHORT.seconds] {
        let store = open();
        store.set_lease(Lease { seconds });
        let (kept, _) = fill(&store, 0..10).await;
        drop(store);
        let store = open();
        store.set_lease(Lease { seconds });
        store.core.clock.advance(seconds - 10);
        store.clean(u64::MAX);
        assert_eq!(held(&store, &kept), kept.len());
        store.core.clock.advance(20);
        store.clean(u64::MAX);
        assert_eq!(held(&store, &kept), 0);
    }
}

#[tokio::test]
async fn the_least_recently_used_go_first_and_used_ones_move_along() {
    let store = open();
    let (stored, _) = fill(&store, 0..1000).await;
    store.core.clock.advance(Lease::SHORT.seconds + 10);
    let (loved, cold): (Vec<_>, Vec<_>) = stored.iter().partition(|digest| digest.hash[0] < 64);
    // Used but not leased: a second chance is all they have.
    let none = Lease { seconds: 0 };
    assert!(store.find_missing(&loved, none).await.unwrap().is_empty());
    store.core.clock.advance(10);
    let (new, refused) = fill(&store, 1000..1150).await;
    assert!(refused.is_none(), "{refused:?}");
    assert_eq!(held(&store, &loved), loved.len(), "used blobs were evicted");
    assert_eq!(held(&store, &new), new.len());
    assert!(held(&store, &cold) < cold.len());
    for answer in store.get_batch(&loved).await {
        assert_eq!(answer.unwrap().len(), LEN);
    }
}

#[tokio::test]
async fn a_lease_carries_blobs_through_any_number_of_evictions() {
    let store = open();
    let (kept, _) = fill(&store, 0..100).await;
    let mut seed = 10_000;
    for round in 0..8 {
        let (_, _) = fill(&store, seed..seed + 300).await;
        seed += 300;
        store.core.clock.advance(Lease::SHORT.seconds / 2);
        let missing = store.find_missing(&kept, Lease::SHORT).await.unwrap();
        assert!(missing.is_empty(), "round {round}: {missing:?}");
        for (digest, answer) in kept.iter().zip(store.get_batch(&kept).await) {
            assert_eq!(Digest::of(&answer.unwrap()), *digest, "round {round}");
        }
        store.core.clock.advance(Lease::SHORT.seconds / 2);
    }
    assert!(store.report().bytes <= CAPACITY);
}

#[tokio::test]
async fn large_blobs_are_evicted_as_well() {
    let store = open();
    let mut digests = Vec::new();
    for seed in 0..6 {
        digests.push(
            put_bytes(&*store, sample(seed, (1 << 20) + 1))
                .await
                .unwrap(),
        );
        store.core.clock.advance(Lease::SHORT.seconds + 10);
    }
    assert_eq!(held(&store, &digests[..1]), 0, "the oldest went");
    assert_eq!(held(&store, &digests[5..]), 1, "the newest stays");
    assert_eq!(store.report().blobs as usize, held(&store, &digests));
    assert!(store.core.volume.used() <= CAPACITY);
}

#[tokio::test]
async fn leases_survive_a_clean_restart_and_grow_in_a_crash() {
    let disk = SimDisk::new();
    let open = || LocalStore::open(config(), Arc::new(disk.clone())).unwrap();
    let store = open();
    put_bytes(&*store, sample(1, LEN)).await.unwrap();
    put_bytes(&*store, sample(2, LEN)).await.unwrap();
    store.core.clock.advance(Lease::SHORT.seconds + 10);
    let kept = Digest::of(&sample(1, LEN));
    store.find_missing(&[kept], Lease::SHORT).await.unwrap();
    store.close();
    drop(store);
    let store = open();
    assert!(
        store.core.clock.now() > Lease::SHORT.seconds,
        "time went back"
    );
    store.clean(u64::MAX);
    assert_eq!(store.report().blobs, 1, "only the leased one stays");
    drop(store);
    let store = open();
    store.core.clock.advance(Lease::SHORT.seconds - 10);
    store.clean(u64::MAX);
    assert_eq!(store.report().blobs, 1, "leased anew after a crash");
    store.core.clock.advance(Lease::SHORT.seconds + 20);
    store.clean(u64::MAX);
    assert_eq!(store.report().blobs, 0);
}
