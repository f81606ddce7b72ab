//! The admin listener: status, metrics, health, and every change that an
//! operator makes.
//!
//! Whoever reaches it may change the cluster; it listens on loopback unless it
//! is told otherwise. Invariants:
//!
//! - a change is decided on state that is as new as the call: each begins with
//!   a read barrier;
//! - what could lose the last copy of a blob is refused with what to do first,
//!   unless the caller says that it may be lost;
//! - looking never changes anything, and costs one small message for each
//!   member at most.

mod members;
mod metrics;
mod plan;
mod service;
mod settle;
mod status;
mod survey;
#[cfg(test)]
mod tests;
mod weakness;

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::sync::watch;
use tonic::service::Routes;
use weir_cluster::{
    ClusterId, NodeId,
    peer::{
        Peers,
        server::{ReportSource, ScrubTrigger},
    },
    placement::view::View,
    raft::Consensus,
};
use weir_proto::cluster::admin_server::AdminServer;

use self::{service::AdminService, survey::Survey, weakness::Tracker};
use crate::status::ClusterStatus;

/// Between two looks at all members in the background. Since when a promise is
/// weaker is known as exactly as this.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What the listener serves from.
pub struct AdminParts {
    pub me: NodeId,
    pub cluster: ClusterId,
    pub consensus: Arc<dyn Consensus>,
    pub view: watch::Receiver<Arc<View>>,
    pub peers: Arc<dyn Peers>,
    /// How this node is.
    pub report: ReportSource,
    /// Begins to verify this node's copies.
    pub scrub: ScrubTrigger,
}

/// The operator's side of a node.
pub struct Admin {
    parts: AdminParts,
    tracker: Tracker,
    // A std mutex: held to take or put a pointer, never across an await.
    last: Mutex<Option<Arc<Survey>>>,
}

impl Admin {
    /// Begins to look at the cluster in the background, for as long as the
    /// listener is served.
    #[must_use]
    pub fn start(parts: AdminParts) -> Arc<Self> {
        let this = Arc::new(Self {
            parts,
            tracker: Tracker::default(),
            last: Mutex::new(None),
        });
        tokio::spawn(keep_looking(Arc::downgrade(&this)));
        this
    }

    /// The gRPC service, and beside it for probes `/healthz` (the process
    /// lives) and `/readyz` (it knows a leader and its volume takes writes), and
    /// `/metrics` for Prometheus.
    #[must_use]
    pub fn routes(self: &Arc<Self>) -> Routes {
        let http = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/status", get(status_page))
            .route("/metrics", get(metrics_page))
            .with_state(Arc::clone(self));
        let service = AdminService::new(Arc::clone(self));
        Routes::from(http).add_service(AdminServer::new(service))
    }

    /// The cluster as this node sees it now.
    pub async fn status(&self) -> ClusterStatus {
        let survey = self.look().await;
        let promises = self.promises(&survey);
        status::document(&self.parts, &survey, promises)
    }

    /// Asks all members how they are, and remembers the answers.
    async fn look(&self) -> Arc<Survey> {
        let survey = Arc::new(Survey::take(&self.parts).await);
        let weaker = weakness::weaker(&survey);
        self.tracker.note(Instant::now(), &weaker);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&survey));
        survey
    }

    /// The last look, at most a few seconds old; a new one before the first.
    async fn last_look(&self) -> Arc<Survey> {
        let last = {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.clone()
        };
        match last {
            Some(survey) => survey,
            None => self.look().await,
        }
    }

    fn promises(&self, survey: &Survey) -> Vec<crate::status::Weakness> {
        self.tracker
            .since(Instant::now(), &weakness::weaker(survey))
    }
}

async fn keep_looking(admin: Weak<Admin>) {
    loop {
        match admin.upgrade() {
            Some(admin) => _ = admin.look().await,
            None => return,
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

async fn ready(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    let volume = (admin.parts.report)().volume;
    let leader = admin.parts.consensus.roles().leader;
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

async fn status_page(State(admin): State<Arc<Admin>>) -> axum::Json<ClusterStatus> {
    axum::Json(admin.status().await)
}

async fn metrics_page(
    State(admin): State<Arc<Admin>>,
) -> ([(&'static str, &'static str); 1], String) {
    let survey = admin.last_look().await;
    let own = (admin.parts.report)();
    let text = metrics::text(admin.parts.me, &own, &survey);
    ([("content-type", "text/plain; version=0.0.4")], text)
}
