//! The cluster as this node finds it at one moment.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::timeout;
use weir_cluster::{
    Error, NodeId, Slot, peer::Report, placement::view::View, raft::Roles, state::Member,
};

use super::AdminParts;

/// How long a node may take to say how it is before it counts as down.
pub(super) const REPORT_DEADLINE: Duration = Duration::from_secs(2);

/// What agreed state, Raft and each member say.
pub(super) struct Survey {
    pub(super) view: Arc<View>,
    pub(super) roles: Roles,
    /// Each member's account of itself, or why there is none.
    pub(super) reports: BTreeMap<NodeId, Result<Report, String>>,
}

/// What owners still have to fetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Left {
    pub(super) bytes: u64,
    pub(super) bytes_per_second: u64,
}

impl Left {
    /// How long it takes at this rate.
    pub(super) fn seconds(self) -> Option<u64> {
        (self.bytes > 0 && self.bytes_per_second > 0)
            .then(|| self.bytes.div_ceil(self.bytes_per_second))
    }
}

impl Survey {
    pub(super) async fn take(parts: &AdminParts) -> Self {
        // The watched view follows a change a moment later, and who has just
        // made a change wants to see it.
        let state = parts.consensus.state().borrow().clone();
        let known = parts.view.borrow().clone();
        let view = Arc::new(View::from_state(parts.me, &state, Some(&known)));
        let members: Vec<_> = view.state().members.keys().copied().collect();
        let asked: FuturesUnordered<_> = members
            .into_iter()
            .map(|id| async move { (id, report(parts, id).await) })
            .collect();
        Self {
            roles: parts.consensus.roles(),
            reports: asked.collect().await,
            view,
        }
    }

    pub(super) fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.view.state().members
    }

    pub(super) fn report(&self, id: NodeId) -> Option<&Report> {
        self.reports.get(&id)?.as_ref().ok()
    }

    /// Reports of the members that answer.
    pub(super) fn answers(&self) -> impl Iterator<Item = (NodeId, &Report)> {
        let reports = self.reports.iter();
        reports.filter_map(|(id, report)| Some((*id, report.as_ref().ok()?)))
    }

    pub(super) fn is_up(&self, id: NodeId) -> bool {
        self.report(id).is_some()
    }

    /// Whether a node is there to hold its copies: it answers, and its volume
    /// is in use.
    fn serves(&self, id: NodeId) -> bool {
        self.report(id).is_some_and(|report| !is_fenced(report))
    }

    /// Slots of which an owner is down or out of use.
    pub(super) fn under_replicated(&self) -> u64 {
        let Some(current) = self.view.current() else {
            return 0;
        };
        let serves: BTreeMap<_, _> = current.nodes().map(|id| (id, self.serves(id))).collect();
        let all_serve = |slot| current.owners(slot).all(|owner| serves[&owner]);
        Slot::all().filter(|slot| !all_serve(*slot)).count() as u64
    }

    pub(super) fn left(&self) -> Left {
        self.answers()
            .fold(Left::default(), |left, (_, report)| Left {
                bytes: left.bytes + report.repair.lacking_bytes,
                bytes_per_second: left.bytes_per_second + report.repair.bytes_per_second,
            })
    }

    /// A member's name; of a node that left, its id.
    pub(super) fn name(&self, id: NodeId) -> String {
        let member = self.members().get(&id);
        member.map_or_else(|| id.to_string(), |member| member.name.clone())
    }

    /// Names of the members that own blobs in the current epoch and have not said
    /// yet that they hold them all.
    pub(super) fn waiting(&self) -> Vec<String> {
        let Some(current) = self.view.state().epochs.last() else {
            return Vec::new();
        };
        let owners = current.nodes.keys();
        let open = owners.filter(|id| !current.handed_off.contains(id));
        let mut names: Vec<_> = open
            .filter_map(|id| Some(self.members().get(id)?.name.clone()))
            .collect();
        names.sort_unstable();
        names
    }
}

/// Whether a volume was taken out of use: neither in order nor merely full.
pub(super) fn is_fenced(report: &Report) -> bool {
    report.volume != "ok" && !report.volume.starts_with("full")
}

/// One member's account of itself, or why there is none.
pub(super) async fn report(parts: &AdminParts, id: NodeId) -> Result<Report, String> {
    if id == parts.me {
        return Ok((parts.report)());
    }
    match timeout(REPORT_DEADLINE, parts.peers.report(id)).await {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(Error::Unreachable { cause, .. })) => Err(cause),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it does not answer".into()),
    }
}
