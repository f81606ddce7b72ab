use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use tonic::Code;
use weir_cluster::Digest;
use weir_proto::reapi::{
    GetTreeRequest, GetTreeResponse,
    content_addressable_storage_client::ContentAddressableStorageClient as Client,
};

use crate::support::{Server, code, directory, sample, wire};

async fn pages(server: &Server, request: GetTreeRequest) -> Vec<GetTreeResponse> {
    let mut client = Client::new(server.channel.clone());
    let mut stream = client.get_tree(request).await.unwrap().into_inner();
    let mut pages = Vec::new();
    while let Some(page) = stream.message().await.unwrap() {
        pages.push(page);
    }
    pages
}

fn digests(pages: &[GetTreeResponse]) -> Vec<Digest> {
    let directories = pages.iter().flat_map(|page| &page.directories);
    directories
        .map(|directory| Digest::of(&directory.encode_to_vec()))
        .collect()
}

/// A tree of 1 + 10 + 10 * 5 directories, of which some are the same.
async fn plant(server: &Server) -> (Digest, BTreeSet<Digest>) {
    let mut all = BTreeSet::new();
    let mut middle = Vec::new();
    for m in 0..10u64 {
        let mut leaves = Vec::new();
        for l in 0..5u64 {
            let file = Digest::of(&(m % 7 * 5 + l).to_be_bytes());
            leaves.push(server.put(directory(&[file], &[])).await);
        }
        middle.push(server.put(directory(&[], &leaves)).await);
        all.extend(leaves);
    }
    let root = server.put(directory(&[], &middle)).await;
    all.extend(middle);
    all.insert(root);
    (root, all)
}

#[tokio::test]
async fn a_tree_comes_in_pages_each_directory_once() {
    let server = Server::start().await;
    let (root, all) = plant(&server).await;
    for page_size in [0, 1, 7, 1_000_000] {
        let request = GetTreeRequest {
            root_digest: Some(wire(root)),
            page_size,
            ..Default::default()
        };
        let whole = pages(&server, request.clone()).await;
        let sent = digests(&whole);
        assert_eq!(sent[0], root);
        assert_eq!(sent.len(), all.len());
        assert_eq!(sent.iter().copied().collect::<BTreeSet<_>>(), all);
        let (last, others) = whole.split_last().unwrap();
        assert_eq!(last.next_page_token, "");
        let mut passed = 0;
        for page in others {
            assert!(page_size == 0 || page.directories.len() <= page_size as usize);
            passed += page.directories.len();
            let rest = GetTreeRequest {
                page_token: page.next_page_token.clone(),
                ..request.clone()
            };
            let rest = pages(&server, rest).await;
            assert_eq!(digests(&rest), sent[passed..], "from {passed}");
        }
    }
}

#[tokio::test]
async fn absent_directories_are_left_out_but_for_the_root() {
    let server = Server::start().await;
    let leaf = server.put(directory(&[Digest::of(b"x")], &[])).await;
    let root = server
        .put(directory(&[], &[Digest::of(b"away"), leaf]))
        .await;
    let request = |digest| GetTreeRequest {
        root_digest: Some(wire(digest)),
        ..Default::default()
    };
    assert_eq!(digests(&pages(&server, request(root)).await), [root, leaf]);
    let empty = pages(&server, request(Digest::EMPTY)).await;
    assert_eq!(digests(&empty), [Digest::EMPTY]);
    let absent = Client::new(server.channel.clone())
        .get_tree(request(Digest::of(b"away")))
        .await;
    assert_eq!(code(absent.map(drop)), Code::NotFound);
}

#[tokio::test]
async fn trees_that_repeat_themselves_end() {
    let server = Server::start().await;
    let mut last = server.put(directory(&[Digest::of(b"x")], &[])).await;
    for _ in 0..60 {
        last = server.put(directory(&[], &[last; 3])).await;
    }
    let request = GetTreeRequest {
        root_digest: Some(wire(last)),
        ..Default::default()
    };
    assert_eq!(digests(&pages(&server, request).await).len(), 61);
}

#[tokio::test]
async fn what_is_no_directory_is_refused() {
    let server = Server::start().await;
    let no_directory = server.put(Bytes::from_static(b"#!/bin/sh\necho\n")).await;
    let huge = server.put(sample(1, 4 << 20)).await;
    let (root, _) = plant(&server).await;
    let good = GetTreeRequest {
        root_digest: Some(wire(root)),
        ..Default::default()
    };
    let before = server.store.inner.digests();
    for request in [
        GetTreeRequest::default(),
        GetTreeRequest {
            root_digest: Some(wire(no_directory)),
            ..good.clone()
        },
        GetTreeRequest {
            root_digest: Some(wire(huge)),
            ..good.clone()
        },
        GetTreeRequest {
            page_size: -1,
            ..good.clone()
        },
        GetTreeRequest {
            page_token: "0".into(),
            ..good.clone()
        },
        GetTreeRequest {
            page_token: "-4".into(),
            ..good.clone()
        },
        GetTreeRequest {
            page_token: "99999999999999999999".into(),
            ..good.clone()
        },
        GetTreeRequest {
            page_token: "../..".into(),
            ..good.clone()
        },
        GetTreeRequest {
            digest_function: 9,
            ..good.clone()
        },
        GetTreeRequest {
            instance_name: "a//b".into(),
            ..good.clone()
        },
    ] {
        let outcome = Client::new(server.channel.clone())
            .get_tree(request.clone())
            .await;
        assert_eq!(
            code(outcome.map(drop)),
            Code::InvalidArgument,
            "{request:?}"
        );
    }
    assert_eq!(server.store.inner.digests(), before);
}
