//! Batches as they come and go at the server.

use bytes::Bytes;
use weir_proto::cluster::{GetBatchResponse, get_batch_response};

use super::wire::item_code;
use crate::{Digest, Error, blob::Verified, outside};

/// Bytes in one message of that answer.
const ANSWER_BYTES: usize = 4 << 20;
/// Batches above this are hashed on a thread for blocking work: some hundred
/// microseconds of hashing would delay everything else on this one.
const HASH_INLINE_BYTES: usize = 256 << 10;

/// Hashes what came.
pub(super) async fn verify(
    digests: Vec<Digest>,
    data: Vec<Bytes>,
) -> Result<Vec<Result<Verified, Error>>, Error> {
    let bytes: usize = data.iter().map(Bytes::len).sum();
    let hash = move || {
        let blobs = digests.into_iter().zip(data);
        blobs
            .map(|(digest, bytes)| Verified::check(digest, bytes))
            .collect()
    };
    if bytes <= HASH_INLINE_BYTES {
        return Ok(hash());
    }
    let hashed = outside::blocking(hash).await;
    hashed.map_err(|error| Error::Internal(format!("hashing: {error}")))
}

/// Answers of a batch in messages of bounded size.
pub(super) fn messages_of(blobs: Vec<Result<Bytes, Error>>) -> Vec<GetBatchResponse> {
    let mut messages = Vec::new();
    let mut message = GetBatchResponse::default();
    let mut bytes = 0;
    for blob in blobs {
        let code = item_code(&blob);
        let (data, text) = match blob {
            Ok(data) => (data, String::new()),
            Err(error) => (Bytes::new(), error.to_string()),
        };
        if bytes + data.len() > ANSWER_BYTES && !message.items.is_empty() {
            messages.push(std::mem::take(&mut message));
            bytes = 0;
        }
        bytes += data.len();
        message.items.push(get_batch_response::Item {
            code,
            data,
            message: text,
        });
    }
    messages.push(message);
    messages
}
