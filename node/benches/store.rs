//! How fast the local store is, beside what the machine itself can do.
//!
//! `cargo bench -p weir-node --bench store`

#![allow(clippy::print_stdout, reason = "a bench prints what it measures")]

use std::{
    fs::File,
    hint::black_box,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use weir_cluster::{
    Digest,
    blob::{BlobStore, ByteRange, Lease, Verified, collect, conformance::sample, put_bytes},
    journal::disk::RealDisk,
};
use weir_node::store::{Durability, LocalStore, StoreConfig};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds of blobs, so that none comes twice.
static SEED: AtomicU64 = AtomicU64::new(1);

fn open(dir: &TempDir, durability: Durability) -> Arc<LocalStore> {
    let config = StoreConfig {
        capacity_bytes: 40 << 30,
        durability,
        ..StoreConfig::default()
    };
    LocalStore::open(config, Arc::new(RealDisk::new(dir.path()))).unwrap()
}

fn fresh(len: usize) -> Bytes {
    sample(SEED.fetch_add(1, Relaxed), len)
}

fn machine(c: &mut Criterion) {
    let mut group = c.benchmark_group("machine");
    let bytes = fresh(64 << 20);
    group.sample_size(10);
    group.throughput(Throughput::Bytes(64 << 20));
    group.bench_function("sha256 64 MiB", |b| {
        b.iter(|| Digest::of(black_box(&bytes)))
    });
    let dir = tempfile::tempdir().unwrap();
    group.bench_function("write 64 MiB + fdatasync", |b| {
        b.iter(|| {
            let file = File::create(dir.path().join("large")).unwrap();
            for (chunk, at) in bytes.chunks(1 << 20).zip((0..).step_by(1 << 20)) {
                file.write_all_at(chunk, at).unwrap();
            }
            file.sync_data().unwrap();
        });
    });
    group.throughput(Throughput::Elements(256));
    let file = File::create(dir.path().join("log")).unwrap();
    let mut at = 0;
    group.bench_function("append 4 KiB + fdatasync, 256 times", |b| {
        b.iter(|| {
            for chunk in bytes.chunks(4096).take(256) {
                file.write_all_at(chunk, at).unwrap();
                file.sync_data().unwrap();
                at += 4096;
            }
        });
    });
    group.finish();
}

fn small(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, Durability::Fsync);
    let mut group = c.benchmark_group("small");
    group.sample_size(10);
    group.throughput(Throughput::Elements(32 * 16));
    group.bench_function("put 4 KiB, 32 writers of 16", |b| {
        b.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let blobs: Vec<Vec<Bytes>> = (0..32)
                    .map(|_| (0..16).map(|_| fresh(4096)).collect())
                    .collect();
                let begun = Instant::now();
                runtime.block_on(async {
                    let writers = blobs.into_iter().map(|blobs| {
                        let store = store.clone();
                        tokio::spawn(async move {
                            for bytes in blobs {
                                put_bytes(&*store, bytes).await.unwrap();
                            }
                        })
                    });
                    for writer in writers.collect::<Vec<_>>() {
                        writer.await.unwrap();
                    }
                });
                took += begun.elapsed();
            }
            took
        });
    });
    group.throughput(Throughput::Elements(100));
    group.bench_function("put a batch of 100 of 4 KiB", |b| {
        b.iter_batched(
            || {
                (0..100)
                    .map(|_| Verified::of(fresh(4096)))
                    .collect::<Vec<_>>()
            },
            |blobs| {
                for answer in runtime.block_on(store.put_batch(blobs)) {
                    answer.unwrap();
                }
            },
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn large(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, Durability::Fsync);
    let mut group = c.benchmark_group("large");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(64 << 20));
    let mut last = None;
    group.bench_function("put 64 MiB", |b| {
        b.iter_batched(
            || {
                let bytes = fresh(64 << 20);
                (Digest::of(&bytes), bytes)
            },
            |(digest, mut rest)| {
                runtime.block_on(async {
                    let weir_cluster::blob::Put::Upload(mut upload) =
                        store.put(digest).await.unwrap()
                    else {
                        panic!("present though never stored");
                    };
                    while !rest.is_empty() {
                        upload.write(rest.split_to(1 << 20)).await.unwrap();
                    }
                    upload.commit().await.unwrap();
                });
                last = Some(digest);
            },
            criterion::BatchSize::PerIteration,
        );
    });
    let digest = last.unwrap();
    group.bench_function("get 64 MiB", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let stream = store.get(digest, ByteRange::ALL).await.unwrap();
                collect(stream).await.unwrap()
            })
        });
    });
    group.finish();
}

fn million(c: &mut Criterion) {
    const BLOBS: u64 = 1_000_000;
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, Durability::Os);
    let mut digests = Vec::new();
    runtime.block_on(async {
        for batch in 0..BLOBS / 10_000 {
            let blobs: Vec<_> = (0..10_000u64)
                .map(|index| Verified::of((batch * 10_000 + index).to_le_bytes().to_vec().into()))
                .collect();
            digests.extend(blobs.iter().map(Verified::digest));
            for answer in store.put_batch(blobs).await {
                answer.unwrap();
            }
        }
    });
    store.close();
    drop(store);
    let before = resident_bytes();
    let begun = Instant::now();
    let store = open(&dir, Durability::Os);
    let took = begun.elapsed();
    assert_eq!(store.report().blobs, BLOBS);
    let grown = resident_bytes().saturating_sub(before);
    println!(
        "open with {BLOBS} blobs: {took:.3?}, {} bytes of memory a blob",
        grown / BLOBS
    );
    let mut group = c.benchmark_group("index");
    group.throughput(Throughput::Elements(10_000));
    let mut at = 0;
    group.bench_function("find 10,000 of 1,000,000", |b| {
        b.iter(|| {
            at = (at + 10_007) % (digests.len() - 10_000);
            let wanted = &digests[at..at + 10_000];
            runtime
                .block_on(store.find_missing(wanted, Lease::SHORT))
                .unwrap()
        });
    });
    group.finish();
    // Without the checkpoint, from the segments.
    store.close();
    drop(store);
    std::fs::remove_file(dir.path().join("index.checkpoint")).unwrap();
    let begun = Instant::now();
    let store = open(&dir, Durability::Os);
    println!("open without a checkpoint: {:.3?}", begun.elapsed());
    assert_eq!(store.report().blobs, BLOBS);
}

/// Memory of this process, by /proc/self/statm.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

criterion_group!(benches, machine, small, large, million);
criterion_main!(benches);
