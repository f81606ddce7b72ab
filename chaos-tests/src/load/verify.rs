//! Reading blobs, and insisting that they are what their digests say.

use std::ops::Range;

use bytes::Bytes;
use tonic::{Code, Status};

use super::{
    answer::Refusal,
    cas::{Answer, Node},
    content::Name,
};

/// Blobs up to this size are read by BatchReadBlobs, others by a stream.
pub const SMALL_BYTES: u64 = 64 << 10;

/// Whether a refusal was made here, because the bytes are wrong.
#[must_use]
pub fn is_wrong_bytes(refusal: &Refusal) -> bool {
    refusal.code == Code::DataLoss
}

/// The whole blob. Wrong bytes are a refusal, see [`is_wrong_bytes`].
pub async fn whole(node: &Node, name: Name) -> Answer<Bytes> {
    let bytes = if name.size <= SMALL_BYTES {
        let mut answers = node.batch_read(&[name]).await?;
        match answers.pop() {
            Some(answer) => answer?,
            None => Bytes::new(),
        }
    } else {
        node.read(name, 0, 0).await?.into()
    };
    check(node, name, &bytes).map(|()| bytes)
}

/// Insists that bytes are those of a digest.
pub fn check(node: &Node, name: Name, bytes: &[u8]) -> Answer<()> {
    if Name::of(bytes) == name {
        return Ok(());
    }
    let count = bytes.len();
    let number = node.number;
    Err(wrong(format!(
        "node {number} sent {count} other bytes than those of {name}"
    )))
}

/// A part of a blob, which has to be the same as that part of `expected`.
pub async fn part(node: &Node, name: Name, range: Range<u64>, expected: &[u8]) -> Answer<()> {
    let limit = range.end - range.start;
    // A limit of 0 would mean all.
    if limit == 0 {
        return Ok(());
    }
    let bytes = node.read(name, range.start, limit).await?;
    if bytes != expected {
        let number = node.number;
        let count = bytes.len();
        return Err(wrong(format!(
            "node {number} sent {count} other bytes than {range:?} of {name}"
        )));
    }
    Ok(())
}

fn wrong(text: String) -> Refusal {
    Refusal::from(&Status::data_loss(text))
}
