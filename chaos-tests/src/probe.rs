//! Single calls to a node, for figures: blobs that follow from a seed, uploaded
//! and read. Connections are kept and shared.

use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use sha2::{Digest as _, Sha256};
use tonic::transport::{Channel, Endpoint};
use weir_proto::reapi::{
    BatchReadBlobsRequest, BatchUpdateBlobsRequest, Digest, batch_update_blobs_request::Request,
    content_addressable_storage_client::ContentAddressableStorageClient,
};

use crate::seeded::bytes;

/// Bytes of one upload at most: below the 4 MiB of a gRPC message.
pub const BATCH_BYTES: usize = 3 << 20;

/// Longest call.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// One node, to be asked.
pub struct Probe {
    cas: ContentAddressableStorageClient<Channel>,
}

impl Probe {
    /// The node at `url`. Within a runtime, always the same one.
    pub fn new(url: &str) -> Result<Probe> {
        // A std mutex: held for map operations only.
        static CHANNELS: OnceLock<Mutex<HashMap<String, Channel>>> = OnceLock::new();
        let channels = CHANNELS.get_or_init(Mutex::default);
        let mut channels = channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(url) {
            Some(channel) => channel.clone(),
            None => {
                let endpoint = Endpoint::from_shared(url.to_owned())?;
                let channel = endpoint.timeout(CALL_LIMIT).connect_lazy();
                channels.insert(url.to_owned(), channel.clone());
                channel
            }
        };
        Ok(Probe {
            cas: ContentAddressableStorageClient::new(channel),
        })
    }

    /// Uploads the blobs of these seeds, `len` bytes each.
    pub async fn upload(&self, seeds: &[u64], len: usize) -> Result<()> {
        let blobs = seeds.iter().map(|seed| bytes(*seed, len));
        let requests = blobs.map(|data| Request {
            digest: Some(digest(&data)),
            data: data.into(),
            ..Default::default()
        });
        let request = BatchUpdateBlobsRequest {
            requests: requests.collect(),
            ..Default::default()
        };
        let answer = self.cas.clone().batch_update_blobs(request).await?;
        for answer in answer.into_inner().responses {
            let status = answer.status.unwrap_or_default();
            ensure!(status.code == 0, "{}", status.message);
        }
        Ok(())
    }

    /// Reads the blob of a seed, and insists on its bytes.
    pub async fn read(&self, seed: u64, len: usize) -> Result<()> {
        let wanted = bytes(seed, len);
        let request = BatchReadBlobsRequest {
            digests: vec![digest(&wanted)],
            ..Default::default()
        };
        let answer = self.cas.clone().batch_read_blobs(request).await?;
        let answers = answer.into_inner().responses;
        let is_it = answers.iter().any(|answer| answer.data == wanted);
        ensure!(is_it, "the blob of seed {seed} did not come");
        Ok(())
    }
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
