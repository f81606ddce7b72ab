//! What a change would move, without making it.

use std::collections::BTreeSet;

use tonic::Status;
use weir_cluster::{
    Error,
    membership::choose_voters,
    placement::{
        loss::zone_losses,
        preview::{Change, Preview, preview},
    },
    state::ClusterState,
};
use weir_proto::cluster::PlanRequest;

use super::{Admin, members, settle, survey::Survey};
use crate::{
    api,
    status::{Plan, PlanNode, bytes_text},
};

impl Admin {
    pub(super) async fn plan(&self, request: &PlanRequest) -> Result<Plan, Status> {
        let state = self.fresh_state().await?;
        let (change, words) = change(&state, request)?;
        let survey = self.look().await;
        let bytes = survey.answers().map(|(id, report)| (id, report.bytes));
        let bytes = bytes.collect();
        let (looked_at, looking_at) = (change.clone(), state.clone());
        // Two slot tables: tens of milliseconds in a large cluster.
        let looking = move || preview(&looking_at, &looked_at, &bytes);
        let seen = tokio::task::spawn_blocking(looking)
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| match error {
                Error::Invalid(reason) => {
                    Status::failed_precondition(format!("this would be refused: {reason}"))
                }
                error => api::status::of(&error),
            })?;
        let mut notes = notes(&seen, &survey);
        if let Change::Remove(id) = change {
            let slots = self.slots_at_stake(&state, id).await;
            if slots > 0 {
                notes.push(format!("{slots} of 16384 slots may lose their last copies"));
            }
        }
        Ok(document(words, &seen, &survey, notes))
    }
}

/// The one change that is asked about, and what to call it.
fn change(state: &ClusterState, request: &PlanRequest) -> Result<(Change, String), Status> {
    let PlanRequest {
        add_zone,
        add_weight,
        drain,
        remove,
        relabel,
        settings,
    } = request;
    let asked = [
        !add_zone.is_empty(),
        !drain.is_empty(),
        !remove.is_empty(),
        relabel.is_some(),
        !settings.is_empty(),
    ];
    if asked.iter().filter(|asked| **asked).count() > 1 {
        return Err(Status::invalid_argument("ask about one change at a time"));
    }
    let name = |id| &state.members[&id].name;
    if !add_zone.is_empty() {
        let (zone, weight) = (add_zone.clone(), (*add_weight).max(1));
        let words = format!("a node joins in zone {zone} with weight {weight}");
        return Ok((Change::Join { zone, weight }, words));
    }
    if !drain.is_empty() {
        let id = members::find(state, drain)?;
        return Ok((Change::Drain(id), format!("{} drains", name(id))));
    }
    if !remove.is_empty() {
        let id = members::find(state, remove)?;
        let words = format!("{} is removed as dead", name(id));
        return Ok((Change::Remove(id), words));
    }
    if let Some(request) = relabel {
        let id = members::find(state, &request.node)?;
        let row = members::relabelled(&state.members[&id], request)?;
        let words = format!(
            "{} is in zone {}, on host {}, with weight {}",
            row.name, row.zone, row.host, row.weight
        );
        let change = Change::Relabel {
            id,
            zone: row.zone,
            host: row.host,
            weight: row.weight,
        };
        return Ok((change, words));
    }
    if !settings.is_empty() {
        let settings = settle::changed(state, settings)?;
        let words = settle::differences(&state.settings, &settings);
        return Ok((Change::Settle(settings), words));
    }
    Ok((Change::Nothing, "what moves now".into()))
}

/// What else to know before.
fn notes(seen: &Preview, survey: &Survey) -> Vec<String> {
    let mut notes = Vec::new();
    for node in &seen.nodes {
        let capacity = survey.report(node.id).map(|report| report.capacity_bytes);
        if let Some(capacity) = capacity.filter(|capacity| node.bytes_after > *capacity) {
            notes.push(format!(
                "{} would hold {} and has room for {}: it evicts, or refuses uploads",
                survey.name(node.id),
                bytes_text(node.bytes_after),
                bytes_text(capacity)
            ));
        }
    }
    let silent: Vec<_> = survey
        .reports
        .keys()
        .filter(|id| !survey.is_up(**id))
        .map(|id| survey.name(*id))
        .collect();
    if !silent.is_empty() {
        notes.push(format!(
            "{} do not answer; bytes are estimated without them",
            silent.join(", ")
        ));
    }
    notes
}

fn document(change: String, seen: &Preview, survey: &Survey, notes: Vec<String>) -> Plan {
    let mut nodes: Vec<_> = seen
        .nodes
        .iter()
        .map(|node| {
            let is_new = seen.newcomer == Some(node.id);
            let report = survey.report(node.id);
            PlanNode {
                name: if is_new {
                    "(new)".into()
                } else {
                    survey.name(node.id)
                },
                id: if is_new {
                    String::new()
                } else {
                    node.id.to_string()
                },
                zone: node.zone.clone(),
                slots_before: node.slots_before,
                slots_after: node.slots_after,
                gains: node.gains,
                fetches_bytes: node.fetches_bytes,
                bytes_after: node.bytes_after,
                capacity_bytes: report.map_or(0, |report| report.capacity_bytes),
            }
        })
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let present: BTreeSet<_> = survey.roles.voters.iter().copied().collect();
    let able = seen.state.members.keys().copied().collect();
    let voters = choose_voters(&seen.state, &present, &able);
    let losses = zone_losses(&seen.state, &seen.placement, &voters);
    Plan {
        change,
        from_epoch: seen.from.0,
        to_epoch: seen.to.0,
        copies_before: seen.copies.0 as u64,
        copies_after: seen.copies.1 as u64,
        moved: seen.moved,
        ideal: seen.ideal,
        moved_bytes: seen.moved_bytes,
        nodes,
        zones: losses.into_iter().map(Into::into).collect(),
        notes,
    }
}
