//! The admin listener: status, joining, health.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::watch, time::timeout};
use tonic::{Request, Response, Status, service::Routes};
use weir_cluster::{
    ClusterId, Error, NodeId,
    peer::{Peers, Report, server::ReportSource},
    placement::view::View,
    raft::{Consensus, Roles},
    state::{Command, Member, MemberStatus, Response as Answer},
};
use weir_proto::cluster::{
    ChangeResponse, DrainRequest, JoinRequest, JoinResponse, PlanRequest, PlanResponse,
    RelabelRequest, RemoveRequest, ScrubNodesRequest, SettleRequest, StatusRequest, StatusResponse,
    admin_server::{Admin as AdminApi, AdminServer},
};

use crate::{
    api,
    status::{ClusterStatus, NodeStatus},
};

/// How long a node may take to say how it is before it counts as down.
const REPORT_DEADLINE: Duration = Duration::from_secs(2);

/// What the listener serves from.
#[derive(Clone)]
pub struct Admin {
    pub me: NodeId,
    pub cluster: ClusterId,
    pub consensus: Arc<dyn Consensus>,
    pub view: watch::Receiver<Arc<View>>,
    pub peers: Arc<dyn Peers>,
    pub report: ReportSource,
}

impl Admin {
    /// The gRPC service, and beside it for probes `/healthz` (the process
    /// lives) and `/readyz` (it knows a leader and its volume takes writes).
    #[must_use]
    pub fn routes(self) -> Routes {
        let http = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/status", get(status_page))
            .with_state(self.clone());
        Routes::from(http).add_service(AdminServer::new(self))
    }

    /// The cluster as this node sees it now.
    pub async fn status(&self) -> ClusterStatus {
        let view = self.view.borrow().clone();
        let roles = self.consensus.roles();
        let mut reports = self.reports(&view).await;
        let members = &view.state().members;
        let mut nodes: Vec<_> = members
            .iter()
            .map(|(id, member)| row(*id, member, &roles, reports.remove(id)))
            .collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let down: Vec<_> = nodes.iter().filter(|node| !node.is_up()).collect();
        let under_replicated = under_replicated(&view, &nodes);
        let mut weaker = view.weaker();
        if let Some(node) = down.first() {
            let names: Vec<_> = down.iter().map(|node| node.name.as_str()).collect();
            weaker.push(format!(
                "{under_replicated} of 16384 slots miss an owner: {} down ({}) (P2)",
                names.join(", "),
                node.volume
            ));
        }
        for node in nodes
            .iter()
            .filter(|node| node.is_up() && node.volume != "ok")
        {
            weaker.push(format!(
                "the volume of {} is not in use: {} (P1)",
                node.name, node.volume
            ));
        }
        if roles.leader.is_none() {
            weaker.push("no leader is known: pushes and misses wait (P3, P4)".into());
        }
        let name = |id: &NodeId| members.get(id).map(|member| member.name.clone());
        ClusterStatus {
            cluster: self.cluster.to_string(),
            seen_by: name(&self.me).unwrap_or_else(|| self.me.to_string()),
            leader: roles.leader.as_ref().and_then(name),
            epoch: view.epoch().0,
            older_epochs: view.placements().len().saturating_sub(1) as u64,
            replicas: view.state().settings.replicas,
            write_quorum: view.state().settings.write_quorum,
            under_replicated,
            weaker,
            nodes,
        }
    }

    /// Each member's account of itself, or why there is none.
    async fn reports(&self, view: &View) -> BTreeMap<NodeId, Result<Report, String>> {
        let asked: FuturesUnordered<_> = view
            .state()
            .members
            .keys()
            .map(|id| async move {
                if *id == self.me {
                    return (*id, Ok((self.report)()));
                }
                let report = match timeout(REPORT_DEADLINE, self.peers.report(*id)).await {
                    Ok(Ok(report)) => Ok(report),
                    Ok(Err(Error::Unreachable { cause, .. })) => Err(cause),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("it does not answer".into()),
                };
                (*id, report)
            })
            .collect();
        asked.collect().await
    }
}

fn row(
    id: NodeId,
    member: &Member,
    roles: &Roles,
    report: Option<Result<Report, String>>,
) -> NodeStatus {
    let role = if roles.leader == Some(id) {
        "leader"
    } else if roles.voters.contains(&id) {
        "voter"
    } else if roles.learners.contains(&id) {
        "learner"
    } else {
        "none"
    };
    let (state, report) = match report {
        Some(Ok(report)) => {
            let state = match member.status {
                MemberStatus::Joining => "joining",
                MemberStatus::Active => "active",
                MemberStatus::Draining => "draining",
            };
            (state, report)
        }
        Some(Err(why)) => {
            let volume = why;
            let report = Report {
                volume,
                ..Report::default()
            };
            ("down", report)
        }
        None => ("down", Report::default()),
    };
    NodeStatus {
        name: member.name.clone(),
        id: id.to_string(),
        zone: member.zone.clone(),
        host: member.host.clone(),
        state: state.into(),
        role: role.into(),
        blobs: report.blobs,
        bytes: report.bytes,
        capacity_bytes: report.capacity_bytes,
        volume: report.volume,
        version: report.version,
        client: member.client_address.clone(),
        peer: member.peer_address.clone(),
        admin: member.admin_address.clone(),
    }
}

/// Slots of which an owner is down.
fn under_replicated(view: &View, nodes: &[NodeStatus]) -> u64 {
    let Some(current) = view.current() else {
        return 0;
    };
    let is_up = |id: NodeId| {
        let id = id.to_string();
        nodes.iter().any(|node| node.id == id && node.is_up())
    };
    let up: BTreeMap<NodeId, bool> = current.nodes().map(|id| (id, is_up(id))).collect();
    let missing = weir_cluster::Slot::all().filter(|slot| {
        current
            .owners(*slot)
            .any(|owner| !up.get(&owner).copied().unwrap_or(false))
    });
    missing.count() as u64
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, String) {
    let volume = (admin.report)().volume;
    let leader = admin.consensus.roles().leader;
    match leader {
        Some(_) if volume == "ok" => (StatusCode::OK, "ok\n".into()),
        Some(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("volume: {volume}\n"),
        ),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "no leader is known\n".into(),
        ),
    }
}

async fn status_page(State(admin): State<Admin>) -> axum::Json<ClusterStatus> {
    axum::Json(admin.status().await)
}

#[tonic::async_trait]
impl AdminApi for Admin {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let status = Self::status(self).await;
        let json = serde_json::to_string_pretty(&status)
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(StatusResponse { json }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let id = NodeId::mint(&mut rand::rng());
        let member = Member {
            name: request.name,
            zone: request.zone,
            host: request.host,
            weight: request.weight,
            peer_address: request.peer_address,
            client_address: request.client_address,
            admin_address: request.admin_address,
            status: MemberStatus::Joining,
            boot: 0,
        };
        let command = Command::AddMember { id, member };
        match self.consensus.propose(command).await {
            Ok(Answer::Done { .. }) => Ok(Response::new(JoinResponse {
                cluster_id: self.cluster.to_string(),
                node_id: id.0,
            })),
            Ok(Answer::Refused { reason }) => Err(Status::failed_precondition(reason)),
            Err(error) => Err(api::status::of(&error)),
        }
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<ChangeResponse>, Status> {
        Err(Status::unimplemented("soon"))
    }

    async fn remove(&self, _: Request<RemoveRequest>) -> Result<Response<ChangeResponse>, Status> {
        Err(Status::unimplemented("soon"))
    }

    async fn relabel(
        &self,
        _: Request<RelabelRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        Err(Status::unimplemented("soon"))
    }

    async fn settle(&self, _: Request<SettleRequest>) -> Result<Response<ChangeResponse>, Status> {
        Err(Status::unimplemented("soon"))
    }

    async fn plan(&self, _: Request<PlanRequest>) -> Result<Response<PlanResponse>, Status> {
        Err(Status::unimplemented("soon"))
    }

    async fn scrub(
        &self,
        _: Request<ScrubNodesRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        Err(Status::unimplemented("soon"))
    }
}
