//! What every [`Inventory`] keeps, as one suite that each of them runs.

use std::collections::BTreeSet;

use super::sample;
use crate::{
    Digest, Error, Slot,
    blob::{
        BlobStore, Held, Inventory, Lease, Summaries, Verified, collect, put_bytes, put_verified,
    },
};

/// Runs the suite on a store; panics at the first rule that does not hold.
/// Other blobs may be in the store, none with the suite's seeds, and nobody
/// else may change it meanwhile. It has room for all blobs of the suite.
pub async fn check_inventory(store: &dyn Inventory) {
    summaries_are_those_of_the_list(store).await;
    versions_change_as_blobs_come_and_go(store).await;
    copies_are_read_without_a_use(store).await;
    adopted_copies_keep_their_age_and_lease(store).await;
    what_does_not_match_is_not_adopted(store).await;
    a_renewed_lease_keeps_a_copy(store).await;
    what_is_dropped_is_gone(store).await;
    the_empty_blob_is_held_and_never_listed(store).await;
}

/// Everything that the store holds.
async fn list_all(store: &dyn Inventory) -> Vec<Held> {
    let slots: Vec<Slot> = Slot::all().collect();
    store.list(&slots).await.unwrap()
}

async fn told(store: &dyn Inventory, digest: Digest) -> Option<Held> {
    let held = store.list(&[digest.slot()]).await.unwrap();
    assert!(held.iter().all(|held| held.digest.slot() == digest.slot()));
    held.into_iter().find(|held| held.digest == digest)
}

async fn must_be_told(store: &dyn Inventory, digest: Digest) -> Held {
    let held = told(store, digest).await;
    held.unwrap_or_else(|| panic!("{digest} is not listed"))
}

async fn is_missing(store: &dyn BlobStore, digest: Digest) -> bool {
    let none = Lease { seconds: 0 };
    !store
        .find_missing(&[digest], none)
        .await
        .unwrap()
        .is_empty()
}

/// Whether the store keeps leases, and with them ages.
async fn has_leases(store: &dyn Inventory) -> bool {
    let digest = put_bytes(store, sample(700, 10)).await.unwrap();
    store.find_missing(&[digest], Lease::SHORT).await.unwrap();
    must_be_told(store, digest).await.lease_seconds > 0
}

async fn check_summaries(store: &dyn Inventory) {
    let version = store.version();
    let held = list_all(store).await;
    let mut expected = Summaries::empty(version);
    for held in &held {
        expected.slots[held.digest.slot().index()].add(&held.digest);
    }
    let unique: BTreeSet<Digest> = held.iter().map(|held| held.digest).collect();
    assert_eq!(unique.len(), held.len(), "a blob is listed twice");
    assert!(
        store.summaries() == expected,
        "summaries are not of the list"
    );
}

async fn summaries_are_those_of_the_list(store: &dyn Inventory) {
    check_summaries(store).await;
    let blobs = (710..740).map(|seed| Verified::of(sample(seed, 100 + seed as usize)));
    let blobs: Vec<_> = blobs.collect();
    for answer in store.put_batch(blobs.clone()).await {
        answer.unwrap();
    }
    let large = put_bytes(store, sample(740, (1 << 20) + 1)).await.unwrap();
    check_summaries(store).await;
    let digests = blobs.iter().map(Verified::digest).chain([large]);
    let digests: BTreeSet<Digest> = digests.collect();
    let listed = list_all(store).await;
    let listed: BTreeSet<Digest> = listed.iter().map(|held| held.digest).collect();
    assert!(listed.is_superset(&digests));
    // Just the slots that are asked for, each once.
    let slots: Vec<Slot> = digests.iter().take(5).map(Digest::slot).collect();
    let twice: Vec<Slot> = slots.iter().chain(&slots).copied().collect();
    for held in store.list(&twice).await.unwrap() {
        assert!(slots.contains(&held.digest.slot()));
    }
    assert!(store.list(&[]).await.unwrap().is_empty());
}

async fn versions_change_as_blobs_come_and_go(store: &dyn Inventory) {
    let before = store.version();
    let digest = put_bytes(store, sample(750, 500)).await.unwrap();
    let come = store.version();
    assert_ne!(come, before);
    assert_eq!(store.summaries().version, come);
    put_bytes(store, sample(750, 500)).await.unwrap();
    store.find_missing(&[digest], Lease::SHORT).await.unwrap();
    store.hold(&[must_be_told(store, digest).await]);
    assert_eq!(store.version(), come, "nothing came or went");
    let held = must_be_told(store, digest).await;
    assert_eq!(store.drop_copies(&[held]).await.unwrap(), 1);
    assert_ne!(store.version(), come);
    assert_ne!(store.version(), before);
    check_summaries(store).await;
}

async fn copies_are_read_without_a_use(store: &dyn Inventory) {
    let held = |seed, len| Held {
        digest: Digest::of(&sample(seed, len)),
        idle_seconds: 1_000,
        lease_seconds: 0,
    };
    for (seed, len) in [(760, 3_000), (761, (2 << 20) + 5)] {
        let bytes = sample(seed, len);
        let blob = (Verified::of(bytes.clone()), held(seed, len));
        assert!(store.adopt_batch(vec![blob]).await[0].is_ok());
        let digest = Digest::of(&bytes);
        let before = must_be_told(store, digest).await;
        let stream = store.read(digest).await.unwrap();
        assert!(collect(stream).await.unwrap() == bytes);
        let absent = Digest::of(&sample(769, len));
        let answers = store.read_batch(&[digest, absent, Digest::EMPTY]).await;
        assert!(answers[0].as_ref().unwrap() == &bytes);
        assert!(matches!(answers[1], Err(Error::NotFound(_))));
        assert!(answers[2].as_ref().unwrap().is_empty());
        assert!(matches!(
            store.read(absent).await.err(),
            Some(Error::NotFound(_))
        ));
        let after = must_be_told(store, digest).await;
        assert!(after.idle_seconds >= before.idle_seconds, "{after:?}");
        assert!(after.lease_seconds <= before.lease_seconds, "{after:?}");
    }
}

async fn adopted_copies_keep_their_age_and_lease(store: &dyn Inventory) {
    let has_leases = has_leases(store).await;
    let check = async |expected: Held| {
        let held = must_be_told(store, expected.digest).await;
        if has_leases {
            // Some seconds may pass in between.
            let idle = held.idle_seconds.checked_sub(expected.idle_seconds);
            assert!(idle.is_some_and(|idle| idle < 60), "{held:?} {expected:?}");
            let lease = expected.lease_seconds.checked_sub(held.lease_seconds);
            assert!(
                lease.is_some_and(|lease| lease < 60),
                "{held:?} {expected:?}"
            );
        }
    };
    for (seed, idle_seconds, lease_seconds) in [(770, 0, 0), (772, 90_000, 0), (774, 90_000, 7_000)]
    {
        for (seed, len) in [(seed, 2_000), (seed + 1, (1 << 20) + 77)] {
            let blob = Verified::of(sample(seed, len));
            let held = Held {
                digest: blob.digest(),
                idle_seconds,
                lease_seconds,
            };
            put_verified(store.adopt(held).await.unwrap(), blob.clone())
                .await
                .unwrap();
            check(held).await;
            assert_eq!(store.hold(&[held]), [true]);
            // Again, with a longer lease: the copy that is there takes that over.
            let longer = Held {
                idle_seconds: 0,
                lease_seconds: lease_seconds + 500,
                ..held
            };
            assert!(store.adopt_batch(vec![(blob, longer)]).await[0].is_ok());
            check(Held {
                lease_seconds: longer.lease_seconds,
                ..held
            })
            .await;
        }
    }
}

async fn what_does_not_match_is_not_adopted(store: &dyn Inventory) {
    for (seed, len) in [(780, 900), (781, (1 << 20) + 9)] {
        let digest = Digest::of(&sample(seed, len));
        let held = Held {
            digest,
            idle_seconds: 5,
            lease_seconds: 5,
        };
        let other = Verified::of(sample(seed + 5, len));
        let put = store.adopt(held).await.unwrap();
        let error = put_verified(put, other).await.unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
        assert!(is_missing(store, digest).await);
        assert_eq!(store.hold(&[held]), [false]);
        assert!(told(store, digest).await.is_none());
    }
}

async fn a_renewed_lease_keeps_a_copy(store: &dyn Inventory) {
    if !has_leases(store).await {
        return;
    }
    for (seed, len) in [(790, 900), (791, (1 << 20) + 9)] {
        let blob = Verified::of(sample(seed, len));
        let adopted = Held {
            digest: blob.digest(),
            idle_seconds: 5_000,
            lease_seconds: 100,
        };
        assert!(store.adopt_batch(vec![(blob, adopted)]).await[0].is_ok());
        let held = must_be_told(store, adopted.digest).await;
        assert!(!store.declines(&held), "a leased blob is never declined");
        store
            .find_missing(&[held.digest], Lease::SHORT)
            .await
            .unwrap();
        assert_eq!(store.drop_copies(&[held]).await.unwrap(), 0);
        assert!(!is_missing(store, held.digest).await);
        let held = must_be_told(store, held.digest).await;
        assert!(held.lease_seconds >= Lease::SHORT.seconds);
        assert_eq!(store.drop_copies(&[held]).await.unwrap(), 1);
        assert!(is_missing(store, held.digest).await);
    }
}

async fn what_is_dropped_is_gone(store: &dyn Inventory) {
    let mut held = Vec::new();
    for (seed, len) in [(800, 100), (801, 60_000), (802, (1 << 20) + 1)] {
        let digest = put_bytes(store, sample(seed, len)).await.unwrap();
        held.push(must_be_told(store, digest).await);
    }
    let kept = put_bytes(store, sample(805, 100)).await.unwrap();
    let absent = Held {
        digest: Digest::of(&sample(809, 100)),
        ..held[0]
    };
    held.push(absent);
    assert_eq!(store.hold(&held), [true, true, true, false]);
    assert_eq!(store.drop_copies(&held).await.unwrap(), 3);
    assert_eq!(store.hold(&held), [false; 4]);
    for held in &held {
        assert!(is_missing(store, held.digest).await);
        let read = store.read(held.digest).await.err();
        assert!(matches!(read, Some(Error::NotFound(_))));
    }
    assert!(!is_missing(store, kept).await);
    check_summaries(store).await;
    // What was dropped can come again.
    for (seed, len) in [(800, 100), (802, (1 << 20) + 1)] {
        let digest = put_bytes(store, sample(seed, len)).await.unwrap();
        let stream = store.read(digest).await.unwrap();
        assert!(collect(stream).await.unwrap() == sample(seed, len));
    }
    check_summaries(store).await;
}

async fn the_empty_blob_is_held_and_never_listed(store: &dyn Inventory) {
    let empty = Held {
        digest: Digest::EMPTY,
        idle_seconds: 0,
        lease_seconds: 0,
    };
    assert_eq!(store.hold(&[empty]), [true]);
    put_verified(
        store.adopt(empty).await.unwrap(),
        Verified::of(bytes::Bytes::new()),
    )
    .await
    .unwrap();
    assert_eq!(store.drop_copies(&[empty]).await.unwrap(), 0);
    assert!(told(store, Digest::EMPTY).await.is_none());
}
