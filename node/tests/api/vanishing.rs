//! Clients that vanish or fall silent in the middle of an upload.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use weir_cluster::{Digest, state::Settings};
use weir_node::api::ApiConfig;
use weir_proto::bytestream::WriteResponse;

use crate::{
    bytestream::{client, message, messages, read, status, upload_name, write},
    support::{Server, code, sample, until},
};

/// Sends the first `sent` bytes of an upload and vanishes.
async fn vanish(server: &Server, name: &str, bytes: &Bytes, sent: usize) {
    let (sender, receiver) = mpsc::channel(4);
    sender
        .send(message(name, 0, bytes.slice(..sent), false))
        .await
        .unwrap();
    let mut client = client(server);
    let call = tokio::spawn(async move { client.write(ReceiverStream::new(receiver)).await });
    until("the upload has begun", || async {
        server.store.live_uploads() == 1
    })
    .await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    drop(sender);
}

#[tokio::test]
async fn an_upload_goes_on_where_it_stood_when_its_client_vanished() {
    let server = Server::start().await;
    let bytes = sample(1, 1_000_000);
    let digest = Digest::of(&bytes);
    let name = upload_name(digest);
    assert_eq!(status(&server, &name).await, (0, false));
    vanish(&server, &name, &bytes, 300_000).await;
    until("it is parked", || async {
        status(&server, &name).await == (300_000, false)
    })
    .await;
    // Another name is another upload, and another offset is none.
    assert_eq!(status(&server, &format!("other/{name}")).await, (0, false));
    let wrong = write(&server, messages(&name, &bytes, 300_001, 500_000)).await;
    assert_eq!(code(wrong), Code::InvalidArgument);
    vanish(&server, &name, &bytes, 300_000).await;
    until("it is parked", || async {
        status(&server, &name).await == (300_000, false)
    })
    .await;
    let committed = write(&server, messages(&name, &bytes, 300_000, 500_000))
        .await
        .unwrap();
    assert_eq!(committed, 1_000_000);
    assert_eq!(status(&server, &name).await, (1_000_000, true));
    assert!(
        read(&server, &format!("blobs/{digest}"), 0, 0)
            .await
            .unwrap()
            == bytes
    );
    // A client that asks late and resends the end finds it done.
    assert_eq!(
        write(&server, messages(&name, &bytes, 900_000, 500_000))
            .await
            .unwrap(),
        1_000_000
    );
}

#[tokio::test]
async fn nothing_is_left_of_an_upload_that_nobody_goes_on_with() {
    let config = ApiConfig {
        resume_seconds: 1,
        ..ApiConfig::default()
    };
    let server = Server::with(config, Settings::default()).await;
    let bytes = sample(1, 1_000_000);
    let name = upload_name(Digest::of(&bytes));
    vanish(&server, &name, &bytes, 300_000).await;
    until("it is given up", || async {
        server.store.live_uploads() == 0
    })
    .await;
    assert_eq!(status(&server, &name).await, (0, false));
    assert!(server.store.inner.digests().is_empty());
}

#[tokio::test]
async fn starting_over_gives_up_what_was_parked() {
    let server = Server::start().await;
    let bytes = sample(1, 1_000_000);
    let name = upload_name(Digest::of(&bytes));
    vanish(&server, &name, &bytes, 300_000).await;
    until("it is parked", || async {
        status(&server, &name).await == (300_000, false)
    })
    .await;
    assert_eq!(
        write(&server, messages(&name, &bytes, 0, 400_000))
            .await
            .unwrap(),
        1_000_000
    );
    until("no upload is live", || async {
        server.store.live_uploads() == 0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_falls_silent_is_cut_off() {
    let config = ApiConfig {
        stall_seconds: 1,
        resume_seconds: 1,
        ..ApiConfig::default()
    };
    let server = Server::with(config, Settings::default()).await;
    let bytes = sample(1, 1_000_000);
    let (sender, receiver) = mpsc::channel(4);
    let first = message(
        &upload_name(Digest::of(&bytes)),
        0,
        bytes.slice(..10),
        false,
    );
    sender.send(first).await.unwrap();
    let answer: Result<tonic::Response<WriteResponse>, _> =
        client(&server).write(ReceiverStream::new(receiver)).await;
    assert_eq!(code(answer), Code::Aborted);
    until("it is given up", || async {
        server.store.live_uploads() == 0
    })
    .await;
    drop(sender);
}
