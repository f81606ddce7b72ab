//! What the services cost by themselves: a store that answers at once, requests
//! that are encoded beforehand, answers that are not decoded.
//!
//! Figures are to be read as ratios: `sha256` is what the machine hashes on one
//! core in the same run.

use std::{hint::black_box, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::{StreamExt, stream};
use prost::Message;
use tokio::runtime::Runtime;
use tonic::{
    Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint, server::TcpIncoming},
};
use weir_cluster::{
    Digest, Error, NodeId,
    blob::{BlobStore, BlobStream, ByteRange, CHUNK_BYTES, Lease, Put, Verified},
    raft::memory::MemoryConsensus,
};
use weir_node::api::{self, ApiConfig, ApiParts};
use weir_proto::{bytestream::ReadRequest, reapi};

/// Has every blob, all zeros.
struct Zeros(Bytes);

#[async_trait]
impl BlobStore for Zeros {
    async fn find_missing(&self, digests: &[Digest], _: Lease) -> Result<Vec<u32>, Error> {
        black_box(digests);
        Ok(Vec::new())
    }

    async fn get(&self, digest: Digest, range: ByteRange) -> Result<BlobStream, Error> {
        let range = range.within(digest)?;
        let mut rest = (range.end - range.start) as usize;
        let zeros = self.0.clone();
        Ok(Box::pin(stream::iter(std::iter::from_fn(move || {
            let length = rest.min(CHUNK_BYTES);
            rest -= length;
            (length > 0).then(|| Ok(zeros.slice(..length)))
        }))))
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let zeros = |digest: &Digest| Ok(self.0.slice(..digest.size as usize));
        digests.iter().map(zeros).collect()
    }

    async fn put(&self, _: Digest) -> Result<Put, Error> {
        Ok(Put::Present)
    }

    async fn put_batch(&self, blobs: Vec<Verified>) -> Vec<Result<(), Error>> {
        blobs.iter().map(|_| Ok(())).collect()
    }
}

/// Messages as the bytes that they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        target.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = source.remaining();
        source.advance(length);
        Ok(Some(length))
    }
}

async fn serve() -> Channel {
    let parts = ApiParts {
        store: Arc::new(Zeros(Bytes::from(vec![0; CHUNK_BYTES]))),
        consensus: Arc::new(MemoryConsensus::empty(NodeId(1))),
        config: ApiConfig::default(),
    };
    let api = api::services(parts).await.expect("descriptors are whole");
    let address = "127.0.0.1:0".parse().expect("an address");
    let incoming = TcpIncoming::bind(address)
        .expect("a port is free")
        .with_nodelay(Some(true));
    let address = incoming.local_addr().expect("it is bound");
    tokio::spawn(
        tonic::transport::Server::builder()
            .http2_adaptive_window(Some(true))
            .max_frame_size(Some(1 << 20))
            .add_routes(api.routes)
            .serve_with_incoming(incoming),
    );
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a good URL");
    let endpoint = endpoint
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20);
    endpoint.connect().await.expect("the server listens")
}

const CAS: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage";

/// Sends one request and reads all of the answer: its bytes.
async fn call(channel: Channel, path: String, message: Bytes) -> usize {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(usize::MAX);
    grpc.ready().await.expect("connected");
    let path = path.parse().expect("a good path");
    let answer = grpc
        .server_streaming(tonic::Request::new(message), path, Raw)
        .await;
    let mut messages = answer.expect("served").into_inner();
    let mut total = 0;
    while let Some(length) = messages.next().await {
        total += length.expect("served to its end");
    }
    total
}

fn wire(digest: Digest) -> reapi::Digest {
    reapi::Digest {
        hash: digest.hash_hex(),
        size_bytes: digest.size as i64,
    }
}

fn digests(count: u64, size: u64) -> Vec<reapi::Digest> {
    let digest = |n: u64| Digest {
        size,
        ..Digest::of(&n.to_be_bytes())
    };
    (0..count).map(|n| wire(digest(n))).collect()
}

fn find_missing(c: &mut Criterion, runtime: &Runtime, channel: &Channel) {
    let mut group = c.benchmark_group("find_missing");
    for count in [1, 200, 10_000] {
        let request = reapi::FindMissingBlobsRequest {
            blob_digests: digests(count, 4_096),
            ..Default::default()
        };
        let message = Bytes::from(request.encode_to_vec());
        group.throughput(Throughput::Elements(count * 8));
        group.bench_function(format!("{count} digests, 8 in flight"), |b| {
            b.to_async(runtime).iter(|| async {
                let calls = (0..8).map(|_| {
                    call(
                        channel.clone(),
                        format!("{CAS}/FindMissingBlobs"),
                        message.clone(),
                    )
                });
                futures::future::join_all(calls).await
            });
        });
    }
    group.finish();
}

fn batches(c: &mut Criterion, runtime: &Runtime, channel: &Channel) {
    let mut group = c.benchmark_group("batch");
    let blobs = (0..100u32).map(|n| {
        let data = Bytes::from(n.to_be_bytes().repeat(1_024));
        reapi::batch_update_blobs_request::Request {
            digest: Some(wire(Digest::of(&data))),
            data,
            compressor: 0,
        }
    });
    let update = reapi::BatchUpdateBlobsRequest {
        requests: blobs.collect(),
        ..Default::default()
    };
    let read = reapi::BatchReadBlobsRequest {
        digests: digests(100, 4_096),
        ..Default::default()
    };
    for (name, message) in [
        ("BatchUpdateBlobs", Bytes::from(update.encode_to_vec())),
        ("BatchReadBlobs", Bytes::from(read.encode_to_vec())),
    ] {
        group.throughput(Throughput::Elements(800));
        group.bench_function(format!("{name}, 100 of 4 KiB, 8 in flight"), |b| {
            b.to_async(runtime).iter(|| async {
                let calls =
                    (0..8).map(|_| call(channel.clone(), format!("{CAS}/{name}"), message.clone()));
                futures::future::join_all(calls).await
            });
        });
    }
    group.finish();
}

fn reads(c: &mut Criterion, runtime: &Runtime, channel: &Channel) {
    let mut group = c.benchmark_group("read");
    for (size, calls) in [(64u64 << 20, 1u64), (64 << 20, 4), (1 << 20, 8)] {
        let digest = Digest {
            size,
            ..Digest::of(b"zeros")
        };
        let request = ReadRequest {
            resource_name: format!("blobs/{digest}"),
            ..Default::default()
        };
        let message = Bytes::from(request.encode_to_vec());
        group.throughput(Throughput::Bytes(size * calls));
        group.bench_function(format!("{} MiB, {calls} in flight", size >> 20), |b| {
            b.to_async(runtime).iter(|| async {
                let path = "/google.bytestream.ByteStream/Read";
                let calls = (0..calls).map(|_| call(channel.clone(), path.into(), message.clone()));
                futures::future::join_all(calls).await
            });
        });
    }
    group.finish();
}

fn sha256(c: &mut Criterion) {
    let zeros = vec![0; 1 << 20];
    let mut group = c.benchmark_group("machine");
    group.throughput(Throughput::Bytes(1 << 20));
    group.bench_function("sha256", |b| b.iter(|| Digest::of(black_box(&zeros))));
    group.finish();
}

fn all(c: &mut Criterion) {
    let runtime = Runtime::new().expect("threads can be made");
    let channel = runtime.block_on(serve());
    sha256(c);
    find_missing(c, &runtime, &channel);
    batches(c, &runtime, &channel);
    reads(c, &runtime, &channel);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = all
}
criterion_main!(benches);
