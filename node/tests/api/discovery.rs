use tonic::{Code, client::Grpc};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use weir_proto::reapi::{
    ActionResult, GetActionResultRequest, action_cache_client::ActionCacheClient,
};

use crate::support::Server;

#[tokio::test]
async fn every_service_is_serving() {
    let server = Server::start().await;
    let mut health = HealthClient::new(server.channel.clone());
    for service in [
        "",
        "google.bytestream.ByteStream",
        "build.bazel.remote.execution.v2.ContentAddressableStorage",
        "build.bazel.remote.asset.v1.Fetch",
    ] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{service}");
    }
}

async fn ask(server: &Server, request: MessageRequest) -> MessageResponse {
    let mut client = ServerReflectionClient::new(server.channel.clone());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await;
    let answer = answers
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    answer.message_response.unwrap()
}

#[tokio::test]
async fn reflection_shows_what_clients_may_call() {
    let server = Server::start().await;
    let MessageResponse::ListServicesResponse(list) =
        ask(&server, MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list");
    };
    let mut names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    names.sort_unstable();
    let shown = [
        "build.bazel.remote.asset.v1.Fetch",
        "build.bazel.remote.asset.v1.Push",
        "build.bazel.remote.execution.v2.Capabilities",
        "build.bazel.remote.execution.v2.ContentAddressableStorage",
        "buildstream.v2.ReferenceStorage",
        "google.bytestream.ByteStream",
    ];
    for name in shown {
        assert!(
            names.iter().any(|listed| listed == name),
            "{name} is not in {names:?}"
        );
    }
    assert!(!names.iter().any(|name| name.contains("weir")), "{names:?}");
    let symbol = |name: &str| MessageRequest::FileContainingSymbol(name.into());
    let known = ask(&server, symbol("google.bytestream.ByteStream")).await;
    assert!(matches!(known, MessageResponse::FileDescriptorResponse(_)));
}

#[tokio::test]
async fn services_between_nodes_are_not_here() {
    let server = Server::start().await;
    let mut actions = ActionCacheClient::new(server.channel.clone());
    let request = GetActionResultRequest::default();
    let refused = actions.get_action_result(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    for path in [
        "/weir.cluster.v1.Peer/Get",
        "/weir.cluster.v1.Raft/Append",
        "/weir.cluster.v1.Admin/Status",
    ] {
        let mut grpc = Grpc::new(server.channel.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<GetActionResultRequest, ActionResult>::default();
        let request = tonic::Request::new(GetActionResultRequest::default());
        let refused = grpc
            .unary(request, path.parse().unwrap(), codec)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented, "{path}");
    }
}
