//! Serving one gRPC method with a codec of our choice.
//!
//! The generated servers know one codec. Services that read or write a message
//! by hand dispatch their methods through these instead.

use std::{convert::Infallible, future::Future, pin::Pin};

use bytes::Buf;
use http::{Request, Response};
use prost::{
    DecodeError, Message,
    encoding::{WireType, decode_key, decode_varint},
};
use tonic::{
    Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder},
    server::Grpc,
};
use tonic_prost::{ProstCodec, ProstEncoder};

pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// A unary method.
pub(crate) fn unary<C, H, F>(codec: C, limit: usize, request: Request<Body>, handler: H) -> Answer
where
    C: Codec + Send + 'static,
    C::Encode: Sync,
    H: FnOnce(C::Decode) -> F + Send + 'static,
    F: Future<Output = Result<tonic::Response<C::Encode>, Status>> + Send + 'static,
{
    Box::pin(async move {
        let mut handler = Some(handler);
        let service = tower::service_fn(move |message: tonic::Request<C::Decode>| {
            let answer = handler.take().map(|handler| handler(message.into_inner()));
            async move {
                match answer {
                    Some(answer) => answer.await,
                    None => Err(Status::internal("a unary call has two messages")),
                }
            }
        });
        let mut grpc = Grpc::new(codec).max_decoding_message_size(limit);
        Ok(grpc.unary(service, request).await)
    })
}

/// The answer to a method that the service does not have.
pub(crate) fn unknown(request: &Request<Body>) -> Answer {
    let status = Status::unimplemented(format!("no method {}", request.uri().path()));
    Box::pin(async move { Ok(status.into_http()) })
}

/// Generated messages, refused if they have more than `entries` parts.
///
/// Two bytes on the wire can stand for an empty part, which takes a hundred in
/// memory: without the limit a message within its own could use up the node.
pub(crate) struct Capped<T, U> {
    entries: usize,
    inner: ProstCodec<T, U>,
}

impl<T, U> Capped<T, U> {
    pub(crate) fn new(entries: usize) -> Self {
        Self {
            entries,
            inner: ProstCodec::default(),
        }
    }
}

impl<T, U> Codec for Capped<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = CappedDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        self.inner.encoder()
    }

    fn decoder(&mut self) -> CappedDecoder<U> {
        CappedDecoder {
            entries: self.entries,
            message: std::marker::PhantomData,
        }
    }
}

/// See [`Capped`].
pub(crate) struct CappedDecoder<U> {
    entries: usize,
    message: std::marker::PhantomData<fn() -> U>,
}

impl<U: Message + Default> Decoder for CappedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let message = source.copy_to_bytes(source.remaining());
        let malformed =
            |error| Status::invalid_argument(format!("request cannot be read: {error}"));
        let entries = parts(&message).map_err(malformed)?;
        if entries > self.entries {
            return Err(Status::invalid_argument(format!(
                "request has {entries} parts, the limit is {}; send less at once",
                self.entries
            )));
        }
        U::decode(message).map(Some).map_err(malformed)
    }
}

/// Number of fields at the top level of a message.
fn parts(mut message: &[u8]) -> Result<usize, DecodeError> {
    let mut count = 0;
    while !message.is_empty() {
        let (_, wire_type) = decode_key(&mut message)?;
        let skip = match wire_type {
            WireType::Varint => {
                decode_varint(&mut message)?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => decode_varint(&mut message)?,
            // Groups are of no message we read; the real decoder says so.
            WireType::StartGroup | WireType::EndGroup => return Ok(count),
        };
        match usize::try_from(skip)
            .ok()
            .and_then(|skip| message.split_at_checked(skip))
        {
            Some((_, rest)) => message = rest,
            // Cut short; the real decoder says so.
            None => return Ok(count),
        }
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use weir_proto::reapi::{BatchReadBlobsRequest, Digest};

    use super::*;

    #[test]
    fn parts_are_counted_at_the_top_only() {
        let message = BatchReadBlobsRequest {
            instance_name: "a".into(),
            digests: vec![Digest::default(); 7],
            acceptable_compressors: vec![0, 1],
            digest_function: 1,
        };
        assert_eq!(parts(&message.encode_to_vec()).unwrap(), 10);
        assert_eq!(parts(&[]).unwrap(), 0);
        assert!(parts(&[0xff; 20]).is_err());
    }
}
