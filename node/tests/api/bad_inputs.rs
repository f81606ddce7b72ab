//! What clients may not do: the exact code, and a store that is as it was.

use bytes::Bytes;
use tonic::{Code, Status};
use weir_cluster::{Digest, state::Settings};
use weir_node::api::ApiConfig;
use weir_proto::{
    asset::{
        FetchBlobRequest, PushBlobRequest, fetch_client::FetchClient, push_client::PushClient,
    },
    bytestream::WriteRequest,
    reapi::{
        self, BatchReadBlobsRequest, BatchUpdateBlobsRequest, FindMissingBlobsRequest,
        batch_update_blobs_request::Request,
        content_addressable_storage_client::ContentAddressableStorageClient as Cas,
    },
};

use crate::{
    bytestream::{message, upload_name, write},
    support::{Server, code, sample, until, wire},
};

const MAX_BLOB_BYTES: u64 = 1 << 20;

pub(crate) async fn server() -> Server {
    let config = ApiConfig {
        max_blob_bytes: MAX_BLOB_BYTES,
        max_batch_bytes: 2 << 20,
        ..ApiConfig::default()
    };
    Server::with(config, Settings::default()).await
}

/// Runs calls that must be refused with one code and leave nothing behind.
pub(crate) async fn check<C, F>(server: &Server, cases: Vec<(&str, C)>, expected: Code, call: F)
where
    F: AsyncFn(C) -> Result<(), Status>,
{
    let before = server.store.inner.digests();
    for (name, case) in cases {
        let got = code(call(case).await);
        assert_eq!(got, expected, "{name}");
        assert_eq!(server.store.inner.digests(), before, "{name}");
    }
    assert_eq!(server.consensus_refs(), 0);
}

impl Server {
    /// Writes that consensus has applied since the cluster was founded.
    fn consensus_refs(&self) -> u64 {
        use weir_cluster::raft::Consensus;
        self.consensus.roles().last_applied - 3
    }
}

#[tokio::test]
async fn bad_uploads() {
    let server = server().await;
    let bytes = sample(1, 1_000);
    let digest = Digest::of(&bytes);
    let name = &upload_name(digest);
    let other = Digest::of(&sample(2, 1_000));
    let big = Digest {
        size: MAX_BLOB_BYTES + 1,
        ..digest
    };
    let half = || message(name, 0, bytes.slice(..500), false);
    let rest = |offset| message("", offset, bytes.slice(500..), true);
    let whole = |name: &str| vec![message(name, 0, bytes.clone(), true)];
    let cases: Vec<(&str, Vec<WriteRequest>)> = vec![
        ("nothing at all", vec![]),
        ("an empty message", vec![WriteRequest::default()]),
        ("no name", whole("")),
        ("other bytes", whole(&upload_name(other))),
        ("too short", vec![message(name, 0, bytes.slice(1..), true)]),
        (
            "too short, in two",
            vec![half(), message("", 500, Bytes::new(), true)],
        ),
        ("too long", vec![message(name, 0, sample(1, 1_001), true)]),
        (
            "too long, in two",
            vec![half(), message("", 500, sample(3, 501), false)],
        ),
        ("never finished", vec![half()]),
        (
            "complete but never finished",
            vec![half(), message("", 500, bytes.slice(500..), false)],
        ),
        ("offset repeated", vec![half(), rest(0)]),
        ("offset too far", vec![half(), rest(501)]),
        (
            "offset negative",
            vec![WriteRequest {
                write_offset: -1,
                ..half()
            }],
        ),
        (
            "offset past the end",
            vec![message(name, 1_001, Bytes::new(), true)],
        ),
        (
            "begins in the middle",
            vec![message(name, 500, bytes.slice(500..), true)],
        ),
        (
            "name changes",
            vec![
                half(),
                WriteRequest {
                    resource_name: upload_name(other),
                    ..rest(500)
                },
            ],
        ),
        ("too big", whole(&upload_name(big))),
        (
            "huge",
            whole(&format!(
                "uploads/u/blobs/{}/{}",
                digest.hash_hex(),
                i64::MAX
            )),
        ),
        (
            "compressed",
            whole(&format!("uploads/u/compressed-blobs/zstd/{digest}")),
        ),
        (
            "another function",
            whole(&format!("uploads/u/blobs/blake3/{digest}")),
        ),
        (
            "size zero, other hash",
            whole(&format!("uploads/u/blobs/{}/0", digest.hash_hex())),
        ),
    ];
    check(&server, cases, Code::InvalidArgument, async |messages| {
        write(&server, messages).await.map(drop)
    })
    .await;
    // All was given up, but what might be gone on with.
    until("uploads are parked", || async {
        server.store.live_uploads() <= 1
    })
    .await;
}

#[tokio::test]
async fn bad_digests() {
    let server = server().await;
    let good = wire(Digest::of(b"good"));
    let bad = |hash: &str, size_bytes| reapi::Digest {
        hash: hash.into(),
        size_bytes,
    };
    let cases = || {
        vec![
            ("nothing", reapi::Digest::default()),
            ("upper case", bad(&good.hash.to_uppercase(), 4)),
            ("short hash", bad(&good.hash[1..], 4)),
            ("hash of SHA-1", bad(&good.hash[..40], 4)),
            ("long hash", bad(&format!("{}0", good.hash), 4)),
            (
                "not hexadecimal",
                bad(&good.hash.replace(|c: char| c.is_ascii_digit(), "g"), 4),
            ),
            (
                "a path",
                bad(
                    "../../../../../../../../../../../../../../../../../etc/passwd0000",
                    4,
                ),
            ),
            ("negative size", bad(&good.hash, -1)),
            ("least size", bad(&good.hash, i64::MIN)),
            ("size zero", bad(&good.hash, 0)),
            ("not ASCII", bad("ééééééééééééééééééééééééééééééééé", 4)),
        ]
    };
    let cas = Cas::new(server.channel.clone());
    check(&server, cases(), Code::InvalidArgument, async |digest| {
        let request = FindMissingBlobsRequest {
            blob_digests: vec![good.clone(), digest],
            ..Default::default()
        };
        cas.clone().find_missing_blobs(request).await.map(drop)
    })
    .await;
    check(&server, cases(), Code::InvalidArgument, async |digest| {
        let request = BatchUpdateBlobsRequest {
            requests: vec![Request {
                digest: Some(digest),
                data: Bytes::from_static(b"good"),
                compressor: 0,
            }],
            ..Default::default()
        };
        one(cas
            .clone()
            .batch_update_blobs(request)
            .await?
            .into_inner()
            .responses
            .remove(0)
            .status)
    })
    .await;
    check(&server, cases(), Code::InvalidArgument, async |digest| {
        let request = BatchReadBlobsRequest {
            digests: vec![digest],
            ..Default::default()
        };
        one(cas
            .clone()
            .batch_read_blobs(request)
            .await?
            .into_inner()
            .responses
            .remove(0)
            .status)
    })
    .await;
    check(&server, cases(), Code::InvalidArgument, async |digest| {
        let request = PushBlobRequest {
            uris: vec!["urn:x".into()],
            blob_digest: Some(digest),
            ..Default::default()
        };
        PushClient::new(server.channel.clone())
            .push_blob(request)
            .await
            .map(drop)
    })
    .await;
}

/// The outcome of one blob as that of a call.
fn one(status: Option<weir_proto::rpc::Status>) -> Result<(), Status> {
    let status = status.expect("each blob has a status");
    match status.code {
        0 => Ok(()),
        code => Err(Status::new(Code::from(code), status.message)),
    }
}

#[tokio::test]
async fn batches_over_the_limits() {
    let server = server().await;
    let cas = Cas::new(server.channel.clone());
    let batch = |sizes: Vec<usize>| {
        let requests = sizes.into_iter().zip(1..).map(|(size, seed)| {
            let data = sample(seed, size);
            Request {
                digest: Some(wire(Digest::of(&data))),
                data,
                compressor: 0,
            }
        });
        requests.collect::<Vec<_>>()
    };
    let cases = vec![
        ("one byte too much", batch(vec![1 << 20, (1 << 20) + 1])),
        ("more than a message", batch(vec![1 << 20; 80])),
        ("too many", vec![Request::default(); 300_000]),
    ];
    check(&server, cases, Code::InvalidArgument, async |requests| {
        let request = BatchUpdateBlobsRequest {
            requests,
            ..Default::default()
        };
        cas.clone().batch_update_blobs(request).await.map(drop)
    })
    .await;
    let big = Digest {
        size: 5 << 20,
        ..Digest::of(b"x")
    };
    let cases = vec![
        ("one too big", vec![wire(big)]),
        (
            "too big in all",
            vec![
                wire(Digest {
                    size: 1 << 20,
                    ..big
                });
                5
            ],
        ),
        (
            "sum beyond all numbers",
            vec![
                wire(Digest {
                    size: i64::MAX as u64,
                    ..big
                });
                3
            ],
        ),
        ("too many", vec![reapi::Digest::default(); 300_000]),
    ];
    check(&server, cases, Code::InvalidArgument, async |digests| {
        let request = BatchReadBlobsRequest {
            digests,
            ..Default::default()
        };
        cas.clone().batch_read_blobs(request).await.map(drop)
    })
    .await;
    // More digests than one message may hold.
    let asked = vec![wire(Digest::of(b"x")); 1_000_000];
    check(
        &server,
        vec![("too many", asked)],
        Code::InvalidArgument,
        async |blob_digests| {
            let request = FindMissingBlobsRequest {
                blob_digests,
                ..Default::default()
            };
            cas.clone().find_missing_blobs(request).await.map(drop)
        },
    )
    .await;
}

#[tokio::test]
async fn unknown_digest_functions() {
    let server = server().await;
    let functions = || {
        (2..=10)
            .chain([-1, i32::MAX])
            .map(|value| ("function", value))
            .collect()
    };
    let cas = Cas::new(server.channel.clone());
    check(
        &server,
        functions(),
        Code::InvalidArgument,
        async |digest_function| {
            let request = FindMissingBlobsRequest {
                digest_function,
                ..Default::default()
            };
            cas.clone().find_missing_blobs(request).await.map(drop)
        },
    )
    .await;
    check(
        &server,
        functions(),
        Code::InvalidArgument,
        async |digest_function| {
            let request = BatchUpdateBlobsRequest {
                digest_function,
                ..Default::default()
            };
            cas.clone().batch_update_blobs(request).await.map(drop)
        },
    )
    .await;
    check(
        &server,
        functions(),
        Code::InvalidArgument,
        async |digest_function| {
            let request = BatchReadBlobsRequest {
                digest_function,
                ..Default::default()
            };
            cas.clone().batch_read_blobs(request).await.map(drop)
        },
    )
    .await;
    check(
        &server,
        functions(),
        Code::InvalidArgument,
        async |digest_function| {
            let request = FetchBlobRequest {
                uris: vec!["urn:x".into()],
                digest_function,
                ..Default::default()
            };
            FetchClient::new(server.channel.clone())
                .fetch_blob(request)
                .await
                .map(drop)
        },
    )
    .await;
}
