//! What a client gets from real nodes: one, and three with R=3 and W=2, all on
//! this machine, every write durable.
//!
//! Prints one table. Figures are to be read as ratios to the machine's own
//! limits, which are measured in the same run. With three nodes the same cores
//! carry each blob three times.

#![allow(clippy::print_stdout, reason = "the table is what a benchmark is for")]

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use weir_cluster::Digest;
use weir_proto::{
    asset::{
        FetchBlobRequest, PushBlobRequest, fetch_client::FetchClient, push_client::PushClient,
    },
    bytestream::{ReadRequest, WriteRequest, byte_stream_client::ByteStreamClient},
    reapi::{
        self, BatchReadBlobsRequest, BatchUpdateBlobsRequest, FindMissingBlobsRequest,
        batch_update_blobs_request::Request as Update,
        content_addressable_storage_client::ContentAddressableStorageClient as CasClient,
    },
};

/// How long each line is measured at most; writes end sooner, when what was made
/// for them beforehand is used up.
const MEASURED: Duration = Duration::from_secs(3);

const LARGE: usize = 64 << 20;
const SMALL: usize = 4 << 10;
const BATCH: usize = 100;

/// `weir dev`, stopped with its nodes when dropped.
struct Dev(Child);

/// Nodes as processes of their own.
struct Nodes {
    _dev: Dev,
    channel: Channel,
    _dir: TempDir,
}

impl Nodes {
    async fn start(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let dev = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["dev", "--base-port", "0", "--nodes", &count.to_string()])
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let dev = Dev(dev);
        let client = wait_for_url(&dir.path().join("dev.json")).await;
        let channel = Endpoint::from_shared(client)
            .unwrap()
            .tcp_nodelay(true)
            .http2_adaptive_window(true)
            .connect()
            .await
            .unwrap();
        Self {
            _dev: dev,
            channel,
            _dir: dir,
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

async fn wait_for_url(file: &Path) -> String {
    let began = Instant::now();
    loop {
        if let Ok(text) = std::fs::read(file) {
            let dev: Value = serde_json::from_slice(&text).unwrap();
            return dev["nodes"][0]["client"].as_str().unwrap().to_owned();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "no nodes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Content that no other call has made.
fn unique(len: usize) -> Bytes {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut state = NEXT
        .fetch_add(1, Ordering::Relaxed)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = len.div_ceil(8);
    let mut bytes = Vec::with_capacity(words * 8);
    for _ in 0..words {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

fn wire(digest: Digest) -> reapi::Digest {
    reapi::Digest {
        hash: digest.hash_hex(),
        size_bytes: digest.size as i64,
    }
}

fn cas(channel: &Channel) -> CasClient<Channel> {
    CasClient::new(channel.clone()).max_decoding_message_size(64 << 20)
}

async fn write_large(channel: &Channel, blob: Bytes, digest: Digest) {
    let name = format!("uploads/bench/blobs/{}/{}", digest.hash_hex(), digest.size);
    let len = blob.len();
    let messages = (0..len).step_by(256 << 10).map(move |offset| {
        let end = (offset + (256 << 10)).min(len);
        WriteRequest {
            resource_name: if offset == 0 {
                name.clone()
            } else {
                String::new()
            },
            write_offset: offset as i64,
            finish_write: end == len,
            data: blob.slice(offset..end),
        }
    });
    let mut client = ByteStreamClient::new(channel.clone());
    let answer = client.write(stream::iter(messages)).await.unwrap();
    assert_eq!(answer.into_inner().committed_size, len as i64);
}

async fn read_large(channel: &Channel, digest: Digest) {
    let request = ReadRequest {
        resource_name: format!("blobs/{}/{}", digest.hash_hex(), digest.size),
        ..ReadRequest::default()
    };
    let mut client = ByteStreamClient::new(channel.clone());
    let mut answers = client.read(request).await.unwrap().into_inner();
    let mut total = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        total += answer.data.len();
    }
    assert_eq!(total as u64, digest.size);
}

async fn update(channel: &Channel, blobs: Vec<(Digest, Bytes)>) {
    let requests = blobs.into_iter().map(|(digest, data)| Update {
        digest: Some(wire(digest)),
        data,
        ..Update::default()
    });
    let request = BatchUpdateBlobsRequest {
        requests: requests.collect(),
        ..BatchUpdateBlobsRequest::default()
    };
    let answer = cas(channel)
        .batch_update_blobs(request)
        .await
        .unwrap()
        .into_inner();
    let ok = |answer: &reapi::batch_update_blobs_response::Response| {
        answer.status.as_ref().is_none_or(|status| status.code == 0)
    };
    assert!(answer.responses.iter().all(ok));
}

/// Runs `call` again and again, so many at once; calls a second. What `prepare`
/// makes is made beforehand and not measured.
async fn rate<T, F: Future<Output = ()>>(
    at_once: usize,
    most: usize,
    mut prepare: impl FnMut() -> T,
    call: impl Fn(T) -> F,
) -> f64 {
    let prepared: Vec<_> = (0..most).map(|_| prepare()).collect();
    let began = Instant::now();
    let mut done = 0;
    let mut calls = stream::iter(prepared).map(call).buffer_unordered(at_once);
    while calls.next().await.is_some() {
        done += 1;
        if began.elapsed() > MEASURED {
            break;
        }
    }
    f64::from(done) / began.elapsed().as_secs_f64()
}

const LINES: [(&str, &str); 7] = [
    ("ByteStream.Write 64 MiB", "MiB/s"),
    ("ByteStream.Read 64 MiB", "MiB/s"),
    ("BatchUpdateBlobs 100 x 4 KiB, 8 at once", "blobs/s"),
    ("BatchReadBlobs 100 x 4 KiB, 8 at once", "blobs/s"),
    ("FindMissingBlobs 10,000 digests, 2 at once", "digests/s"),
    ("PushBlob, 16 at once", "calls/s"),
    ("FetchBlob, 16 at once", "calls/s"),
];

async fn measure(count: usize) -> [f64; 7] {
    let nodes = Nodes::start(count).await;
    let channel = &nodes.channel;
    let mib = LARGE as f64 / f64::from(1 << 20);
    let large = |_: ()| {
        let blob = unique(LARGE);
        (Digest::of(&blob), blob)
    };
    let kept = large(());
    write_large(channel, kept.1.clone(), kept.0).await;
    let writes = rate(
        1,
        8,
        || large(()),
        |(digest, blob)| write_large(channel, blob, digest),
    );
    let write = writes.await * mib;
    let read = rate(1, 64, || (), |()| read_large(channel, kept.0)).await * mib;

    let small = || -> Vec<_> {
        let blobs = std::iter::repeat_with(|| unique(SMALL)).take(BATCH);
        blobs.map(|blob| (Digest::of(&blob), blob)).collect()
    };
    let known: Vec<_> = (0..BATCH).map(|_| small()).collect();
    for batch in &known {
        update(channel, batch.clone()).await;
    }
    let updates = rate(8, 600, small, |blobs| update(channel, blobs)).await;
    let reads = rate(
        8,
        100_000,
        || (),
        |()| async {
            let digests = known[0].iter().map(|(digest, _)| wire(*digest));
            let request = BatchReadBlobsRequest {
                digests: digests.collect(),
                ..BatchReadBlobsRequest::default()
            };
            let answer = cas(channel).batch_read_blobs(request).await.unwrap();
            let blobs = answer.into_inner().responses;
            assert!(blobs.iter().all(|blob| blob.data.len() == SMALL));
            assert_eq!(blobs.len(), BATCH);
        },
    );
    let reads = reads.await;
    let all = known.iter().flatten().map(|(digest, _)| wire(*digest));
    let question = FindMissingBlobsRequest {
        blob_digests: all.collect(),
        ..FindMissingBlobsRequest::default()
    };
    let asked = question.blob_digests.len() as f64;
    // The client makes and sends 700 KiB a call, on the same cores.
    let finds = rate(
        2,
        100_000,
        || (),
        |()| async {
            let answer = cas(channel)
                .find_missing_blobs(question.clone())
                .await
                .unwrap();
            assert!(answer.into_inner().missing_blob_digests.is_empty());
        },
    );
    let finds = finds.await;

    let digest = known[0][0].0;
    let mut number = 0;
    let uri = || {
        number += 1;
        format!("urn:bench:{number}")
    };
    let pushes = rate(16, 100_000, uri, |uri| async {
        let request = PushBlobRequest {
            uris: vec![uri],
            blob_digest: Some(wire(digest)),
            ..PushBlobRequest::default()
        };
        PushClient::new(channel.clone())
            .push_blob(request)
            .await
            .unwrap();
    });
    let pushes = pushes.await;
    let fetches = rate(
        16,
        500_000,
        || (),
        |()| async {
            let request = FetchBlobRequest {
                uris: vec!["urn:bench:1".into()],
                ..FetchBlobRequest::default()
            };
            FetchClient::new(channel.clone())
                .fetch_blob(request)
                .await
                .unwrap();
        },
    );
    let fetches = fetches.await;
    let batch = BATCH as f64;
    [
        write,
        read,
        updates * batch,
        reads * batch,
        finds * asked,
        pushes,
        fetches,
    ]
}

/// SHA-256 of 64 MiB on one core, in MiB/s.
fn sha256() -> f64 {
    let blob = unique(LARGE);
    let began = Instant::now();
    std::hint::black_box(Digest::of(&blob));
    LARGE as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64()
}

/// 4 KiB records appended in groups of 256, each group synced: records a second.
fn appended(dir: PathBuf) -> f64 {
    let mut file = File::create(dir.join("log")).unwrap();
    let group = unique(256 * SMALL);
    let began = Instant::now();
    let mut records = 0.0;
    while began.elapsed() < Duration::from_secs(1) {
        file.write_all(&group).unwrap();
        file.sync_data().unwrap();
        records += 256.0;
    }
    records / began.elapsed().as_secs_f64()
}

/// One TCP stream over loopback in writes of 256 KiB, in MiB/s.
fn loopback() -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut receiver = listener.accept().unwrap().0;
    let total = 1 << 30;
    let began = Instant::now();
    let sending = std::thread::spawn(move || {
        let piece = vec![7; 256 << 10];
        for _ in 0..total / piece.len() {
            sender.write_all(&piece).unwrap();
        }
    });
    let mut buffer = vec![0; 256 << 10];
    while receiver.read(&mut buffer).unwrap() > 0 {}
    sending.join().unwrap();
    total as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64()
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let (sha, log, tcp) = (sha256(), appended(dir.path().into()), loopback());
    println!(
        "machine: SHA-256 {sha:.0} MiB/s a core, synced log {log:.0} records of 4 KiB a second, loopback {tcp:.0} MiB/s"
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (one, three) = runtime.block_on(async { (measure(1).await, measure(3).await) });
    println!(
        "{:<44} {:>10} {:>12} {:>12}  one node to the machine",
        "", "", "one node", "three nodes"
    );
    for (line, (name, unit)) in LINES.iter().enumerate() {
        let limit = match line {
            0 => Some(("SHA-256", sha)),
            1 => Some(("loopback", tcp)),
            2 => Some(("synced log", log)),
            _ => None,
        };
        let ratio = limit.map_or(String::new(), |(what, limit)| {
            format!("{:.2} of {what}", one[line] / limit)
        });
        println!(
            "{name:<44} {unit:>10} {:>12.0} {:>12.0}  {ratio}",
            one[line], three[line]
        );
    }
}
