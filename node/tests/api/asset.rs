use tonic::{Code, Status, transport::Channel};
use weir_cluster::{
    Digest,
    state::{ReadMode, Settings},
};
use weir_node::api::ApiConfig;
use weir_proto::asset::{
    FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, PushBlobRequest,
    PushDirectoryRequest, Qualifier, fetch_client::FetchClient, push_client::PushClient,
};

use crate::support::{Server, code, sample, wire};

fn fetcher(server: &Server) -> FetchClient<Channel> {
    FetchClient::new(server.channel.clone())
}

pub(crate) fn pusher(server: &Server) -> PushClient<Channel> {
    PushClient::new(server.channel.clone())
}

fn uris(names: &[&str]) -> Vec<String> {
    names
        .iter()
        .map(|name| format!("urn:fdc:buildstream.build:2020:artifact:{name}"))
        .collect()
}

pub(crate) fn push(names: &[&str], digest: Digest) -> PushBlobRequest {
    PushBlobRequest {
        uris: uris(names),
        blob_digest: Some(wire(digest)),
        ..Default::default()
    }
}

pub(crate) fn push_directory(names: &[&str], digest: Digest) -> PushDirectoryRequest {
    PushDirectoryRequest {
        uris: uris(names),
        root_directory_digest: Some(wire(digest)),
        ..Default::default()
    }
}

pub(crate) async fn fetch(server: &Server, names: &[&str]) -> Result<FetchBlobResponse, Status> {
    let request = FetchBlobRequest {
        uris: uris(names),
        ..Default::default()
    };
    Ok(fetcher(server).fetch_blob(request).await?.into_inner())
}

pub(crate) async fn fetch_directory(server: &Server, name: &str) -> Result<Digest, Status> {
    let request = FetchDirectoryRequest {
        uris: uris(&[name]),
        ..Default::default()
    };
    let digest = fetcher(server)
        .fetch_directory(request)
        .await?
        .into_inner()
        .root_directory_digest;
    let digest = digest.expect("a hit has a digest");
    Ok(Digest::parse(&digest.hash, digest.size_bytes).expect("a good one"))
}

fn time(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("after 1970").as_secs() as i64
}

#[tokio::test]
async fn probes_without_uris_are_invalid_and_nothing_else() {
    let server = Server::start().await;
    // Whatever else is wrong, and whether there is a quorum or not.
    server.consensus.set_quorum(false);
    server.store.lose_quorum(true);
    let invalid = Code::InvalidArgument;
    assert_eq!(
        code(
            fetcher(&server)
                .fetch_blob(FetchBlobRequest::default())
                .await
        ),
        invalid
    );
    assert_eq!(
        code(
            fetcher(&server)
                .fetch_directory(FetchDirectoryRequest::default())
                .await
        ),
        invalid
    );
    assert_eq!(
        code(pusher(&server).push_blob(PushBlobRequest::default()).await),
        invalid
    );
    assert_eq!(
        code(
            pusher(&server)
                .push_directory(PushDirectoryRequest::default())
                .await
        ),
        invalid
    );
}

#[tokio::test]
async fn what_was_pushed_is_found_under_each_uri() {
    let server = Server::start().await;
    let digest = server.put(sample(1, 100)).await;
    assert_eq!(code(fetch(&server, &["strong"]).await), Code::NotFound);
    pusher(&server)
        .push_blob(push(&["strong", "weak"], digest))
        .await
        .unwrap();
    for (asked, answered) in [
        (vec!["strong"], "strong"),
        (vec!["weak"], "weak"),
        (vec!["none", "weak", "strong"], "weak"),
        (vec!["strong", "none"], "strong"),
    ] {
        let hit = fetch(&server, &asked).await.unwrap();
        assert_eq!(hit.blob_digest, Some(wire(digest)));
        assert_eq!(vec![hit.uri], uris(&[answered]));
        assert_eq!(hit.status.unwrap().code, 0);
        assert!(hit.expires_at.unwrap().seconds > now() + 3_600);
        assert_eq!(hit.digest_function, 1);
    }
    // Blobs and directories, instances and qualifiers are kept apart.
    assert_eq!(
        code(fetch_directory(&server, "strong").await),
        Code::NotFound
    );
    for request in [
        FetchBlobRequest {
            instance_name: "other".into(),
            uris: uris(&["strong"]),
            ..Default::default()
        },
        FetchBlobRequest {
            uris: uris(&["strong"]),
            qualifiers: vec![Qualifier {
                name: "a".into(),
                value: "b".into(),
            }],
            ..Default::default()
        },
    ] {
        assert_eq!(
            code(fetcher(&server).fetch_blob(request).await),
            Code::NotFound
        );
    }
    // A later push of one URI leaves the other.
    let newer = server.put(sample(2, 100)).await;
    pusher(&server)
        .push_blob(push(&["strong"], newer))
        .await
        .unwrap();
    assert_eq!(
        fetch(&server, &["strong"]).await.unwrap().blob_digest,
        Some(wire(newer))
    );
    assert_eq!(
        fetch(&server, &["weak"]).await.unwrap().blob_digest,
        Some(wire(digest))
    );
}

#[tokio::test]
async fn qualifiers_match_in_any_order() {
    let server = Server::start().await;
    let digest = server.put(sample(1, 100)).await;
    let qualifier = |name: &str| Qualifier {
        name: name.into(),
        value: format!("{name} value"),
    };
    let request = PushBlobRequest {
        qualifiers: vec![qualifier("b"), qualifier("a")],
        ..push(&["x"], digest)
    };
    pusher(&server).push_blob(request).await.unwrap();
    let request = FetchBlobRequest {
        uris: uris(&["x"]),
        qualifiers: vec![qualifier("a"), qualifier("b")],
        ..Default::default()
    };
    let hit = fetcher(&server)
        .fetch_blob(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(hit.qualifiers, [qualifier("a"), qualifier("b")]);
}

#[tokio::test]
async fn expired_and_too_old_refs_are_misses() {
    let server = Server::start().await;
    let digest = server.put(sample(1, 10)).await;
    for (name, expire_at, found) in [
        ("long", now() + 600, true),
        ("past", now() - 600, false),
        ("zero", 0, false),
    ] {
        let request = PushBlobRequest {
            expire_at: time(expire_at),
            ..push(&[name], digest)
        };
        pusher(&server).push_blob(request).await.unwrap();
        let outcome = fetch(&server, &[name]).await;
        match outcome {
            Ok(hit) if found => assert_eq!(hit.expires_at, time(expire_at)),
            outcome => assert_eq!(code(outcome), Code::NotFound, "{name}"),
        }
    }
    for (oldest, expected) in [
        (now() - 3_600, None),
        (now() + 3_600, Some(Code::NotFound)),
        (-1, Some(Code::InvalidArgument)),
    ] {
        let request = FetchBlobRequest {
            uris: uris(&["long"]),
            oldest_content_accepted: time(oldest),
            ..Default::default()
        };
        let outcome = fetcher(&server).fetch_blob(request).await;
        assert_eq!(
            outcome.err().map(|status| status.code()),
            expected,
            "{oldest}"
        );
    }
}

#[tokio::test]
async fn available_reads_serve_hits_without_a_quorum_and_confirm_misses() {
    let server = Server::start().await;
    let digest = server.put(sample(1, 10)).await;
    pusher(&server)
        .push_blob(push(&["x"], digest))
        .await
        .unwrap();
    fetch(&server, &["x"]).await.unwrap();
    assert_eq!(server.consensus.barriers(), 0);
    assert_eq!(code(fetch(&server, &["none"]).await), Code::NotFound);
    assert_eq!(server.consensus.barriers(), 1);
    server.consensus.set_quorum(false);
    fetch(&server, &["x"]).await.unwrap();
    assert_eq!(code(fetch(&server, &["none"]).await), Code::Unavailable);
    assert_eq!(
        code(pusher(&server).push_blob(push(&["y"], digest)).await),
        Code::Unavailable
    );
}

#[tokio::test]
async fn linearizable_reads_all_pass_a_barrier() {
    let settings = Settings {
        ref_reads: ReadMode::Linearizable,
        ..Settings::default()
    };
    let server = Server::with(ApiConfig::default(), settings).await;
    let digest = server.put(sample(1, 10)).await;
    pusher(&server)
        .push_blob(push(&["x"], digest))
        .await
        .unwrap();
    fetch(&server, &["x"]).await.unwrap();
    assert_eq!(code(fetch(&server, &["none"]).await), Code::NotFound);
    assert_eq!(server.consensus.barriers(), 2);
    server.consensus.set_quorum(false);
    assert_eq!(code(fetch(&server, &["x"]).await), Code::Unavailable);
}
