//! Protects: a drain ends only when the node holds no copy that another may
//! lack, and what it held is read from the others when it is gone.

use std::{
    process::{Child, Command, Stdio},
    time::Instant,
};

use bytes::Bytes;
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};
use weir_cluster::blob::conformance::sample;
use weir_proto::reapi::{
    BatchReadBlobsRequest, BatchUpdateBlobsRequest, Digest, batch_update_blobs_request::Request,
    content_addressable_storage_client::ContentAddressableStorageClient as Client,
};

use crate::processes::{LIMIT, Node, cluster, refused, row, succeeds};

const BLOBS: u64 = 200;

#[test]
fn a_drained_node_leaves_and_nothing_is_lost() {
    let root = tempfile::tempdir().unwrap();
    let mut nodes = cluster(root.path(), 3, &["replicas=2", "write_quorum=2"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let urls: Vec<_> = nodes.iter().map(client_url).collect();
    let blobs = runtime.block_on(upload(&urls[0]));

    // The node that is asked is restarted while the drain is looked on.
    let asked = nodes[2].admin.clone();
    let node = ["--node", &*asked];
    let draining = drain(
        &[
            &["node", "drain", "n2", "--wait", "--timeout", "5m"][..],
            &node,
        ]
        .concat(),
    );
    nodes[0].status(|status| row(status, "n2")["status"] == "draining");
    nodes[2].stop();
    nodes[2].serve();
    let said = ends_well(draining);
    assert!(
        said.contains("holds no copy that another may lack"),
        "{said}"
    );

    let admin = nodes[0].admin.clone();
    let status = nodes[0].status(|status| row(status, "n2")["repair"]["settled"] == true);
    assert_eq!(row(&status, "n2")["repair"]["surplus_blobs"], 0, "{status}");
    assert_eq!(row(&status, "n2")["epochs"], Value::Array(vec![]));
    let removed = succeeds(&["node", "remove", "n2", "--node", &admin]);
    assert!(removed.contains("n2 was removed"), "{removed}");
    refused(
        &["node", "remove", "n2", "--node", &admin],
        "no member is named",
    );
    nodes[1].ends();

    // Each of the two that are left has every blob: with one of them gone too,
    // the other can only answer from its own disk.
    runtime.block_on(reads_all(&urls[0], &blobs));
    nodes[0].stop();
    runtime.block_on(reads_all(&urls[2], &blobs));
    nodes[2].stop();
}

fn drain(args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a command said that ends with 0; it ends itself at its own limit.
fn ends_well(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let progress = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{progress}");
    String::from_utf8(output.stdout).unwrap()
}

fn client_url(node: &Node) -> String {
    let listed = node.status(|status| status["nodes"].is_array());
    let rows = listed["nodes"].as_array().unwrap();
    let mine = rows.iter().find(|row| {
        let admin = row["admin"].as_str().unwrap();
        node.admin.ends_with(admin)
    });
    format!("http://{}", mine.unwrap()["client"].as_str().unwrap())
}

async fn client(url: &str) -> Client<Channel> {
    let began = Instant::now();
    loop {
        match Endpoint::from_shared(url.to_owned())
            .unwrap()
            .connect()
            .await
        {
            Ok(channel) => return Client::new(channel).max_decoding_message_size(64 << 20),
            Err(error) => assert!(began.elapsed() < LIMIT, "{url}: {error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn blob(number: u64) -> (Digest, Bytes) {
    let bytes = sample(number, 1_000 + (number as usize * 379) % 20_000);
    let digest = weir_cluster::Digest::of(&bytes);
    let hash = digest.hash_hex();
    let size_bytes = bytes.len() as i64;
    (Digest { hash, size_bytes }, bytes)
}

async fn upload(url: &str) -> Vec<Digest> {
    let blobs: Vec<_> = (0..BLOBS).map(blob).collect();
    let requests = blobs.iter().map(|(digest, data)| Request {
        digest: Some(digest.clone()),
        data: data.clone(),
        ..Request::default()
    });
    let request = BatchUpdateBlobsRequest {
        requests: requests.collect(),
        ..BatchUpdateBlobsRequest::default()
    };
    let answer = client(url).await.batch_update_blobs(request).await.unwrap();
    for response in answer.into_inner().responses {
        let status = response.status.unwrap_or_default();
        assert_eq!(status.code, 0, "{}", status.message);
    }
    blobs.into_iter().map(|(digest, _)| digest).collect()
}

async fn reads_all(url: &str, digests: &[Digest]) {
    let mut client = client(url).await;
    let request = BatchReadBlobsRequest {
        digests: digests.to_vec(),
        ..BatchReadBlobsRequest::default()
    };
    let answer = client.batch_read_blobs(request).await.unwrap().into_inner();
    assert_eq!(answer.responses.len(), digests.len());
    for response in answer.responses {
        let status = response.status.unwrap_or_default();
        assert_eq!(status.code, 0, "{url}: {}", status.message);
    }
}
