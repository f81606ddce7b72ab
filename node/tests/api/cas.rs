use bytes::Bytes;
use tonic::Code;
use weir_cluster::Digest;
use weir_proto::reapi::{
    BatchReadBlobsRequest, BatchUpdateBlobsRequest, FindMissingBlobsRequest,
    batch_update_blobs_request::Request, capabilities_client::CapabilitiesClient,
    content_addressable_storage_client::ContentAddressableStorageClient as Client,
};

use crate::support::{Server, code, sample, wire};

fn client(server: &Server) -> Client<tonic::transport::Channel> {
    Client::new(server.channel.clone()).max_decoding_message_size(64 << 20)
}

fn upload(digest: Digest, data: Bytes) -> Request {
    Request {
        digest: Some(wire(digest)),
        data,
        compressor: 0,
    }
}

#[tokio::test]
async fn capabilities_are_those_of_a_cache() {
    let server = Server::start().await;
    let mut client = CapabilitiesClient::new(server.channel.clone());
    let answer = client.get_capabilities(weir_proto::reapi::GetCapabilitiesRequest::default());
    let answer = answer.await.unwrap().into_inner();
    let low = answer.low_api_version.unwrap();
    assert_eq!((low.major, low.minor), (2, 0));
    assert_eq!(answer.high_api_version.unwrap().major, 2);
    assert_eq!(answer.execution_capabilities, None);
    let cache = answer.cache_capabilities.unwrap();
    assert_eq!(cache.digest_functions, [1]);
    assert!((1..4 << 20).contains(&cache.max_batch_total_size_bytes));
    assert_eq!(cache.max_cas_blob_size_bytes, 64 << 30);
    assert!(cache.supported_compressors.is_empty());
    assert!(
        !cache
            .action_cache_update_capabilities
            .unwrap()
            .update_enabled
    );
}

#[tokio::test]
async fn find_missing_names_the_absent_each_time_it_is_asked() {
    let server = Server::start().await;
    let present = server.put(sample(1, 100)).await;
    let absent = Digest::of(b"absent");
    let asked = [absent, present, Digest::EMPTY, absent, present];
    let answer = client(&server)
        .find_missing_blobs(FindMissingBlobsRequest {
            instance_name: "main/x86".into(),
            blob_digests: asked.map(wire).to_vec(),
            digest_function: 1,
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.missing_blob_digests, [wire(absent), wire(absent)]);
    let mut client = client(&server);
    let nothing = client.find_missing_blobs(FindMissingBlobsRequest::default());
    assert!(
        nothing
            .await
            .unwrap()
            .into_inner()
            .missing_blob_digests
            .is_empty()
    );
}

#[tokio::test]
async fn find_missing_takes_more_than_the_usual_message() {
    let server = Server::start().await;
    let absent: Vec<_> = (0..100_000u32)
        .map(|n| wire(Digest::of(&n.to_be_bytes())))
        .collect();
    let request = FindMissingBlobsRequest {
        blob_digests: absent.clone(),
        ..Default::default()
    };
    let answer = client(&server).find_missing_blobs(request).await.unwrap();
    assert!(answer.into_inner().missing_blob_digests == absent);
}

#[tokio::test]
async fn batches_are_stored_and_read_blob_by_blob() {
    let server = Server::start().await;
    // Below and above what is sent to stores in batches, hashed here or elsewhere.
    let sizes = [0, 1, 5_000, 200_000, 1 << 20, (1 << 20) + 1, 3 << 20];
    for (seed, size) in (10..).zip(sizes) {
        let bytes = sample(seed, size);
        let good = Digest::of(&bytes);
        let bad = Digest::of(&sample(seed + 100, size.max(1)));
        let answer = client(&server)
            .batch_update_blobs(BatchUpdateBlobsRequest {
                requests: vec![
                    upload(bad, bytes.clone()),
                    upload(good, bytes.clone()),
                    Request::default(),
                    Request {
                        compressor: 1,
                        ..upload(good, bytes.clone())
                    },
                ],
                ..Default::default()
            })
            .await
            .unwrap()
            .into_inner();
        let codes: Vec<_> = answer
            .responses
            .iter()
            .map(|r| r.status.clone().unwrap().code)
            .collect();
        assert_eq!(codes, [3, 0, 3, 3], "{size} bytes");
        assert_eq!(answer.responses[1].digest, Some(wire(good)));

        let mut reader = client(&server);
        let answer = reader.batch_read_blobs(BatchReadBlobsRequest {
            digests: vec![wire(bad), wire(good), Default::default()],
            ..Default::default()
        });
        let answer = match answer.await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                // Asked for twice 3 MiB.
                assert_eq!((size, status.code()), (3 << 20, Code::InvalidArgument));
                continue;
            }
        };
        let codes: Vec<_> = answer
            .responses
            .iter()
            .map(|r| r.status.clone().unwrap().code)
            .collect();
        assert_eq!(codes, [5, 0, 3], "{size} bytes");
        assert!(answer.responses[1].data == bytes);
    }
    let stored = server.store.inner.digests();
    assert_eq!(stored.len(), sizes.len() - 1);
}

#[tokio::test]
async fn empty_batches_are_how_old_clients_probe() {
    let server = Server::start().await;
    let mut client = client(&server);
    let answer = client.batch_read_blobs(BatchReadBlobsRequest::default());
    assert!(answer.await.unwrap().into_inner().responses.is_empty());
    let answer = client.batch_update_blobs(BatchUpdateBlobsRequest::default());
    assert!(answer.await.unwrap().into_inner().responses.is_empty());
}

#[tokio::test]
async fn a_batch_of_many_tiny_blobs_never_answers_more_than_clients_take() {
    let server = Server::start().await;
    let blob = server.put(sample(1, 60)).await;
    let absent = Digest::of(b"absent");
    let mut plain = Client::new(server.channel.clone());
    let request = |digest, count| BatchReadBlobsRequest {
        digests: vec![wire(digest); count],
        ..Default::default()
    };
    for (digest, expected) in [(blob, 0), (absent, Code::NotFound as i32)] {
        let answer = plain.batch_read_blobs(request(digest, 26_000)).await;
        let responses = answer.unwrap().into_inner().responses;
        assert_eq!(responses.len(), 26_000);
        let codes = responses.into_iter().map(|r| r.status.unwrap().code);
        assert!(codes.into_iter().all(|code| code == expected));
    }
    let refused = plain.batch_read_blobs(request(blob, 50_000)).await;
    assert_eq!(code(refused), Code::InvalidArgument);
}

#[tokio::test]
async fn too_few_nodes_is_unavailable() {
    let server = Server::start().await;
    server.store.lose_quorum(true);
    let bytes = sample(1, 10);
    let digest = Digest::of(&bytes);
    let request = FindMissingBlobsRequest {
        blob_digests: vec![wire(digest)],
        ..Default::default()
    };
    assert_eq!(
        code(client(&server).find_missing_blobs(request).await),
        Code::Unavailable
    );
    let request = BatchUpdateBlobsRequest {
        requests: vec![upload(digest, bytes)],
        ..Default::default()
    };
    let answer = client(&server)
        .batch_update_blobs(request)
        .await
        .unwrap()
        .into_inner();
    let status = answer.responses[0].status.clone().unwrap();
    assert_eq!(status.code, Code::Unavailable as i32);
    assert!(
        status.message.contains("node 0000000000000007"),
        "{}",
        status.message
    );
}
