//! The calls of a workload: one push, and the questions that confirm it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest as _, Sha256};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use weir_proto::{
    asset::{
        FetchBlobRequest, PushBlobRequest, fetch_client::FetchClient, push_client::PushClient,
    },
    reapi::{
        BatchReadBlobsRequest, BatchUpdateBlobsRequest, Digest, FindMissingBlobsRequest,
        batch_update_blobs_request::Request,
        content_addressable_storage_client::ContentAddressableStorageClient,
    },
};

use super::Pushed;
use crate::{
    load::answer::is_told,
    seeded::{Words, bytes},
};

/// Blobs of one push.
const BLOBS: usize = 8;

/// Largest blob of a push: eight of them stay far below one message.
const BLOB_BYTES: usize = 20_000;

/// Longest call. A ref call may wait some seconds for an election.
const CALL_LIMIT: Duration = Duration::from_secs(20);

fn channel(url: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(url.to_owned())?
        .timeout(CALL_LIMIT)
        .connect_lazy())
}

/// Whether an error says "not now" and not "gone". A connection that breaks
/// because its node was killed says nothing of what the node has.
pub(super) fn is_not_now(error: &anyhow::Error) -> bool {
    error.downcast_ref::<tonic::Status>().is_some_and(|status| {
        !is_told(status)
            || matches!(
                status.code(),
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled
            )
    })
}

fn digest(data: &[u8]) -> Digest {
    let hash = Sha256::digest(data)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Digest {
        hash,
        size_bytes: data.len() as i64,
    }
}

pub(super) async fn push(url: &str, words: &mut Words, seed: u64, number: usize) -> Result<Pushed> {
    let contents: Vec<Vec<u8>> = (0..BLOBS)
        .map(|_| {
            let count = 1 + words.below(BLOB_BYTES);
            bytes(words.next().unwrap_or_default(), count)
        })
        .collect();
    let channel = channel(url)?;
    let blobs: Vec<Digest> = contents.iter().map(|data| digest(data)).collect();
    let requests = contents
        .into_iter()
        .zip(&blobs)
        .map(|(data, digest)| Request {
            digest: Some(digest.clone()),
            data: data.into(),
            ..Default::default()
        })
        .collect();
    let mut cas = ContentAddressableStorageClient::new(channel.clone());
    let update = BatchUpdateBlobsRequest {
        requests,
        ..Default::default()
    };
    for answer in cas.batch_update_blobs(update).await?.into_inner().responses {
        if let Some(status) = answer.status.filter(|status| status.code != 0) {
            bail!("{}", status.message);
        }
    }
    let uris: Vec<String> = ["strong", "weak"]
        .map(|key| {
            format!("urn:fdc:buildstream.build:2020:artifact:workload/{seed}/{key}-{number}")
        })
        .to_vec();
    let request = PushBlobRequest {
        uris: uris.clone(),
        blob_digest: Some(blobs[0].clone()),
        references_blobs: blobs[1..].to_vec(),
        ..Default::default()
    };
    PushClient::new(channel).push_blob(request).await?;
    Ok(Pushed { uris, blobs })
}

/// Insists that a node has neither a push nor any of its blobs.
pub(super) async fn confirm_absent(url: &str, push: &Pushed) -> Result<()> {
    let mut fetch = FetchClient::new(channel(url)?);
    for uri in &push.uris {
        let request = FetchBlobRequest {
            uris: vec![uri.clone()],
            ..Default::default()
        };
        let code = match fetch.fetch_blob(request).await {
            Ok(answer) => Code::from(answer.into_inner().status.unwrap_or_default().code),
            Err(status) => status.code(),
        };
        ensure!(code == Code::NotFound, "{url} knows {uri}: {code}");
    }
    let found = push.blobs.len() - missing(url, push).await?;
    ensure!(found == 0, "{url} has {found} blobs of {}", push.uris[0]);
    Ok(())
}

/// How many blobs of a push a node says are missing.
async fn missing(url: &str, push: &Pushed) -> Result<usize> {
    let mut cas = ContentAddressableStorageClient::new(channel(url)?);
    let find = FindMissingBlobsRequest {
        blob_digests: push.blobs.clone(),
        ..Default::default()
    };
    let answer = cas.find_missing_blobs(find).await?.into_inner();
    Ok(answer.missing_blob_digests.len())
}

/// Insists that a node finds a push, has its blobs and sends their bytes.
pub(super) async fn confirm(url: &str, push: &Pushed) -> Result<()> {
    let mut fetch = FetchClient::new(channel(url)?);
    for uri in &push.uris {
        let request = FetchBlobRequest {
            uris: vec![uri.clone()],
            ..Default::default()
        };
        let answer = fetch.fetch_blob(request).await?.into_inner();
        let code = answer.status.map_or(0, |status| status.code);
        ensure!(code == 0, "fetch of {uri} says code {code}");
        ensure!(
            answer.blob_digest.as_ref() == Some(&push.blobs[0]),
            "{uri} names another blob"
        );
    }
    let missing = missing(url, push).await?;
    ensure!(
        missing == 0,
        "{missing} of {} blobs are missing",
        push.blobs.len()
    );
    read(url, push).await
}

/// Insists that a node sends the bytes of a push.
pub(super) async fn read(url: &str, push: &Pushed) -> Result<()> {
    let mut cas = ContentAddressableStorageClient::new(channel(url)?);
    let read = BatchReadBlobsRequest {
        digests: push.blobs.clone(),
        ..Default::default()
    };
    let answers = cas.batch_read_blobs(read).await?.into_inner().responses;
    for blob in &push.blobs {
        let answer = answers
            .iter()
            .find(|answer| answer.digest.as_ref() == Some(blob));
        let answer = answer.with_context(|| format!("no answer for {}", blob.hash))?;
        if let Some(status) = answer.status.as_ref().filter(|status| status.code != 0) {
            // As a status of the call, so that "not now" is known as such.
            return Err(tonic::Status::new(status.code.into(), &status.message).into());
        }
        ensure!(
            digest(&answer.data) == *blob,
            "other bytes than those of {}",
            blob.hash
        );
    }
    Ok(())
}
