use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};
use weir_cluster::{Digest, state::Settings};
use weir_node::api::ApiConfig;
use weir_proto::bytestream::{
    QueryWriteStatusRequest, ReadRequest, WriteRequest, byte_stream_client::ByteStreamClient,
};

use crate::support::{Server, code, sample, until};

pub(crate) fn client(server: &Server) -> ByteStreamClient<Channel> {
    ByteStreamClient::new(server.channel.clone())
}

pub(crate) fn upload_name(digest: Digest) -> String {
    format!("main/uploads/3b9a4b3e-2b5c-4f7e-9d0e-111111111111/blobs/{digest}")
}

pub(crate) fn message(name: &str, offset: usize, data: Bytes, finish: bool) -> WriteRequest {
    WriteRequest {
        resource_name: name.into(),
        write_offset: offset as i64,
        finish_write: finish,
        data,
    }
}

/// The messages of an upload from `offset` on, in pieces of `piece` bytes.
pub(crate) fn messages(
    name: &str,
    bytes: &Bytes,
    offset: usize,
    piece: usize,
) -> Vec<WriteRequest> {
    let mut messages = Vec::new();
    let mut at = offset;
    while at < bytes.len() || messages.is_empty() {
        let end = (at + piece).min(bytes.len());
        // The name comes in the first message only.
        let name = if messages.is_empty() { name } else { "" };
        messages.push(message(name, at, bytes.slice(at..end), end == bytes.len()));
        at = end;
    }
    messages
}

pub(crate) async fn write(server: &Server, messages: Vec<WriteRequest>) -> Result<i64, Status> {
    let answer = client(server).write(tokio_stream::iter(messages)).await?;
    Ok(answer.into_inner().committed_size)
}

pub(crate) async fn read(
    server: &Server,
    name: &str,
    offset: i64,
    limit: i64,
) -> Result<Vec<u8>, Status> {
    let request = ReadRequest {
        resource_name: name.into(),
        read_offset: offset,
        read_limit: limit,
    };
    let mut stream = client(server).read(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = stream.message().await? {
        assert!(answer.data.len() <= 2 << 20);
        all.extend_from_slice(&answer.data);
    }
    Ok(all)
}

pub(crate) async fn status(server: &Server, name: &str) -> (i64, bool) {
    let request = QueryWriteStatusRequest {
        resource_name: name.into(),
    };
    let answer = client(server)
        .query_write_status(request)
        .await
        .unwrap()
        .into_inner();
    (answer.committed_size, answer.complete)
}

#[tokio::test]
async fn what_was_written_is_read_back() {
    let server = Server::start().await;
    for (seed, size, piece) in [
        (1, 0, 100),
        (2, 1, 100),
        (3, 10_000, 999),
        (4, 3 << 20, 1 << 20),
        (5, 9_000_001, 4 << 20),
    ] {
        let bytes = sample(seed, size);
        let digest = Digest::of(&bytes);
        let name = upload_name(digest);
        let committed = write(&server, messages(&name, &bytes, 0, piece))
            .await
            .unwrap();
        assert_eq!(committed, size as i64);
        assert_eq!(status(&server, &name).await, (size as i64, true));
        for name in [
            format!("blobs/{digest}"),
            format!("/a/b/blobs/{digest}"),
            format!("{digest}"),
        ] {
            assert!(
                read(&server, &name, 0, 0).await.unwrap() == bytes,
                "{size} bytes"
            );
        }
    }
    assert_eq!(server.store.inner.digests().len(), 4);
    until("no upload is live", || async {
        server.store.live_uploads() == 0
    })
    .await;
}

#[tokio::test]
async fn ranges_are_exact() {
    let server = Server::start().await;
    let size = (2 << 20) + 321;
    let bytes = sample(1, size);
    let digest = server.put(bytes.clone()).await;
    let name = format!("blobs/{digest}");
    for (offset, limit) in [
        (0, 1),
        (5, 0),
        (1 << 20, 7),
        (1_048_570, 1 << 20),
        (size - 1, 99),
        (size, 0),
        (size, 9),
    ] {
        let end = if limit == 0 {
            size
        } else {
            (offset + limit).min(size)
        };
        let got = read(&server, &name, offset as i64, limit as i64)
            .await
            .unwrap();
        assert!(got == bytes[offset..end], "{offset} {limit}");
    }
    for (offset, limit, expected) in [
        (size as i64 + 1, 0, Code::OutOfRange),
        (-1, 0, Code::OutOfRange),
        (0, -1, Code::InvalidArgument),
    ] {
        assert_eq!(code(read(&server, &name, offset, limit).await), expected);
    }
    let absent = format!("blobs/{}", Digest::of(b"absent"));
    assert_eq!(code(read(&server, &absent, 0, 0).await), Code::NotFound);
}

#[tokio::test]
async fn a_present_blob_is_answered_before_it_is_sent() {
    let server = Server::start().await;
    let bytes = sample(1, 3_000_000);
    let digest = server.put(bytes.clone()).await;
    // The stream never ends: an answer can only come early.
    let (sender, receiver) = mpsc::channel(4);
    sender
        .send(message(&upload_name(digest), 0, bytes.slice(..10), false))
        .await
        .unwrap();
    let answer = client(&server)
        .write(ReceiverStream::new(receiver))
        .await
        .unwrap();
    assert_eq!(answer.into_inner().committed_size, 3_000_000);
    drop(sender);
}

#[tokio::test]
async fn a_client_may_be_read_to_its_end_before_the_early_answer() {
    let config = ApiConfig {
        drain_bytes: 64 << 20,
        ..ApiConfig::default()
    };
    let server = Server::with(config, Settings::default()).await;
    let bytes = sample(1, 3_000_000);
    let digest = server.put(bytes.clone()).await;
    let (sender, receiver) = mpsc::channel(1);
    let sending = tokio::spawn(async move {
        for message in messages(&upload_name(digest), &bytes, 0, 100_000) {
            sender.send(message).await.expect("the server reads on");
        }
    });
    let answer = client(&server)
        .write(ReceiverStream::new(receiver))
        .await
        .unwrap();
    assert_eq!(answer.into_inner().committed_size, 3_000_000);
    sending.await.unwrap();
}

#[tokio::test]
async fn the_same_blob_may_be_sent_by_many_at_once() {
    let server = Server::start().await;
    let bytes = sample(1, 500_000);
    let digest = Digest::of(&bytes);
    let mut uploads = tokio::task::JoinSet::new();
    for client_number in 0..100 {
        let mut client = client(&server);
        let name = format!("uploads/{client_number}/blobs/{digest}");
        let messages = messages(&name, &bytes, 0, 50_000);
        uploads.spawn(async move { client.write(tokio_stream::iter(messages)).await });
    }
    for outcome in uploads.join_all().await {
        assert_eq!(outcome.unwrap().into_inner().committed_size, 500_000);
    }
    assert_eq!(server.store.inner.digests(), [digest]);
    let gone = || async { server.store.live_uploads() == 0 };
    tokio::time::timeout(Duration::from_secs(10), until("no upload is live", gone))
        .await
        .unwrap();
}

#[tokio::test]
async fn clients_that_do_not_read_cannot_use_up_the_memory() {
    let config = ApiConfig {
        memory_bytes: 4 << 20,
        overload_patience_seconds: 1,
        ..ApiConfig::default()
    };
    let server = Server::with(config, Settings::default()).await;
    let digest = server.put(sample(1, 3 << 20)).await;
    let name = format!("blobs/{digest}");
    let request = ReadRequest {
        resource_name: name.clone(),
        ..Default::default()
    };
    let mut unread = Vec::new();
    for _ in 0..30 {
        unread.push(client(&server).read(request.clone()).await.unwrap());
    }
    let other = server.another_channel().await;
    let mut client = ByteStreamClient::new(other);
    let mut stream = client.read(request).await.unwrap().into_inner();
    let refused = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some(), "memory for all"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(unread);
    assert_eq!(read(&server, &name, 0, 0).await.unwrap().len(), 3 << 20);
}
