//! Refs and what they need: refused, hidden or shown as a whole.

use bytes::Bytes;
use prost::Message;
use tonic::Code;
use weir_cluster::{
    Digest,
    blob::{BlobStore, ByteRange, collect},
    state::Settings,
};
use weir_node::api::ApiConfig;
use weir_proto::{asset::PushBlobRequest, reapi};

use crate::{
    asset::{fetch, fetch_directory, push, push_directory, pusher},
    support::{Server, code, directory, sample, wire},
};

#[tokio::test]
async fn a_push_whose_blob_is_absent_is_refused_by_name() {
    let server = Server::start().await;
    let absent = Digest::of(b"absent");
    let refused = pusher(&server)
        .push_blob(push(&["x"], absent))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains(&absent.to_string()), "{refused}");
    let refused = pusher(&server)
        .push_directory(push_directory(&["x"], absent))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains(&absent.to_string()), "{refused}");
    let no_directory = server.put(Bytes::from_static(b"#!/bin/sh")).await;
    let refused = pusher(&server)
        .push_directory(push_directory(&["x"], no_directory))
        .await;
    assert_eq!(code(refused), Code::InvalidArgument);
    assert_eq!(code(fetch(&server, &["x"]).await), Code::NotFound);
    assert!(server.store.inner.digests() == [no_directory]);
}

#[tokio::test]
async fn a_ref_is_hidden_while_its_closure_has_a_hole() {
    let config = ApiConfig {
        closure_trust_seconds: 0,
        ..ApiConfig::default()
    };
    let server = Server::with(config, Settings::default()).await;
    let file = server.put(sample(1, 100)).await;
    let deep = server.put(sample(2, 2 << 20)).await;
    let below = server.put(directory(&[deep], &[])).await;
    let root = server
        .put(directory(&[file, Digest::EMPTY], &[below]))
        .await;
    let tree_file = server.put(sample(3, 100)).await;
    let tree = reapi::Tree {
        root: Some(reapi::Directory::decode(&directory(&[tree_file], &[])[..]).unwrap()),
        children: vec![],
    };
    let tree = server.put(tree.encode_to_vec()).await;
    let loose = server.put(sample(4, 100)).await;
    let artifact = server.put(sample(5, 300)).await;
    let request = PushBlobRequest {
        references_blobs: vec![
            wire(loose),
            wire(Digest::of(b"a log that was never uploaded")),
        ],
        references_directories: vec![wire(root), wire(tree), wire(Digest::of(b"no buildtree"))],
        ..push(&["artifact"], artifact)
    };
    pusher(&server).push_blob(request).await.unwrap();
    pusher(&server)
        .push_directory(push_directory(&["source"], root))
        .await
        .unwrap();
    assert!(fetch(&server, &["artifact"]).await.is_ok());
    assert_eq!(fetch_directory(&server, "source").await.unwrap(), root);
    for lost in [artifact, loose, tree, tree_file, root, below, deep, file] {
        let stream = server.store.get(lost, ByteRange::ALL).await.unwrap();
        let content = collect(stream).await.unwrap();
        assert!(server.store.inner.remove(lost));
        assert_eq!(
            code(fetch(&server, &["artifact"]).await),
            Code::NotFound,
            "{lost}"
        );
        let source = fetch_directory(&server, "source").await;
        let in_source = [root, below, deep, file].contains(&lost);
        assert_eq!(source.is_err(), in_source, "{lost}");
        server.put(content).await;
        assert!(fetch(&server, &["artifact"]).await.is_ok(), "{lost}");
    }
    // The manifests themselves.
    let named = [artifact, loose, tree, tree_file, root, below, deep, file];
    for manifest in server.store.inner.digests() {
        if !named.contains(&manifest) {
            server.store.inner.remove(manifest);
        }
    }
    assert_eq!(code(fetch(&server, &["artifact"]).await), Code::NotFound);
    assert_eq!(
        code(fetch_directory(&server, "source").await),
        Code::NotFound
    );
}

#[tokio::test]
async fn an_incomplete_hit_gives_way_to_the_next_uri() {
    let server = Server::start().await;
    let (gone, here) = (
        server.put(sample(1, 10)).await,
        server.put(sample(2, 10)).await,
    );
    pusher(&server)
        .push_blob(push(&["strong"], gone))
        .await
        .unwrap();
    pusher(&server)
        .push_blob(push(&["weak"], here))
        .await
        .unwrap();
    server.store.inner.remove(gone);
    let hit = fetch(&server, &["strong", "weak"]).await.unwrap();
    assert_eq!(hit.blob_digest, Some(wire(here)));
}

#[tokio::test]
async fn a_complete_closure_is_asked_for_once_in_a_while() {
    let server = Server::start().await;
    let digest = server.put(sample(1, 10)).await;
    pusher(&server)
        .push_blob(push(&["x"], digest))
        .await
        .unwrap();
    let before = server.store.questions();
    for _ in 0..5 {
        fetch(&server, &["x"]).await.unwrap();
    }
    assert_eq!(server.store.questions(), before + 1);
    // A new revision is another ref.
    pusher(&server)
        .push_blob(push(&["x"], digest))
        .await
        .unwrap();
    let before = server.store.questions();
    fetch(&server, &["x"]).await.unwrap();
    assert_eq!(server.store.questions(), before + 1);
}

#[tokio::test]
async fn a_closure_that_too_few_nodes_confirm_is_unavailable_not_a_miss() {
    let server = Server::start().await;
    let digest = server.put(sample(1, 10)).await;
    pusher(&server)
        .push_blob(push(&["x"], digest))
        .await
        .unwrap();
    server.store.lose_quorum(true);
    assert_eq!(code(fetch(&server, &["x"]).await), Code::Unavailable);
    assert_eq!(
        code(pusher(&server).push_blob(push(&["y"], digest)).await),
        Code::Unavailable
    );
    server.store.lose_quorum(false);
    assert!(fetch(&server, &["x"]).await.is_ok());
}

#[tokio::test]
async fn closures_are_bounded() {
    let config = ApiConfig {
        closure_digests: 10,
        closure_depth: 5,
        ..ApiConfig::default()
    };
    let server = Server::with(config, Settings::default()).await;
    let files: Vec<_> = (0..10u64).map(|n| Digest::of(&n.to_be_bytes())).collect();
    let wide = server.put(directory(&files, &[])).await;
    let mut deep = server.put(directory(&[files[0]], &[])).await;
    for _ in 0..5 {
        deep = server.put(directory(&[], &[deep])).await;
    }
    for digest in [wide, deep] {
        let refused = pusher(&server)
            .push_directory(push_directory(&["x"], digest))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("api.closure_"), "{refused}");
    }
}
