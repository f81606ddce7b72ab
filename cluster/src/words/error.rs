//! One error type for the cluster, named by meaning.
//!
//! The caller decides by variant what to do: retry elsewhere
//! ([`Error::is_about_the_node`]), tell the client, or stop. Errors stay typed
//! until the edge of the process, where `node::api::status` turns them into
//! gRPC codes.

use std::{fmt, io, sync::Arc};

use super::{
    digest::Digest,
    ids::{Epoch, NodeId},
};

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The blob is not there. Nothing else may be told so.
    #[error("blob {0} not found")]
    NotFound(Digest),

    /// The bytes do not match the digest they came under.
    #[error("bytes do not match digest {digest}: {mismatch}")]
    Mismatch { digest: Digest, mismatch: Mismatch },

    /// What the caller asked for makes no sense; asking again will not help.
    #[error("{0}")]
    Invalid(String),

    /// A range begins past the end of the blob.
    #[error("offset {offset} is past the end of blob {digest}")]
    OutOfRange { digest: Digest, offset: u64 },

    /// No room: the volume is full of blobs that may not be evicted, or a
    /// limit with a name is reached. Nothing was stored.
    #[error("{0}")]
    Exhausted(String),

    /// A copy on this node's disk is damaged; it was set aside.
    #[error("the copy of blob {0} on this node is damaged")]
    Corrupt(Digest),

    /// This node's volume took an I/O error and is out of use.
    #[error("volume is out of use: {0}")]
    Fenced(String),

    /// The caller's placement is older than this node's.
    #[error("epoch {theirs} is out of date, this node is at epoch {ours}")]
    StaleEpoch { theirs: Epoch, ours: Epoch },

    /// A node did not answer, or not in time. What it was asked to do may have happened.
    #[error("{node} did not answer: {cause}")]
    Unreachable { node: NodeId, cause: String },

    /// Too few nodes took part. What was asked may have happened.
    #[error("{0}")]
    NoQuorum(Shortfall),

    /// Reading or writing this node's files failed.
    #[error("{doing}")]
    Io {
        doing: String,
        #[source]
        source: Arc<io::Error>,
    },

    /// A rule of this program was broken; a defect, not a fault of the caller.
    #[error("internal error: {0}")]
    Internal(String),
}

/// How bytes differ from the digest they came under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    Hash { actual: Digest },
    TooShort { got: u64 },
    TooLong,
}

/// Fewer nodes than needed, and why each of the others did not do.
#[derive(Debug, Clone)]
pub struct Shortfall {
    /// What was tried, e.g. "write blob".
    pub doing: &'static str,
    pub needed: usize,
    pub got: usize,
    pub causes: Vec<(NodeId, String)>,
}

impl Error {
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            doing: doing.into(),
            source: Arc::new(source),
        }
    }

    /// Whether another node may do what this one could not.
    #[must_use]
    pub fn is_about_the_node(&self) -> bool {
        match self {
            Self::NotFound(_)
            | Self::Exhausted(_)
            | Self::Corrupt(_)
            | Self::Fenced(_)
            | Self::StaleEpoch { .. }
            | Self::Unreachable { .. }
            | Self::NoQuorum(_)
            | Self::Io { .. }
            | Self::Internal(_) => true,
            Self::Mismatch { .. } | Self::Invalid(_) | Self::OutOfRange { .. } => false,
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash { actual } => write!(f, "they hash to {actual}"),
            Self::TooShort { got } => write!(f, "only {got} bytes came"),
            Self::TooLong => f.write_str("more bytes came than its size"),
        }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot {}: {} of {} needed nodes took part",
            self.doing, self.got, self.needed
        )?;
        for (index, (node, cause)) in self.causes.iter().enumerate() {
            let lead = if index == 0 { "; " } else { ", " };
            write!(f, "{lead}node {node}: {cause}")?;
        }
        Ok(())
    }
}
