//! The gRPC face of the operator's side.

use std::sync::Arc;

use serde::Serialize;
use tonic::{Request, Response, Status};
use weir_proto::cluster::{
    ChangeResponse, DrainRequest, JoinRequest, JoinResponse, PlanRequest, PlanResponse,
    RelabelRequest, RemoveRequest, ScrubNodesRequest, SettleRequest, StatusRequest, StatusResponse,
    admin_server::Admin as AdminApi,
};

use super::Admin;

pub(super) struct AdminService {
    admin: Arc<Admin>,
}

impl AdminService {
    pub(super) fn new(admin: Arc<Admin>) -> Self {
        Self { admin }
    }
}

/// What was done; who did it is in the log of this node.
fn done(message: String) -> Response<ChangeResponse> {
    tracing::info!(message, "an operator changed the cluster");
    Response::new(ChangeResponse { message })
}

fn json(document: &impl Serialize) -> Result<String, Status> {
    serde_json::to_string_pretty(document).map_err(|error| Status::internal(error.to_string()))
}

#[tonic::async_trait]
impl AdminApi for AdminService {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let json = json(&self.admin.status().await)?;
        Ok(Response::new(StatusResponse { json }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let id = self.admin.join(request.into_inner()).await?;
        Ok(Response::new(JoinResponse {
            cluster_id: self.admin.parts.cluster.to_string(),
            node_id: id.0,
        }))
    }

    async fn drain(
        &self,
        request: Request<DrainRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        let DrainRequest { node, cancel } = request.into_inner();
        self.admin.drain(&node, cancel).await.map(done)
    }

    async fn remove(
        &self,
        request: Request<RemoveRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        self.admin.remove(request.get_ref()).await.map(done)
    }

    async fn relabel(
        &self,
        request: Request<RelabelRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        self.admin.relabel(request.into_inner()).await.map(done)
    }

    async fn settle(
        &self,
        request: Request<SettleRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        self.admin
            .settle(&request.get_ref().settings)
            .await
            .map(done)
    }

    async fn plan(&self, request: Request<PlanRequest>) -> Result<Response<PlanResponse>, Status> {
        let json = json(&self.admin.plan(request.get_ref()).await?)?;
        Ok(Response::new(PlanResponse { json }))
    }

    async fn scrub(
        &self,
        request: Request<ScrubNodesRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        self.admin.scrub(&request.get_ref().node).await.map(done)
    }
}
