//! `buildstream.v2.ReferenceStorage`: refs as BuildStream 1 knows them.
//!
//! BuildStream 1.6 probes FetchDirectory without URIs first and, told
//! INVALID_ARGUMENT, uses Remote Asset; older ones know this service alone.

use tonic::{Request, Response, Status};
use tracing::Instrument;
use weir_cluster::state::{RefKey, RefKind};
use weir_proto::buildstream::v2::{
    GetReferenceRequest, GetReferenceResponse, StatusRequest, StatusResponse,
    UpdateReferenceRequest, UpdateReferenceResponse, reference_storage_server,
};

use super::{
    arguments,
    asset::check_uri,
    gather::{Roots, Target},
    publish::Publisher,
    refs::RefFinder,
};

/// Keys in one update; BuildStream sends one or two.
const KEYS: usize = 64;

/// The ReferenceStorage service.
pub(crate) struct ReferenceStorage {
    finder: RefFinder,
    publisher: Publisher,
}

impl ReferenceStorage {
    pub(crate) fn new(finder: RefFinder, publisher: Publisher) -> Self {
        Self { finder, publisher }
    }
}

fn ref_key(instance: &str, key: &str) -> Result<RefKey, Status> {
    check_uri(key)?;
    Ok(RefKey::new(
        RefKind::BuildStream1,
        instance,
        key,
        Vec::new(),
    ))
}

#[tonic::async_trait]
impl reference_storage_server::ReferenceStorage for ReferenceStorage {
    async fn get_reference(
        &self,
        request: Request<GetReferenceRequest>,
    ) -> Result<Response<GetReferenceResponse>, Status> {
        let GetReferenceRequest { instance_name, key } = request.into_inner();
        arguments::instance(&instance_name)?;
        let key = ref_key(&instance_name, &key)?;
        let span = tracing::debug_span!("get_reference", instance = %instance_name);
        let hit = self.finder.find(&[key], None).instrument(span).await?;
        let hit = hit.ok_or_else(|| Status::not_found("no reference under this key"))?;
        Ok(Response::new(GetReferenceResponse {
            digest: Some(arguments::to_wire(hit.value.digest)),
        }))
    }

    async fn update_reference(
        &self,
        request: Request<UpdateReferenceRequest>,
    ) -> Result<Response<UpdateReferenceResponse>, Status> {
        let update = request.into_inner();
        arguments::instance(&update.instance_name)?;
        if update.keys.is_empty() || update.keys.len() > KEYS {
            return Err(Status::invalid_argument(format!(
                "keys must be 1 to {KEYS}"
            )));
        }
        let keys = update
            .keys
            .iter()
            .map(|key| ref_key(&update.instance_name, key));
        let keys = keys.collect::<Result<_, _>>()?;
        let digest = arguments::required(update.digest.as_ref(), "digest")?;
        let span = tracing::debug_span!("update_reference", instance = %update.instance_name);
        self.publisher
            .publish(keys, Target::Directory(digest), &Roots::default(), None)
            .instrument(span)
            .await?;
        Ok(Response::new(UpdateReferenceResponse {}))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        arguments::instance(&request.get_ref().instance_name)?;
        Ok(Response::new(StatusResponse {
            allow_updates: true,
        }))
    }
}
