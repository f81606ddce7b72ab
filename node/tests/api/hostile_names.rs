//! Names made to break out, to spoil or to confuse.

use tonic::Code;
use weir_cluster::Digest;
use weir_proto::{
    asset::{FetchBlobRequest, fetch_client::FetchClient},
    bytestream::QueryWriteStatusRequest,
    reapi::{
        FindMissingBlobsRequest, GetCapabilitiesRequest, capabilities_client::CapabilitiesClient,
        content_addressable_storage_client::ContentAddressableStorageClient as Cas,
    },
};

use crate::{
    bad_inputs::{check, server},
    bytestream::{client, message, read, write},
    support::sample,
};

/// Instance names that must be refused everywhere.
fn hostile_instances() -> Vec<String> {
    let mut names = Vec::new();
    let reserved = [
        "blobs",
        "uploads",
        "actions",
        "actionResults",
        "operations",
        "capabilities",
        "compressed-blobs",
    ];
    let segments = [
        "",
        ".",
        "..",
        "\\",
        "a\\b",
        "\0",
        "a\0",
        "\n",
        "\r\n",
        "\t",
        "\u{1b}[2J",
        "\u{7f}",
        "\u{85}",
        "\u{200b}",
        "\u{200e}",
        "\u{202e}",
        "\u{2066}",
        "\u{feff}",
        "..\\..",
        "\u{2028}",
    ];
    for segment in reserved.into_iter().chain(segments) {
        for (before, after) in [
            ("a/", ""),
            ("", "/b"),
            ("a/", "/b"),
            ("a/b/c/", ""),
            ("x/", "/"),
        ] {
            names.push(format!("{before}{segment}{after}"));
        }
        if !segment.is_empty() {
            names.push(segment.into());
        }
    }
    for length in [257, 1_000, 10_000, 100_000] {
        names.push("a".repeat(length));
        names.push("a/".repeat(length));
        names.push("../".repeat(length));
        names.push("/".repeat(length));
    }
    names.extend(
        [
            "/",
            "//",
            "a//b",
            "/a",
            "a/",
            "../../etc/passwd",
            "/etc/passwd",
        ]
        .map(String::from),
    );
    names
}

#[tokio::test]
async fn hostile_names() {
    let server = server().await;
    let (bytes, digest) = (sample(1, 10), Digest::of(&sample(1, 10)));
    server.put(bytes.clone()).await;
    let names = hostile_instances();
    assert!(names.len() >= 150, "{}", names.len());
    let cases = || {
        names
            .iter()
            .map(|name| ("instance", name.clone()))
            .collect()
    };
    let refused = Code::InvalidArgument;
    let cas = Cas::new(server.channel.clone());
    check(&server, cases(), refused, async |instance_name| {
        let request = GetCapabilitiesRequest { instance_name };
        CapabilitiesClient::new(server.channel.clone())
            .get_capabilities(request)
            .await
            .map(drop)
    })
    .await;
    check(&server, cases(), refused, async |instance_name| {
        let request = FindMissingBlobsRequest {
            instance_name,
            ..Default::default()
        };
        cas.clone().find_missing_blobs(request).await.map(drop)
    })
    .await;
    check(&server, cases(), refused, async |instance_name| {
        let request = FetchBlobRequest {
            instance_name,
            uris: vec!["urn:x".into()],
            ..Default::default()
        };
        FetchClient::new(server.channel.clone())
            .fetch_blob(request)
            .await
            .map(drop)
    })
    .await;
    // Resource names: some of these instances make another valid name.
    let mut resources = Vec::new();
    for name in names
        .iter()
        .filter(|name| !name.starts_with('/') && !name.is_empty())
    {
        resources.push(("read", format!("{name}/blob/{digest}")));
        resources.push(("read", format!("{name}/blobs/{}", digest.hash_hex())));
        resources.push(("read", format!("{name}/blobs/x/{digest}")));
    }
    assert!(resources.len() >= 300, "{}", resources.len());
    check(&server, resources.clone(), refused, async |name| {
        read(&server, &name, 0, 0).await.map(drop)
    })
    .await;
    check(&server, resources.clone(), refused, async |name| {
        write(&server, vec![message(&name, 0, bytes.clone(), true)])
            .await
            .map(drop)
    })
    .await;
    check(&server, resources, refused, async |resource_name| {
        let request = QueryWriteStatusRequest { resource_name };
        client(&server).query_write_status(request).await.map(drop)
    })
    .await;
    // And still the server serves.
    assert_eq!(
        read(&server, &format!("main/blobs/{digest}"), 0, 0)
            .await
            .unwrap(),
        bytes
    );
}
