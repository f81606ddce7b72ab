//! Limits of the client port. Each has a default that suits a node with 2 GiB
//! of memory or more; none may be switched off.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The `[api]` section of `weir.toml`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Bytes of the largest blob that is accepted; told to clients. A larger
    /// upload is refused at its first message.
    pub max_blob_bytes: u64,
    /// Bytes of blobs that one BatchUpdateBlobs may carry. More than the
    /// 3 MiB that clients are told, since some do not ask.
    pub max_batch_bytes: u64,
    /// Bytes of request messages in memory at once, over all clients, and as
    /// many again of answers on their way. Calls beyond it wait for
    /// `overload_patience_seconds`. At least twice `max_batch_bytes`, or
    /// batches go one by one; at most 4 GiB.
    pub memory_bytes: u64,
    /// How long a call may wait for its share of `memory_bytes` before it is
    /// answered RESOURCE_EXHAUSTED. Not too short: BuildStream takes that code
    /// for a full cache and skips the artifact.
    pub overload_patience_seconds: u64,
    /// A client that owes us bytes and sends none for so long is cut off.
    /// Total time is not limited: slow links may take hours.
    pub stall_seconds: u64,
    /// For how long an upload whose client vanished may be continued under
    /// the same resource name. After it nothing of the upload is left.
    pub resume_seconds: u64,
    /// Uploads that wait to be continued; beyond it the oldest is given up.
    pub resume_uploads: usize,
    /// Bytes of all uploads that wait to be continued; beyond it the oldest
    /// is given up. They take disk space on the owners.
    pub resume_bytes: u64,
    /// Bytes to read from a client whose blob turns out to be present before
    /// it is answered. 0 answers at once. Some proxies (HAProxy, old Envoys)
    /// turn an early answer into an error; set this to the largest usual blob then.
    pub drain_bytes: u64,
    /// Blobs that one ref may keep, 1,500,000 at most. A larger closure is
    /// refused. 40 bytes each are read when a fetch looks whether all are there.
    pub closure_digests: usize,
    /// Bytes of Directory and Tree messages read to find one closure.
    pub closure_directory_bytes: u64,
    /// Nesting of directories. Each level is a round trip to the owners.
    pub closure_depth: usize,
    /// For how long a ref that was found complete is shown without looking
    /// again; never for more than a quarter of the lease that the look renewed.
    /// 0 looks at every fetch.
    pub closure_trust_seconds: u64,
    /// Closures that are walked at once; others wait. Each may take some
    /// 100 bytes of memory for each of `closure_digests`.
    pub closures_at_once: usize,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            max_blob_bytes: 64 << 30,
            max_batch_bytes: 64 << 20,
            memory_bytes: 512 << 20,
            overload_patience_seconds: 30,
            stall_seconds: 60,
            resume_seconds: 50,
            resume_uploads: 64,
            resume_bytes: 4 << 30,
            drain_bytes: 0,
            closure_digests: 1_000_000,
            closure_directory_bytes: 256 << 20,
            closure_depth: 1_000,
            closure_trust_seconds: 900,
            closures_at_once: 8,
        }
    }
}

impl ApiConfig {
    pub(crate) fn overload_patience(&self) -> Duration {
        Duration::from_secs(self.overload_patience_seconds)
    }

    pub(crate) fn stall(&self) -> Duration {
        Duration::from_secs(self.stall_seconds)
    }

    pub(crate) fn closure_trust(&self) -> Duration {
        Duration::from_secs(self.closure_trust_seconds)
    }

    pub(crate) fn resume(&self) -> Duration {
        Duration::from_secs(self.resume_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_may_name_some_limits_and_no_unknown_ones() {
        let config: ApiConfig = toml::from_str("stall_seconds = 5").unwrap();
        assert_eq!(config.stall(), Duration::from_secs(5));
        assert_eq!(config.resume(), ApiConfig::default().resume());
        assert!(toml::from_str::<ApiConfig>("stal_seconds = 5").is_err());
    }
}
