//! `build.bazel.remote.execution.v2.Capabilities`.

use tonic::{Request, Response, Status};
use weir_proto::{
    reapi::{
        ActionCacheUpdateCapabilities, CacheCapabilities, GetCapabilitiesRequest,
        ServerCapabilities, capabilities_server, digest_function, symlink_absolute_path_strategy,
    },
    semver::SemVer,
};

use super::{ApiConfig, arguments};

/// What clients are told to put into one batch, both ways. A gRPC client takes
/// messages up to 4 MiB, and each blob costs some 90 bytes beside its own. This
/// leaves 1 MiB for them: a full batch stays readable down to blobs of 300
/// bytes on average. Less would cost calls, more would cost readability.
pub(crate) const BATCH_BYTES: u64 = 3 << 20;

/// Says what this cache can do.
pub(crate) struct Capabilities {
    max_blob_bytes: i64,
}

impl Capabilities {
    pub(crate) fn new(config: &ApiConfig) -> Self {
        Self {
            max_blob_bytes: i64::try_from(config.max_blob_bytes).unwrap_or(i64::MAX),
        }
    }
}

#[tonic::async_trait]
impl capabilities_server::Capabilities for Capabilities {
    async fn get_capabilities(
        &self,
        request: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<ServerCapabilities>, Status> {
        arguments::instance(&request.get_ref().instance_name)?;
        let version = |minor| {
            Some(SemVer {
                major: 2,
                minor,
                ..SemVer::default()
            })
        };
        Ok(Response::new(ServerCapabilities {
            cache_capabilities: Some(CacheCapabilities {
                digest_functions: vec![digest_function::Value::Sha256 as i32],
                action_cache_update_capabilities: Some(ActionCacheUpdateCapabilities {
                    update_enabled: false,
                }),
                cache_priority_capabilities: None,
                max_batch_total_size_bytes: BATCH_BYTES as i64,
                symlink_absolute_path_strategy: symlink_absolute_path_strategy::Value::Allowed
                    as i32,
                supported_compressors: Vec::new(),
                supported_batch_update_compressors: Vec::new(),
                max_cas_blob_size_bytes: self.max_blob_bytes,
            }),
            // Left out, not set to "disabled": Buck2 takes the latter for fatal.
            execution_capabilities: None,
            deprecated_api_version: None,
            // Bazel 4 refuses anything that does not begin at 2.0.
            low_api_version: version(0),
            high_api_version: version(3),
        }))
    }
}
