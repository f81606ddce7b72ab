//! What repair asks, and what becomes of it on the disk.

use std::{path::Path, sync::Arc};

use weir_cluster::{
    Digest, Error, Slot,
    blob::{
        BlobStore, Held, Inventory, Lease, Verified, conformance::sample, put_bytes, put_verified,
    },
    journal::{disk::Disk, sim_disk::SimDisk},
};

use super::{
    super::{LocalStore, StoreConfig, files, segments},
    small,
};

const CAPACITY: u64 = 4 << 20;
const LEN: usize = 10_000;
/// Leases of clients are over.
const LATER: u32 = Lease::SHORT.seconds + 10;

fn open_on(disk: &SimDisk) -> Arc<LocalStore> {
    let config = StoreConfig {
        capacity_bytes: CAPACITY,
        ..small()
    };
    LocalStore::open(config, Arc::new(disk.clone())).unwrap()
}

async fn list(store: &LocalStore) -> Vec<Held> {
    let slots: Vec<Slot> = Slot::all().collect();
    store.list(&slots).await.unwrap()
}

async fn told(store: &LocalStore, digest: Digest) -> Held {
    let mut held = store.list(&[digest.slot()]).await.unwrap();
    held.retain(|held| held.digest == digest);
    held.pop().unwrap()
}

fn copy(seed: u64, idle_seconds: u32, lease_seconds: u32) -> (Verified, Held) {
    let blob = Verified::of(sample(seed, LEN));
    let held = Held {
        digest: blob.digest(),
        idle_seconds,
        lease_seconds,
    };
    (blob, held)
}

async fn adopt(store: &LocalStore, copy: &(Verified, Held)) -> Result<(), Error> {
    store.adopt_batch(vec![copy.clone()]).await.remove(0)
}

fn is_here(store: &LocalStore, digest: &Digest) -> bool {
    store.core.index.contains(digest)
}

#[tokio::test]
async fn summaries_last_through_a_restart_and_versions_do_not() {
    let disk = SimDisk::new();
    let store = open_on(&disk);
    for seed in 0..30 {
        put_bytes(&*store, sample(seed, LEN)).await.unwrap();
    }
    put_bytes(&*store, sample(30, (1 << 20) + 1)).await.unwrap();
    let before = store.summaries();
    for close in [true, false] {
        if close {
            store.close();
        }
        let store = open_on(&disk);
        let after = store.summaries();
        assert!(after.slots == before.slots, "closed: {close}");
        assert_ne!(after.version.opened, before.version.opened);
    }
}

/// Moves are no change of content: they must have nobody compare again.
#[tokio::test]
async fn only_what_comes_and_goes_changes_the_version() {
    let store = open_on(&SimDisk::new());
    let mut kept = Vec::new();
    for seed in 0..60 {
        let digest = put_bytes(&*store, sample(seed, LEN)).await.unwrap();
        if seed % 3 == 0 {
            kept.push(digest);
        }
    }
    store.core.clock.advance(LATER);
    store.find_missing(&kept, Lease::SHORT).await.unwrap();
    assert_eq!(store.version().changes, 60);
    let place = store.core.index.locate(&kept[0]);
    store.clean(u64::MAX);
    assert_ne!(store.core.index.locate(&kept[0]), place, "nothing moved");
    let gone = 60 - store.report().blobs;
    assert!(gone > 20, "only {gone} of 60 went");
    assert_eq!(store.version().changes, 60 + gone);
    let summaries = store.summaries();
    let blobs: u32 = summaries.slots.iter().map(|summary| summary.blobs).sum();
    assert_eq!(u64::from(blobs), store.report().blobs);
    let live = store.core.index.counts().live();
    let live: u64 = live.iter().map(|(_, blobs)| blobs).sum();
    assert_eq!(live, store.report().blobs);
}

#[tokio::test]
async fn after_a_crash_copies_are_told_as_leased_and_may_be_dropped() {
    let disk = SimDisk::new();
    let store = open_on(&disk);
    let digest = put_bytes(&*store, sample(1, LEN)).await.unwrap();
    store.core.clock.advance(LATER);
    store.write_checkpoint();
    assert_eq!(told(&store, digest).await.lease_seconds, 0);
    drop(store);
    let store = open_on(&disk);
    let held = told(&store, digest).await;
    assert!(held.lease_seconds >= Lease::SHORT.seconds, "{held:?}");
    assert!(!store.declines(&held));
    store.clean(u64::MAX);
    assert!(is_here(&store, &digest), "the floor holds it");
    assert_eq!(store.drop_copies(&[held]).await.unwrap(), 1);
}

/// The space of a drained node comes back though nothing is pushed to it.
#[tokio::test]
async fn what_was_dropped_leaves_the_disk() {
    let disk = SimDisk::new();
    let store = open_on(&disk);
    for seed in 0..100 {
        put_bytes(&*store, sample(seed, LEN)).await.unwrap();
    }
    let large = put_bytes(&*store, sample(100, (1 << 20) + 1))
        .await
        .unwrap();
    let kept = Digest::of(&sample(0, LEN));
    let segment_files = || disk.list(Path::new(segments::DIR)).unwrap().len();
    assert!(segment_files() > 10);
    let mut held = list(&store).await;
    held.retain(|held| held.digest != kept);
    assert_eq!(store.drop_copies(&held).await.unwrap(), 100);
    assert!(disk.open(&files::path(&large)).is_err());
    // Answered by the keeper after it has looked at what was dropped.
    store.core.keeper.make_room(1, None).await.unwrap();
    // The first segment, and the one that grows.
    assert_eq!(segment_files(), 2);
    assert!(store.core.volume.used() < 150_000);
    let bytes = store.read_batch(&[kept]).await.remove(0).unwrap();
    assert_eq!(Digest::of(&bytes), kept);
    // Closed, nothing is left of the second.
    store.close();
    drop(store);
    let store = open_on(&disk);
    assert_eq!(store.report().blobs, 1);
}

#[tokio::test]
async fn a_small_copy_that_was_dropped_may_come_back_in_a_crash() {
    let disk = SimDisk::new();
    let store = open_on(&disk);
    let digest = put_bytes(&*store, sample(1, LEN)).await.unwrap();
    let held = told(&store, digest).await;
    assert_eq!(store.drop_copies(&[held]).await.unwrap(), 1);
    drop(store);
    let store = open_on(&disk);
    let held = told(&store, digest).await;
    assert_eq!(store.drop_copies(&[held]).await.unwrap(), 1);
    store.write_checkpoint();
    drop(store);
    assert!(
        !is_here(&open_on(&disk), &digest),
        "the checkpoint forgot it"
    );
}

#[tokio::test]
async fn a_closed_or_fenced_store_claims_nothing() {
    let disk = SimDisk::new();
    let store = open_on(&disk);
    put_bytes(&*store, sample(1, LEN)).await.unwrap();
    let held = list(&store).await;
    assert_eq!(store.hold(&held), [true]);
    disk.fail_sync(1);
    assert!(put_bytes(&*store, sample(2, LEN)).await.is_err());
    assert_eq!(store.hold(&held), [false]);
    assert!(matches!(
        store.drop_copies(&held).await,
        Err(Error::Fenced(_))
    ));
    let store = open_on(&SimDisk::new());
    put_bytes(&*store, sample(1, LEN)).await.unwrap();
    store.close();
    assert_eq!(store.hold(&held), [false]);
    assert!(adopt(&store, &copy(3, 0, 0)).await.is_err());
}

/// A client's put that falls into one group with an adoption of the same blob
/// must have its lease, whichever came first.
#[tokio::test]
async fn a_put_beside_an_adoption_has_its_lease() {
    let store = open_on(&SimDisk::new());
    for seed in 0..50 {
        let copy = copy(seed, 9_000, 0);
        let put = put_bytes(&*store, sample(seed, LEN));
        let (adopted, put) = match seed % 2 {
            0 => tokio::join!(adopt(&store, &copy), put),
            _ => {
                let (put, adopted) = tokio::join!(put, adopt(&store, &copy));
                (adopted, put)
            }
        };
        adopted.unwrap();
        let held = told(&store, put.unwrap()).await;
        assert!(held.lease_seconds >= Lease::SHORT.seconds, "{held:?}");
    }
}

/// Fills a store up to its high-water mark with blobs of which each was used
/// `step` seconds after the one before it; their leases are over.
async fn fill(store: &LocalStore, step: u32) -> Vec<Digest> {
    let mut stored = Vec::new();
    for seed in 10_000.. {
        let bytes = LEN as u64 + 500;
        if store.core.volume.used() + bytes > store.core.volume.high_water() {
            break;
        }
        stored.push(put_bytes(store, sample(seed, LEN)).await.unwrap());
        store.core.clock.advance(step);
    }
    store.core.clock.advance(LATER);
    stored
}

#[tokio::test]
async fn an_old_copy_takes_room_from_older_blobs_only() {
    let store = open_on(&SimDisk::new());
    let stored = fill(&store, 100).await;
    let oldest = told(&store, stored[0]).await.idle_seconds;
    // Older than all: there is no room, and from then on it is declined.
    let old = copy(1, oldest + 1_000, 0);
    assert!(!store.declines(&old.1), "nothing was evicted yet");
    let refused = adopt(&store, &old).await.unwrap_err();
    assert!(matches!(refused, Error::Exhausted(_)), "{refused}");
    assert!(store.declines(&old.1));
    assert!(stored.iter().all(|digest| is_here(&store, digest)));
    // In between: older ones go, later ones do not.
    let middle = told(&store, stored[stored.len() / 2]).await.idle_seconds;
    let copy_of_then = copy(2, middle, 0);
    assert!(!store.declines(&copy_of_then.1));
    adopt(&store, &copy_of_then).await.unwrap();
    assert!(!is_here(&store, &stored[0]), "the oldest went");
    for digest in &stored[stored.len() / 2..] {
        assert!(is_here(&store, digest), "used later than the copy");
    }
    // What went is declined, as it was; not if it were leased or used later.
    let gone = Held {
        digest: stored[0],
        idle_seconds: oldest + 5,
        lease_seconds: 0,
    };
    assert!(store.declines(&gone));
    for other in [
        Held {
            lease_seconds: 1,
            ..gone
        },
        Held {
            idle_seconds: 0,
            ..gone
        },
    ] {
        assert!(!store.declines(&other), "{other:?}");
    }
    // A leased copy is admitted at the cost of any that is not.
    adopt(&store, &copy(3, oldest + 9_000, 50)).await.unwrap();
    // Once there is room again, nothing is declined.
    let held = list(&store).await;
    store.drop_copies(&held[..held.len() / 2]).await.unwrap();
    // Answered by the keeper after it has looked at what was dropped.
    store.core.keeper.make_room(1, None).await.unwrap();
    store.clean(CAPACITY);
    assert!(!store.declines(&gone));
    adopt(&store, &copy(1, oldest + 1_000, 0)).await.unwrap();
}

/// Two full stores that hold different blobs and offer them to each other come
/// to rest: nothing moves for ever between eviction and repair.
#[tokio::test]
async fn full_stores_that_offer_to_each_other_come_to_rest() {
    let (left, right) = (open_on(&SimDisk::new()), open_on(&SimDisk::new()));
    for (store, seeds) in [(&left, 0..400), (&right, 200..600)] {
        for seed in seeds {
            store.core.clock.advance(60);
            // The first evictions begin when leases of 3 h are over.
            let _ = put_bytes(&**store, sample(seed, LEN)).await;
        }
        store.core.clock.advance(LATER);
    }
    let mut moved = Vec::new();
    for _ in 0..12 {
        let mut adopted = 0;
        for (from, to) in [(&left, &right), (&right, &left)] {
            let held = list(from).await;
            let here = to.hold(&held);
            for (held, here) in held.iter().zip(here) {
                if here || to.declines(held) {
                    continue;
                }
                let Ok(bytes) = from.read_batch(&[held.digest]).await.remove(0) else {
                    continue;
                };
                let put = to.adopt(*held).await;
                let put = match put {
                    Ok(put) => put_verified(put, Verified::of(bytes)).await,
                    Err(error) => Err(error),
                };
                match put {
                    Ok(()) => adopted += 1,
                    Err(Error::Exhausted(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        moved.push(adopted);
        if adopted == 0 {
            break;
        }
    }
    assert_eq!(moved.last(), Some(&0), "{moved:?}");
}
