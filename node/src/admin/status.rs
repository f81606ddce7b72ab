//! The status document, put together from one look.

use std::collections::BTreeSet;

use weir_cluster::{
    NodeId,
    peer::{RepairReport, Report, ScrubReport},
    placement::loss::zone_losses,
    state::{Member, MemberStatus, Settings},
};

use super::{AdminParts, Survey, weakness::weaker};
use crate::status::{
    ClusterStatus, EpochStatus, NodeStatus, RepairStatus, ScrubStatus, Setting, Weakness,
};

pub(super) fn document(
    parts: &AdminParts,
    survey: &Survey,
    promises: Vec<Weakness>,
) -> ClusterStatus {
    let view = &survey.view;
    let settings = &view.state().settings;
    let members = survey.members();
    let mut nodes: Vec<_> = members
        .iter()
        .map(|(id, member)| row(survey, *id, member))
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let left = survey.left();
    let voters: BTreeSet<_> = survey.roles.voters.iter().copied().collect();
    let losses = view
        .current()
        .map(|current| zone_losses(view.state(), current, &voters));
    let leader = survey.roles.leader;
    ClusterStatus {
        cluster: parts.cluster.to_string(),
        seen_by: survey.name(parts.me),
        leader: leader.and_then(|id| Some(members.get(&id)?.name.clone())),
        term: survey.roles.term,
        epoch: view.epoch().0,
        older_epochs: view.placements().len().saturating_sub(1) as u64,
        replicas: settings.replicas,
        write_quorum: settings.write_quorum,
        under_replicated: survey.under_replicated(),
        weaker: weaker(survey).iter().map(ToString::to_string).collect(),
        nodes,
        promises,
        epochs: epochs(survey),
        bytes_left: left.bytes,
        bytes_per_second: left.bytes_per_second,
        eta_seconds: left.seconds(),
        zones: losses.into_iter().flatten().map(Into::into).collect(),
        settings: settings_of(settings),
    }
}

pub(super) fn settings_of(settings: &Settings) -> Vec<Setting> {
    let list = settings.list().into_iter();
    list.map(|(name, value)| Setting {
        name: name.into(),
        value,
    })
    .collect()
}

fn epochs(survey: &Survey) -> Vec<EpochStatus> {
    let plans = survey.view.state().epochs.iter().rev();
    plans
        .enumerate()
        .map(|(index, plan)| {
            // Only the marks of the current epoch count any more.
            let waiting = if index == 0 {
                survey.waiting()
            } else {
                Vec::new()
            };
            EpochStatus {
                epoch: plan.epoch.0,
                owners: plan.nodes.len() as u64,
                waiting,
            }
        })
        .collect()
}

fn row(survey: &Survey, id: NodeId, member: &Member) -> NodeStatus {
    let roles = &survey.roles;
    let role = if roles.leader == Some(id) {
        "leader"
    } else if roles.voters.contains(&id) {
        "voter"
    } else if roles.learners.contains(&id) {
        "learner"
    } else {
        "none"
    };
    let status = match member.status {
        MemberStatus::Joining => "joining",
        MemberStatus::Active => "active",
        MemberStatus::Draining => "draining",
    };
    let (state, report) = match survey.reports.get(&id) {
        Some(Ok(report)) => (status, report.clone()),
        Some(Err(why)) => {
            let volume = why.clone();
            let report = Report {
                volume,
                ..Report::default()
            };
            ("down", report)
        }
        None => ("down", Report::default()),
    };
    let placements = survey.view.placements();
    let current = survey.view.current();
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
        weight: member.weight,
        status: status.into(),
        slots: current.map_or(0, |current| current.slots_of(id) as u64),
        epochs: placements
            .iter()
            .filter(|placement| placement.contains(id))
            .map(|placement| placement.epoch().0)
            .collect(),
        repair: repair(report.repair),
        scrub: scrub(report.scrub),
    }
}

fn repair(report: RepairReport) -> RepairStatus {
    RepairStatus {
        lacking_blobs: report.lacking_blobs,
        lacking_bytes: report.lacking_bytes,
        surplus_blobs: report.surplus_blobs,
        surplus_bytes: report.surplus_bytes,
        fetched_blobs: report.fetched_blobs,
        fetched_bytes: report.fetched_bytes,
        bytes_per_second: report.bytes_per_second,
        settled: report.settled,
        settled_epoch: report.settled_epoch,
        trouble: report.trouble,
        look_age_ms: report.look_age_ms,
    }
}

fn scrub(report: ScrubReport) -> ScrubStatus {
    ScrubStatus {
        running: report.running,
        verified_blobs: report.verified_blobs,
        verified_bytes: report.verified_bytes,
        damaged: report.damaged,
        passes: report.passes,
    }
}
