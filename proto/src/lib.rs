//! Generated types of every protocol that Weir speaks.
//!
//! `vendor/` holds the public protocols (Remote Execution, Remote Asset,
//! ByteStream, BuildStream's reference storage); `cluster/` holds Weir's own
//! protocol between nodes. All `bytes` fields are [`bytes::Bytes`], so that a
//! payload is sliced out of the receive buffer and not copied.

#![allow(clippy::all, missing_docs)]

pub mod google {
    pub mod bytestream {
        tonic::include_proto!("google.bytestream");
    }
    pub mod longrunning {
        tonic::include_proto!("google.longrunning");
    }
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
    pub mod api {
        tonic::include_proto!("google.api");
    }
}

pub mod build {
    pub mod bazel {
        pub mod semver {
            tonic::include_proto!("build.bazel.semver");
        }
        pub mod remote {
            pub mod asset {
                pub mod v1 {
                    tonic::include_proto!("build.bazel.remote.asset.v1");
                }
            }
            pub mod execution {
                pub mod v2 {
                    tonic::include_proto!("build.bazel.remote.execution.v2");
                }
            }
        }
    }
}

pub mod buildstream {
    /// BuildStream 1's own reference service.
    pub mod v2 {
        tonic::include_proto!("buildstream.v2");
    }
}

/// Weir's protocol between nodes.
pub mod cluster {
    tonic::include_proto!("weir.cluster.v1");
}

/// Short names for the public protocols.
pub use build::bazel::{
    remote::{asset::v1 as asset, execution::v2 as reapi},
    semver,
};
pub use google::{bytestream, rpc};

/// The encoded `FileDescriptorSet` of everything above, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
