//! FindMissingBlobs, read and written by hand.
//!
//! The generated types make a `String` for each hash: an allocation, a UTF-8
//! check and a second pass to parse it, for digests that come by the million.
//! Here each goes from the receive buffer into a [`Digest`] at once, and from a
//! [`Digest`] into the send buffer. On the wire it is the ordinary message.

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use weir_cluster::Digest;

use super::arguments;

/// FindMissingBlobsRequest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) instance: String,
    pub(crate) digests: Vec<Digest>,
    pub(crate) function: i32,
}

/// FindMissingBlobsResponse.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) Vec<Digest>);

impl Missing {
    /// Most bytes that this takes on the wire.
    pub(crate) fn bytes(&self) -> u64 {
        (self.0.len() * ENTRY_BYTES) as u64
    }
}

/// The codec of FindMissingBlobs at the server.
#[derive(Clone, Copy, Default)]
pub(crate) struct FindMissingCodec;

impl Codec for FindMissingCodec {
    type Encode = Missing;
    type Decode = Question;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Decoder for FindMissingCodec {
    type Item = Question;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Question>, Status> {
        let message = source.copy_to_bytes(source.remaining());
        Question::decode(&message).map(Some)
    }
}

impl Encoder for FindMissingCodec {
    type Item = Missing;
    type Error = Status;

    fn encode(&mut self, item: Missing, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        target.reserve(item.bytes() as usize);
        for digest in &item.0 {
            put_entry(digest, target);
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// At most so many bytes for a digest in a repeated field: two bytes of tag and
/// length, 66 for the hash, 11 for the size.
const ENTRY_BYTES: usize = 2 + 66 + 11;

const LENGTH_DELIMITED: u64 = 2;
const VARINT: u64 = 0;

const fn key(field: u64, wire_type: u64) -> u64 {
    field << 3 | wire_type
}

impl Question {
    fn decode(message: &Bytes) -> Result<Self, Status> {
        let mut rest = &message[..];
        let mut question = Self {
            // A digest with a size takes at least 70 bytes.
            digests: Vec::with_capacity(rest.len() / 70),
            ..Self::default()
        };
        while !rest.is_empty() {
            let key = varint(&mut rest)?;
            match (key >> 3, key & 7) {
                (2, LENGTH_DELIMITED) => {
                    question.digests.push(digest(slice(&mut rest)?)?);
                }
                (1, LENGTH_DELIMITED) => {
                    question.instance = text(slice(&mut rest)?)?.into();
                }
                (3, VARINT) => question.function = varint(&mut rest)? as i32,
                _ => skip(key, &mut rest)?,
            }
        }
        Ok(question)
    }
}

fn digest(message: &[u8]) -> Result<Digest, Status> {
    // How every client writes it: hash, then size if it is not 0.
    if let Some((&[0x0a, 0x40], rest)) = message.split_first_chunk::<2>()
        && let Some((hex, rest)) = rest.split_first_chunk::<64>()
        && let Some(hash) = hash(hex)
        && let Some((0x10, mut rest)) = rest.split_first().map(|(key, rest)| (*key, rest))
        && let Ok(size) = decode_varint(&mut rest)
        && rest.is_empty()
        && size > 0
        && size <= i64::MAX as u64
    {
        return Ok(Digest { hash, size });
    }
    slow_digest(message)
}

/// A digest in any form that Protocol Buffers allow, and every error.
fn slow_digest(message: &[u8]) -> Result<Digest, Status> {
    let mut rest = message;
    let mut wire = weir_proto::reapi::Digest::default();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, LENGTH_DELIMITED) => wire.hash = text(slice(&mut rest)?)?.into(),
            (2, VARINT) => wire.size_bytes = varint(&mut rest)? as i64,
            _ => skip(key, &mut rest)?,
        }
    }
    arguments::digest(&wire)
}

/// Values of the lower-case hexadecimal digits; 0xff for all else.
const NIBBLES: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

fn hash(hex: &[u8; 64]) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    let mut faults = 0;
    let (pairs, _) = hex.as_chunks::<2>();
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        let (high, low) = (NIBBLES[usize::from(*high)], NIBBLES[usize::from(*low)]);
        faults |= high | low;
        *byte = high << 4 | low & 15;
    }
    (faults & 0xf0 == 0).then_some(hash)
}

fn put_entry(digest: &Digest, target: &mut impl BufMut) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let size_bytes = match digest.size {
        0 => 0,
        size => 1 + encoded_len_varint(size),
    };
    let mut head = [0; 4 + 64];
    head[0] = key(2, LENGTH_DELIMITED) as u8;
    head[1] = (66 + size_bytes) as u8;
    head[2] = key(1, LENGTH_DELIMITED) as u8;
    head[3] = 64;
    let (pairs, _) = head[4..].as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(digest.hash) {
        *pair = [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ];
    }
    target.put_slice(&head);
    if digest.size > 0 {
        target.put_u8(key(2, VARINT) as u8);
        encode_varint(digest.size, target);
    }
}

fn malformed(what: &str) -> Status {
    Status::invalid_argument(format!("FindMissingBlobsRequest cannot be read: {what}"))
}

fn varint(rest: &mut &[u8]) -> Result<u64, Status> {
    decode_varint(rest).map_err(|_| malformed("a number is malformed"))
}

fn slice<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Status> {
    let length = varint(rest)?;
    let (slice, tail) = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length))
        .ok_or_else(|| malformed("a field is cut short"))?;
    *rest = tail;
    Ok(slice)
}

fn text(bytes: &[u8]) -> Result<&str, Status> {
    str::from_utf8(bytes).map_err(|_| malformed("a string is no UTF-8"))
}

/// Passes over a field that this node does not know.
fn skip(key: u64, rest: &mut &[u8]) -> Result<(), Status> {
    let fixed = match key & 7 {
        VARINT => return varint(rest).map(drop),
        LENGTH_DELIMITED => return slice(rest).map(drop),
        1 => 8,
        5 => 4,
        _ => return Err(malformed("a field has an unknown wire type")),
    };
    *rest = rest
        .split_at_checked(fixed)
        .ok_or_else(|| malformed("a field is cut short"))?
        .1;
    Ok(())
}

#[cfg(test)]
#[path = "fast_codec_tests.rs"]
mod tests;
