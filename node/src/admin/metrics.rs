//! `/metrics`, in the text format of Prometheus.
//!
//! About this node, and of the cluster what any node can tell. Labels are
//! bounded: names of promises and of states, never of nodes or clients.

use std::{collections::BTreeMap, fmt::Write};

use weir_cluster::{NodeId, peer::Report, state::MemberStatus};

use super::{survey::Survey, weakness};

/// The page: this node's own account of now, the cluster as last looked at.
pub(super) fn text(me: NodeId, own: &Report, survey: &Survey) -> String {
    let mut page = Page::default();
    page.node(own);
    page.repair(own);
    page.cluster(me, survey);
    page.out
}

#[derive(Default)]
struct Page {
    out: String,
}

impl Page {
    fn node(&mut self, own: &Report) {
        self.gauge("weir_blobs", "Blobs on this node", own.blobs);
        self.gauge("weir_bytes", "Bytes of blobs on this node", own.bytes);
        self.gauge(
            "weir_capacity_bytes",
            "Bytes that this node may use for blobs",
            own.capacity_bytes,
        );
        self.gauge(
            "weir_volume_ok",
            "Whether the volume takes writes",
            u64::from(own.volume == "ok"),
        );
    }

    fn repair(&mut self, own: &Report) {
        let (repair, scrub) = (&own.repair, &own.scrub);
        for (name, help, value) in [
            (
                "weir_repair_lacking_blobs",
                "Blobs that this node owns and lacks",
                repair.lacking_blobs,
            ),
            (
                "weir_repair_lacking_bytes",
                "Bytes that this node owns and lacks",
                repair.lacking_bytes,
            ),
            (
                "weir_repair_surplus_blobs",
                "Blobs that this node holds for others",
                repair.surplus_blobs,
            ),
            (
                "weir_repair_surplus_bytes",
                "Bytes that this node holds for others",
                repair.surplus_bytes,
            ),
            (
                "weir_repair_bytes_per_second",
                "Bytes that repair fetches a second of late",
                repair.bytes_per_second,
            ),
            (
                "weir_repair_settled",
                "Whether the last look reached every member and found nothing to do",
                repair.settled.into(),
            ),
            (
                "weir_scrub_running",
                "Whether copies are being verified now",
                scrub.running.into(),
            ),
            (
                "weir_scrub_verified_bytes",
                "Bytes verified in the pass under way, or in the last",
                scrub.verified_bytes,
            ),
        ] {
            self.gauge(name, help, value);
        }
        for (name, help, value) in [
            (
                "weir_repair_fetched_blobs_total",
                "Blobs that repair fetched since the start",
                repair.fetched_blobs,
            ),
            (
                "weir_repair_fetched_bytes_total",
                "Bytes that repair fetched since the start",
                repair.fetched_bytes,
            ),
            (
                "weir_scrub_damaged_total",
                "Copies found damaged since the start",
                scrub.damaged,
            ),
            (
                "weir_scrub_passes_total",
                "Times that every copy was verified",
                scrub.passes,
            ),
        ] {
            self.counter(name, help, value);
        }
    }

    fn cluster(&mut self, me: NodeId, survey: &Survey) {
        let leader = survey.roles.leader;
        for (name, help, value) in [
            (
                "weir_term",
                "The term of the leader; it grows with every election",
                survey.roles.term,
            ),
            ("weir_epoch", "The current epoch", survey.view.epoch().0),
            (
                "weir_epochs_alive",
                "Epochs in use, the current one included",
                survey.view.placements().len() as u64,
            ),
            (
                "weir_leader_known",
                "Whether this node knows a leader",
                leader.is_some().into(),
            ),
            (
                "weir_leader",
                "Whether this node leads",
                (leader == Some(me)).into(),
            ),
            (
                "weir_under_replicated_slots",
                "Slots of 16384 of which an owner is down or out of use",
                survey.under_replicated(),
            ),
        ] {
            self.gauge(name, help, value);
        }
        let state = |id: &NodeId, status| match status {
            _ if !survey.is_up(*id) => "down",
            MemberStatus::Joining => "joining",
            MemberStatus::Active => "active",
            MemberStatus::Draining => "draining",
        };
        let mut members = ["active", "down", "draining", "joining"]
            .map(|state| (state.to_owned(), 0))
            .into();
        let states = survey.members().iter();
        count(
            &mut members,
            states.map(|(id, member)| state(id, member.status)),
        );
        self.gauges("weir_members", "Members by state", "state", &members);
        let mut weaker = (1..=14).map(|number| (format!("P{number}"), 0)).collect();
        for entry in weakness::weaker(survey) {
            count(&mut weaker, entry.promises.split(", "));
        }
        self.gauges(
            "weir_promise_weaker",
            "Reasons for which a promise is weaker than configured",
            "promise",
            &weaker,
        );
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.one(name, help, "gauge", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.one(name, help, "counter", value);
    }

    fn one(&mut self, name: &str, help: &str, kind: &str, value: u64) {
        self.head(name, help, kind);
        let _ = writeln!(self.out, "{name} {value}");
    }

    fn gauges(&mut self, name: &str, help: &str, label: &str, values: &BTreeMap<String, u64>) {
        self.head(name, help, "gauge");
        for (value_of_label, value) in values {
            let _ = writeln!(self.out, "{name}{{{label}=\"{value_of_label}\"}} {value}");
        }
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.out, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    }
}

/// Counts labels; those that are not known are left out, so that no label is
/// unbounded.
fn count<'a>(counts: &mut BTreeMap<String, u64>, labels: impl Iterator<Item = &'a str>) {
    for label in labels {
        if let Some(count) = counts.get_mut(label) {
            *count += 1;
        }
    }
}
