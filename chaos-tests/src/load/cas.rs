//! The calls of a client, each measured and each tried once.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};
use weir_proto::{
    asset::{
        FetchBlobRequest, PushBlobRequest, fetch_client::FetchClient, push_client::PushClient,
    },
    bytestream::{
        QueryWriteStatusRequest, ReadRequest, WriteRequest, byte_stream_client::ByteStreamClient,
    },
    reapi::{
        BatchReadBlobsRequest, BatchUpdateBlobsRequest, FindMissingBlobsRequest,
        batch_update_blobs_request,
        content_addressable_storage_client::ContentAddressableStorageClient as CasClient,
    },
};

use super::{
    answer::Refusal,
    content::Name,
    meter::{Meter, Rpc},
};
use crate::history::Clock;

/// Payload of one batch; the rest of 4 MiB is for the message round it.
pub const BATCH_BYTES: u64 = 3 << 20;

/// Payload of one message of an upload.
pub const MESSAGE_BYTES: usize = 256 << 10;

/// From the first attempt to reach a node until it counts as unreachable.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// A connection that is silent for so long is asked whether it lives, and
/// given up after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A connection to one node.
#[derive(Clone)]
pub struct Node {
    /// Its number in histories.
    pub number: u16,
    pub channel: Channel,
    pub clock: Clock,
    pub meter: Meter,
}

/// What a call gives.
pub type Answer<T> = Result<T, Refusal>;

/// A connection that is made when it is first used.
pub fn channel(url: &str, limit: Duration) -> Result<Channel, tonic::transport::Error> {
    Ok(Endpoint::from_shared(url.to_owned())?
        .timeout(limit)
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .connect_lazy())
}

impl Node {
    /// The digests that the node calls missing.
    pub async fn find_missing(&self, names: &[Name]) -> Answer<Vec<Name>> {
        let request = FindMissingBlobsRequest {
            blob_digests: names.iter().map(Name::to_wire).collect(),
            ..Default::default()
        };
        let call = async { self.cas().find_missing_blobs(request).await };
        let missing = self.measured(Rpc::FindMissing, call).await?;
        let missing = missing.missing_blob_digests;
        Ok(missing.iter().filter_map(Name::from_wire).collect())
    }

    /// Uploads blobs in one message; an outcome for each, in order.
    pub async fn batch_update(&self, blobs: &[(Name, Bytes)]) -> Answer<Vec<Answer<()>>> {
        let requests = blobs
            .iter()
            .map(|(name, data)| batch_update_blobs_request::Request {
                digest: Some(name.to_wire()),
                data: data.clone(),
                ..Default::default()
            });
        let request = BatchUpdateBlobsRequest {
            requests: requests.collect(),
            ..Default::default()
        };
        let call = async { self.cas().batch_update_blobs(request).await };
        let answers = self.measured(Rpc::BatchUpdate, call).await?.responses;
        let outcome = |name: &Name| {
            let wire = name.to_wire();
            let told = answers
                .iter()
                .find(|told| told.digest.as_ref() == Some(&wire));
            match told.map(|told| told.status.as_ref()) {
                // No answer for this blob: it may be there.
                None => Err(Refusal::from(&Status::unknown("no answer for this blob"))),
                Some(Some(status)) if status.code != 0 => {
                    Err(Refusal::of_blob(status.code, &status.message))
                }
                Some(_) => Ok(()),
            }
        };
        Ok(blobs.iter().map(|(name, _)| outcome(name)).collect())
    }

    /// Reads blobs in one message; the bytes or a refusal for each, in order.
    pub async fn batch_read(&self, names: &[Name]) -> Answer<Vec<Answer<Bytes>>> {
        let request = BatchReadBlobsRequest {
            digests: names.iter().map(Name::to_wire).collect(),
            ..Default::default()
        };
        let call = async { self.cas().batch_read_blobs(request).await };
        let answers = self.measured(Rpc::BatchRead, call).await?.responses;
        let outcome = |name: &Name| {
            let wire = name.to_wire();
            let told = answers
                .iter()
                .find(|told| told.digest.as_ref() == Some(&wire));
            match told {
                None => Err(Refusal::from(&Status::unknown("no answer for this blob"))),
                Some(told) => match told.status.as_ref().filter(|status| status.code != 0) {
                    Some(status) => Err(Refusal::of_blob(status.code, &status.message)),
                    None => Ok(told.data.clone()),
                },
            }
        };
        Ok(names.iter().map(outcome).collect())
    }

    /// Reads a part of a blob; a limit of 0 means to its end.
    pub async fn read(&self, name: Name, offset: u64, limit: u64) -> Answer<Vec<u8>> {
        let request = ReadRequest {
            resource_name: format!("blobs/{}/{}", name.hex(), name.size),
            read_offset: offset as i64,
            read_limit: limit as i64,
        };
        let call = async {
            let mut stream = self.bytes().read(request).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(part) = stream.message().await? {
                bytes.extend_from_slice(&part.data);
                if bytes.len() as u64 > name.size {
                    return Err(Status::internal("more bytes than the blob has"));
                }
            }
            Ok(Response::new(bytes))
        };
        self.measured(Rpc::Read, call).await
    }

    /// Uploads a blob, or the rest of one, under the name of an upload.
    /// `committed_size` is checked against what was sent.
    pub async fn write(&self, upload: &str, data: Bytes, from: u64) -> Answer<()> {
        let size = data.len() as u64;
        let messages = messages(upload, data, from);
        let call = async { self.bytes().write(tokio_stream::iter(messages)).await };
        let committed = self.measured(Rpc::Write, call).await?.committed_size;
        if committed != size as i64 {
            let text = format!("committed_size is {committed}, not {size}");
            return Err(Refusal::from(&Status::data_loss(text)));
        }
        Ok(())
    }

    /// Sends the first bytes of an upload, and vanishes without a word.
    pub async fn begin_write(&self, upload: &str, data: Bytes, bytes: usize) {
        let mut parts = messages(upload, data.slice(..bytes.min(data.len())), 0);
        for part in &mut parts {
            part.finish_write = false;
        }
        // One place only: the last message but one has been taken from it when
        // the last is in.
        let (send, receive) = mpsc::channel(1);
        let mut bytes_api = self.bytes();
        let call = bytes_api.write(ReceiverStream::new(receive));
        let sent = async {
            for part in parts {
                if send.send(part).await.is_err() {
                    return;
                }
            }
            // Until the last one is taken.
            let _ = send.reserve().await;
        };
        tokio::select! {
            () = sent => {}
            // It ended by itself: the blob is there, or the node is not.
            _ = call => {}
        }
    }

    /// How much of an upload the node has, and whether that is all.
    pub async fn query_write(&self, upload: &str) -> Answer<(u64, bool)> {
        let request = QueryWriteStatusRequest {
            resource_name: upload.to_owned(),
        };
        let call = async { self.bytes().query_write_status(request).await };
        let told = self.measured(Rpc::QueryWrite, call).await?;
        let committed = u64::try_from(told.committed_size).unwrap_or_default();
        Ok((committed, told.complete))
    }

    /// The blob that the first found of the URIs names, and which that was.
    pub async fn fetch_blob(&self, uris: &[String]) -> Answer<(String, Name)> {
        let request = FetchBlobRequest {
            uris: uris.to_vec(),
            ..Default::default()
        };
        let call = async {
            let mut client = FetchClient::new(self.channel.clone());
            let answer = client.fetch_blob(request).await?.into_inner();
            let code = answer.status.as_ref().map_or(0, |status| status.code);
            match answer.blob_digest.as_ref().and_then(Name::from_wire) {
                Some(name) if code == 0 => Ok(Response::new((answer.uri, name))),
                _ => Err(Status::new(
                    tonic::Code::from_i32(code),
                    "told in the answer",
                )),
            }
        };
        self.measured(Rpc::FetchBlob, call).await
    }

    /// Points all URIs of the request at its blob.
    pub async fn push_blob(&self, request: PushBlobRequest) -> Answer<()> {
        let call = async {
            PushClient::new(self.channel.clone())
                .push_blob(request)
                .await
        };
        self.measured(Rpc::PushBlob, call).await.map(drop)
    }

    fn cas(&self) -> CasClient<Channel> {
        // Room for what surrounds a full batch.
        CasClient::new(self.channel.clone()).max_decoding_message_size(8 << 20)
    }

    fn bytes(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.channel.clone()).max_decoding_message_size(8 << 20)
    }

    async fn measured<T>(
        &self,
        rpc: Rpc,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Answer<T> {
        let start = self.clock.now();
        let answer = call.await;
        let code = answer.as_ref().err().map_or(tonic::Code::Ok, Status::code);
        self.meter
            .add(rpc, self.number, start, self.clock.now(), code);
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(Refusal::from(&status)),
        }
    }
}

/// The name of an upload.
#[must_use]
pub fn upload_name(name: Name, number: u64) -> String {
    // Clients send version 4 UUIDs here.
    format!(
        "uploads/{:08x}-0000-4000-8000-{:012x}/blobs/{}/{}",
        number >> 48,
        number & 0xffff_ffff_ffff,
        name.hex(),
        name.size
    )
}

/// The messages of an upload that goes on at `from`.
fn messages(upload: &str, data: Bytes, from: u64) -> Vec<WriteRequest> {
    let mut messages = Vec::new();
    let mut at = (from as usize).min(data.len());
    loop {
        let end = (at + MESSAGE_BYTES).min(data.len());
        messages.push(WriteRequest {
            resource_name: if messages.is_empty() {
                upload.to_owned()
            } else {
                String::new()
            },
            write_offset: at as i64,
            finish_write: end == data.len(),
            data: data.slice(at..end),
        });
        if end == data.len() {
            return messages;
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_cut_into_messages() {
        let data = Bytes::from(vec![7; 2 * MESSAGE_BYTES + 1]);
        let all = messages("up", data.clone(), 0);
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].resource_name, "up");
        assert!(all[2].finish_write && !all[1].finish_write);
        assert_eq!(all[2].write_offset as usize, 2 * MESSAGE_BYTES);
        let rest = messages("up", data.clone(), 2 * MESSAGE_BYTES as u64);
        assert_eq!(rest.len(), 1);
        let empty = messages("up", Bytes::new(), 0);
        assert!(empty[0].finish_write && empty[0].data.is_empty());
        // All of it was there: one empty message that finishes.
        let done = messages("up", data.clone(), data.len() as u64);
        assert!(done.len() == 1 && done[0].data.is_empty());
    }
}
