//! A steady stream of small pushes through every node, and the ledger of what
//! was acknowledged.
//!
//! Each push is what BuildStream does, in small: a batch of blobs, then a ref
//! under two URIs that names the first of them and lists the others as
//! references. URIs and contents are never used twice, so that a push whose
//! outcome is unknown (its node was killed) cannot be mistaken for another.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
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

use crate::{
    seeded::{Words, bytes},
    wait::until,
};

/// Blobs of one push.
const BLOBS: usize = 8;

/// Largest blob of a push: eight of them stay far below one message.
const BLOB_BYTES: usize = 20_000;

/// Longest call. A ref call may wait some seconds for an election.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// From a start until everything is confirmed: nodes may still recover and
/// elect.
const CONFIRM_LIMIT: Duration = Duration::from_secs(60);

/// One acknowledged push.
#[derive(Clone, Debug)]
pub struct Pushed {
    uris: Vec<String>,
    blobs: Vec<Digest>,
}

/// Everything that was acknowledged.
pub struct Ledger {
    pushes: Vec<Pushed>,
}

/// A workload that runs until it is finished or dropped.
pub struct Workload {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Pushed>>>,
    thread: Option<JoinHandle<()>>,
}

impl Workload {
    /// Starts pushing, each push through the next of `urls`. A push that
    /// fails is not tried again and does not count.
    pub fn start(urls: Vec<String>, seed: u64) -> Result<Workload> {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let runtime = runtime()?;
        let (stopped, ledger) = (stop.clone(), acknowledged.clone());
        let thread = thread::Builder::new()
            .name("workload".into())
            .spawn(move || {
                let mut words = Words::new(seed);
                for (number, url) in urls.iter().cycle().enumerate() {
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                    let push = runtime.block_on(push(url, &mut words, seed, number));
                    if let Ok(done) = push {
                        ledger
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(done);
                    }
                }
            })?;
        Ok(Workload {
            stop,
            acknowledged,
            thread: Some(thread),
        })
    }

    /// Waits until so many pushes were acknowledged.
    pub fn reach(&self, count: usize, limit: Duration) -> Result<()> {
        until(format!("{count} acknowledged pushes"), limit, || {
            Ok((self.acknowledged().len() >= count).then_some(()))
        })
    }

    /// Stops and hands over what was acknowledged.
    pub fn finish(mut self) -> Result<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self
            .thread
            .take()
            .context("the workload has finished already")?;
        thread
            .join()
            .map_err(|_| anyhow!("the workload panicked"))?;
        Ok(Ledger {
            pushes: self.acknowledged().clone(),
        })
    }

    fn acknowledged(&self) -> std::sync::MutexGuard<'_, Vec<Pushed>> {
        // The list is whole after a panic elsewhere: it only grows by `push`.
        self.acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Workload {
    /// Ends the thread after the call that it is in; nobody waits for it.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Ledger {
    /// How many pushes were acknowledged.
    pub fn len(&self) -> usize {
        self.pushes.len()
    }

    /// Whether nothing was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.pushes.is_empty()
    }

    /// Insists that the node at `url` finds every URI, has every blob, and
    /// sends bytes that hash to their digests.
    ///
    /// UNAVAILABLE is asked again for a while: it says "not now", not "gone".
    pub fn confirm(&self, url: &str) -> Result<()> {
        let runtime = runtime()?;
        for push in &self.pushes {
            until(
                format!("{} to be confirmed by {url}", push.uris[0]),
                CONFIRM_LIMIT,
                || match runtime.block_on(confirm(url, push)) {
                    Ok(()) => Ok(Some(())),
                    Err(error) if is_not_now(&error) => Ok(None),
                    Err(error) => Err(error.context(format!("{} at {url}", push.uris[0]))),
                },
            )?;
        }
        Ok(())
    }
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn channel(url: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(url.to_owned())?
        .timeout(CALL_LIMIT)
        .connect_lazy())
}

fn is_not_now(error: &anyhow::Error) -> bool {
    error.downcast_ref::<tonic::Status>().is_some_and(|status| {
        matches!(
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

async fn push(url: &str, words: &mut Words, seed: u64, number: usize) -> Result<Pushed> {
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

async fn confirm(url: &str, push: &Pushed) -> Result<()> {
    let channel = channel(url)?;
    let mut fetch = FetchClient::new(channel.clone());
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
    let mut cas = ContentAddressableStorageClient::new(channel);
    let find = FindMissingBlobsRequest {
        blob_digests: push.blobs.clone(),
        ..Default::default()
    };
    let missing = cas
        .find_missing_blobs(find)
        .await?
        .into_inner()
        .missing_blob_digests;
    ensure!(
        missing.is_empty(),
        "{} of {} blobs are missing",
        missing.len(),
        push.blobs.len()
    );
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
        ensure!(
            digest(&answer.data) == *blob,
            "other bytes than those of {}",
            blob.hash
        );
    }
    Ok(())
}
