use tonic::{Code, transport::Channel};
use weir_cluster::{Digest, state::Settings};
use weir_node::api::ApiConfig;
use weir_proto::buildstream::v2::{
    GetReferenceRequest, StatusRequest, UpdateReferenceRequest,
    reference_storage_client::ReferenceStorageClient,
};

use crate::support::{Server, code, directory, sample, wire};

fn client(server: &Server) -> ReferenceStorageClient<Channel> {
    ReferenceStorageClient::new(server.channel.clone())
}

fn get(key: &str) -> GetReferenceRequest {
    GetReferenceRequest {
        instance_name: String::new(),
        key: key.into(),
    }
}

fn update(keys: &[&str], digest: Digest) -> UpdateReferenceRequest {
    UpdateReferenceRequest {
        instance_name: String::new(),
        keys: keys.iter().map(|key| (*key).into()).collect(),
        digest: Some(wire(digest)),
    }
}

#[tokio::test]
async fn references_are_kept_with_their_trees() {
    let config = ApiConfig {
        closure_trust_seconds: 0,
        ..ApiConfig::default()
    };
    let server = Server::with(config, Settings::default()).await;
    let file = server.put(sample(1, 10)).await;
    let below = server.put(directory(&[file], &[])).await;
    let root = server.put(directory(&[], &[below])).await;
    let status = client(&server)
        .status(StatusRequest::default())
        .await
        .unwrap();
    assert!(status.into_inner().allow_updates);
    assert_eq!(
        code(client(&server).get_reference(get("p/e/1")).await),
        Code::NotFound
    );
    client(&server)
        .update_reference(update(&["p/e/1", "p/e/2"], root))
        .await
        .unwrap();
    for key in ["p/e/1", "p/e/2"] {
        let answer = client(&server)
            .get_reference(get(key))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.digest, Some(wire(root)));
    }
    server.store.inner.remove(file);
    assert_eq!(
        code(client(&server).get_reference(get("p/e/1")).await),
        Code::NotFound
    );
}

#[tokio::test]
async fn bad_updates_are_refused() {
    let server = Server::start().await;
    let root = server.put(directory(&[Digest::of(b"x")], &[])).await;
    let many: Vec<_> = vec!["k"; 65];
    for (request, expected) in [
        (UpdateReferenceRequest::default(), Code::InvalidArgument),
        (update(&[], root), Code::InvalidArgument),
        (update(&[""], root), Code::InvalidArgument),
        (update(&["k", "\0"], root), Code::InvalidArgument),
        (update(&many, root), Code::InvalidArgument),
        (
            UpdateReferenceRequest {
                digest: None,
                ..update(&["k"], root)
            },
            Code::InvalidArgument,
        ),
        (
            UpdateReferenceRequest {
                instance_name: "/".into(),
                ..update(&["k"], root)
            },
            Code::InvalidArgument,
        ),
        (update(&["k"], Digest::of(b"absent")), Code::NotFound),
    ] {
        assert_eq!(
            code(client(&server).update_reference(request.clone()).await),
            expected,
            "{request:?}"
        );
    }
    assert_eq!(
        code(client(&server).get_reference(get("k")).await),
        Code::NotFound
    );
    assert_eq!(
        code(client(&server).get_reference(get("")).await),
        Code::InvalidArgument
    );
}
