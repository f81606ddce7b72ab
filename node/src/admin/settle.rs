//! Changing the settings of the cluster, and having copies verified.

use futures::future::join_all;
use tokio::time::timeout;
use tonic::Status;
use weir_cluster::{
    NodeId,
    state::{ClusterState, Command, Settings},
};

use super::{Admin, members, survey::REPORT_DEADLINE};

impl Admin {
    /// Changes settings given as `name=value`; those not named stay.
    pub(super) async fn settle(&self, pairs: &[String]) -> Result<String, Status> {
        let state = self.fresh_state().await?;
        let settings = changed(&state, pairs)?;
        if settings == state.settings {
            return Ok("nothing changes: the settings are so already".into());
        }
        let said = differences(&state.settings, &settings);
        let moves = settings.replicas != state.settings.replicas && !state.epochs.is_empty();
        self.propose(Command::Settle { settings }).await?;
        Ok(if moves {
            format!("{said}; a new epoch begins and blobs move, see `weir status`")
        } else {
            said
        })
    }

    /// Has one node, or all, begin to verify their copies.
    pub(super) async fn scrub(&self, named: &str) -> Result<String, Status> {
        let state = self.fresh_state().await?;
        let nodes: Vec<NodeId> = if named.is_empty() {
            state.members.keys().copied().collect()
        } else {
            vec![members::find(&state, named)?]
        };
        let asked = nodes.iter().map(|id| self.begin_scrub(*id));
        let outcomes = join_all(asked).await;
        let mut begun = Vec::new();
        let mut failed = Vec::new();
        for (id, outcome) in nodes.iter().zip(outcomes) {
            let name = state.members[id].name.clone();
            match outcome {
                Ok(()) => begun.push(name),
                Err(why) => failed.push(format!("{name}: {why}")),
            }
        }
        begun.sort_unstable();
        failed.sort_unstable();
        let failed = failed.join("; ");
        match (&begun[..], &*failed) {
            ([], why) => Err(Status::unavailable(format!(
                "no node verifies its copies: {why}"
            ))),
            (names, "") => Ok(format!("{} verify their copies", names.join(", "))),
            (names, why) => {
                let names = names.join(", ");
                Ok(format!("{names} verify their copies; not so {why}"))
            }
        }
    }

    async fn begin_scrub(&self, id: NodeId) -> Result<(), String> {
        if id == self.parts.me {
            (self.parts.scrub)();
            return Ok(());
        }
        match timeout(REPORT_DEADLINE, self.parts.peers.scrub(id)).await {
            Ok(begun) => begun.map_err(|error| error.to_string()),
            Err(_) => Err("it does not answer".into()),
        }
    }
}

/// The settings after `name=value` pairs, checked.
pub(super) fn changed(state: &ClusterState, pairs: &[String]) -> Result<Settings, Status> {
    let mut settings = state.settings.clone();
    if pairs.is_empty() {
        return Err(Status::invalid_argument(
            "name what to change, e.g. repair.rate=100MiB",
        ));
    }
    for pair in pairs {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Status::invalid_argument(format!("{pair}: expected name=value")))?;
        settings
            .set(name.trim(), value.trim())
            .map_err(|error| Status::invalid_argument(format!("{pair}: {error}")))?;
    }
    settings.check().map_err(Status::invalid_argument)?;
    Ok(settings)
}

/// What changes, for people.
pub(super) fn differences(old: &Settings, new: &Settings) -> String {
    let changes: Vec<_> = old
        .list()
        .into_iter()
        .zip(new.list())
        .filter(|(old, new)| old != new)
        .map(|((name, old), (_, new))| format!("{name}: {old} -> {new}"))
        .collect();
    changes.join(", ")
}
