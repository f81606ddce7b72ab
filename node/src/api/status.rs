//! The edge of the process: errors become gRPC codes here and nowhere else.
//!
//! OK means done and durable. UNAVAILABLE means that it may have happened, and
//! that trying again is safe. Every other code means that it did not happen.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};
use weir_cluster::Error;
use weir_proto::rpc;

/// The status that a client gets for an error; logs it if a human must look.
pub(crate) fn of(error: &Error) -> Status {
    let code = code(error);
    match error {
        Error::Internal(_) => tracing::error!(%error, "a rule of this program was broken"),
        Error::Io { source, .. } => tracing::error!(%error, %source, "a file of this node failed"),
        _ => tracing::debug!(%error, ?code, "call failed"),
    }
    Status::new(code, message(error))
}

/// The status of one blob in a batch.
pub(crate) fn of_blob(outcome: &Result<(), Status>) -> rpc::Status {
    match outcome {
        Ok(()) => rpc::Status::default(),
        Err(status) => rpc::Status {
            code: status.code() as i32,
            message: status.message().into(),
            details: Vec::new(),
        },
    }
}

fn code(error: &Error) -> Code {
    match error {
        Error::NotFound(_) => Code::NotFound,
        Error::Mismatch { .. } | Error::Invalid(_) => Code::InvalidArgument,
        Error::OutOfRange { .. } => Code::OutOfRange,
        Error::Exhausted(_) => Code::ResourceExhausted,
        Error::Corrupt(_)
        | Error::Fenced(_)
        | Error::StaleEpoch { .. }
        | Error::Unreachable { .. }
        | Error::NoQuorum(_)
        // A failed fsync leaves open whether the bytes are on disk.
        | Error::Io { .. } => Code::Unavailable,
        Error::Internal(_) => Code::Internal,
    }
}

fn message(error: &Error) -> String {
    match error {
        Error::NotFound(_)
        | Error::Mismatch { .. }
        | Error::Invalid(_)
        | Error::OutOfRange { .. }
        | Error::Exhausted(_)
        | Error::Internal(_) => error.to_string(),
        Error::Corrupt(_) => format!("{error}; it is fetched from another node, try again"),
        Error::StaleEpoch { .. } => format!("{error}; members are changing, try again"),
        Error::Fenced(_) | Error::Unreachable { .. } | Error::NoQuorum(_) => {
            format!("{error}; try again, or see `weir status`")
        }
        Error::Io { source, .. } => format!("{error}: {source}; try again, or see `weir status`"),
    }
}

/// The answer to a call that waited too long for memory; tells the client when
/// to come back, in the form that some of them honour.
pub(crate) fn overloaded(limit_bytes: u64) -> Status {
    let message = format!(
        "this node holds {limit_bytes} bytes of requests, its limit (api.memory_bytes); \
         try again in a second, or on another node"
    );
    let info = RetryInfo {
        retry_delay: prost_types::Duration::try_from(Duration::from_secs(1)).ok(),
    };
    let status = rpc::Status {
        code: Code::ResourceExhausted as i32,
        message: message.clone(),
        details: vec![prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
            value: info.encode_to_vec(),
        }],
    };
    let details = Bytes::from(status.encode_to_vec());
    Status::with_details(Code::ResourceExhausted, message, details)
}

/// google.rpc.RetryInfo.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

#[cfg(test)]
mod tests {
    use std::io;

    use weir_cluster::{Digest, Epoch, NodeId, words::error::Mismatch};

    use super::*;

    #[test]
    fn each_error_has_its_code() {
        let digest = Digest::of(b"a");
        let mismatch = Mismatch::TooLong;
        for (error, expected) in [
            (Error::NotFound(digest), Code::NotFound),
            (Error::Mismatch { digest, mismatch }, Code::InvalidArgument),
            (Error::Invalid("no".into()), Code::InvalidArgument),
            (Error::OutOfRange { digest, offset: 2 }, Code::OutOfRange),
            (Error::Exhausted("full".into()), Code::ResourceExhausted),
            (Error::Corrupt(digest), Code::Unavailable),
            (Error::Fenced("disk".into()), Code::Unavailable),
            (
                Error::StaleEpoch {
                    theirs: Epoch(1),
                    ours: Epoch(2),
                },
                Code::Unavailable,
            ),
            (
                Error::Unreachable {
                    node: NodeId(1),
                    cause: "timeout".into(),
                },
                Code::Unavailable,
            ),
            (
                Error::io("write", io::Error::other("bad disk")),
                Code::Unavailable,
            ),
            (Error::Internal("oops".into()), Code::Internal),
        ] {
            let status = of(&error);
            assert_eq!(status.code(), expected, "{error}");
            assert!(status.message().contains(&error.to_string()), "{status}");
        }
    }

    #[test]
    fn overload_says_when_to_come_back() {
        let status = overloaded(7);
        let details = rpc::Status::decode(status.details()).unwrap();
        let info = RetryInfo::decode(&details.details[0].value[..]).unwrap();
        assert_eq!(info.retry_delay.unwrap().seconds, 1);
    }
}
