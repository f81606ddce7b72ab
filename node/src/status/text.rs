//! The documents for people.

use std::fmt::Write;

use super::{ClusterStatus, NodeStatus, RepairStatus, ZoneStatus};

impl ClusterStatus {
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let leader = self.leader.as_deref().unwrap_or("none (no quorum)");
        let _ = writeln!(
            out,
            "cluster {}  leader {leader}  epoch {}  copies {} (durable before an answer: {})",
            self.cluster, self.epoch, self.replicas, self.write_quorum,
        );
        out.push_str(&self.nodes_text());
        for zone in zones_text(&self.zones) {
            let _ = writeln!(out, "{zone}");
        }
        if self.bytes_left > 0 {
            let _ = writeln!(out, "moving: {}", self.left_text());
        }
        if let Some(current) = self.epochs.first().filter(|_| self.epochs.len() > 1) {
            let older: Vec<_> = self.epochs[1..]
                .iter()
                .map(|e| e.epoch.to_string())
                .collect();
            let _ = writeln!(
                out,
                "handoff to epoch {}: {} not done; in use beside it: epoch {}",
                current.epoch,
                names(&current.waiting),
                older.join(", ")
            );
        }
        if self.under_replicated > 0 {
            let slots = self.under_replicated;
            let _ = writeln!(
                out,
                "under-replicated: {slots} of 16384 slots miss an owner"
            );
        }
        if self.promises.is_empty() {
            // A node that does not say since when yet.
            for weaker in &self.weaker {
                let _ = writeln!(out, "weaker: {weaker}");
            }
        }
        for weakness in &self.promises {
            let _ = writeln!(
                out,
                "weaker: {} ({}); since {}, until {}",
                weakness.what,
                weakness.promise,
                duration_text(weakness.since_seconds),
                weakness.until
            );
        }
        if self.weaker.is_empty() {
            out.push_str("every promise holds as configured\n");
        }
        out
    }

    /// The node table.
    #[must_use]
    pub fn nodes_text(&self) -> String {
        let rows = self.nodes.iter().map(|node| {
            [
                node.name.clone(),
                node.zone.clone(),
                node.state.clone(),
                node.role.clone(),
                node.blobs.to_string(),
                bytes_text(node.bytes),
                bytes_text(node.capacity_bytes),
                node.volume.clone(),
                repair_text(node),
                node.client.clone(),
            ]
        });
        let head = [
            "NODE", "ZONE", "STATE", "ROLE", "BLOBS", "BYTES", "CAPACITY", "VOLUME", "REPAIR",
            "CLIENTS",
        ];
        table(head.map(str::to_owned), rows.collect())
    }

    /// What is left to move, and how long that takes: `1.2 GiB left, 80.0
    /// MiB/s, about 15s`.
    #[must_use]
    pub fn left_text(&self) -> String {
        let mut out = format!("{} left", bytes_text(self.bytes_left));
        if let Some(seconds) = self.eta_seconds {
            let rate = bytes_text(self.bytes_per_second);
            let _ = write!(out, ", {rate}/s, about {}", duration_text(seconds));
        }
        out
    }
}

/// What repair on a node is doing, in a few words.
fn repair_text(node: &NodeStatus) -> String {
    let RepairStatus {
        lacking_bytes,
        lacking_blobs,
        surplus_bytes,
        surplus_blobs,
        settled,
        ..
    } = node.repair;
    match (node.is_up(), lacking_blobs, surplus_blobs) {
        (false, ..) => "-".into(),
        (_, 0, 0) if settled => "settled".into(),
        (_, 0, 0) => "looking".into(),
        (_, 0, _) => format!("gives {}", bytes_text(surplus_bytes)),
        _ => format!("lacks {}", bytes_text(lacking_bytes)),
    }
}

/// What the loss of a zone would cost, one line for all that cost the same.
pub(super) fn zones_text(zones: &[ZoneStatus]) -> Vec<String> {
    let mut costs: Vec<(String, Vec<&str>)> = Vec::new();
    for zone in zones {
        let mut cost = Vec::new();
        if zone.slots_lost > 0 {
            cost.push(format!("every copy of {} of 16384 slots", zone.slots_lost));
        }
        if zone.majority_lost {
            cost.push("the majority of voters (pushes wait)".into());
        }
        if zone.slots_single > 0 {
            let slots = zone.slots_single;
            cost.push(format!("all but one copy of {slots} of 16384 slots"));
        }
        let cost = if cost.is_empty() {
            "no blob and no majority".to_owned()
        } else {
            cost.join(", ")
        };
        match costs.iter_mut().find(|(known, _)| *known == cost) {
            Some((_, zones)) => zones.push(&zone.zone),
            None => costs.push((cost, vec![&zone.zone])),
        }
    }
    let line = |(cost, zones): &(String, Vec<&str>)| match &zones[..] {
        [zone] => format!("losing zone {zone} costs {cost}"),
        _ => format!("losing one of the zones {} costs {cost}", zones.join(", ")),
    };
    costs.iter().map(line).collect()
}

/// Names in a sentence.
fn names(names: &[String]) -> String {
    match names {
        [] => "nobody".into(),
        _ => names.join(", "),
    }
}

/// Bytes in the unit in which they read best.
#[must_use]
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = larger;
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ => format!("{scaled:.1} {unit}"),
    }
}

/// Seconds in at most two units: `40s`, `3m`, `2h 5m`, `3d 4h`.
#[must_use]
pub fn duration_text(seconds: u64) -> String {
    const UNITS: [(u64, &str, u64, &str); 3] = [
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "m"),
        (60, "m", 60, ""),
    ];
    for (unit, name, smaller, smaller_name) in UNITS {
        if seconds >= unit {
            let rest = seconds % unit / smaller;
            return match rest {
                0 => format!("{}{name}", seconds / unit),
                _ => format!("{}{name} {rest}{smaller_name}", seconds / unit),
            };
        }
    }
    format!("{seconds}s")
}

/// Columns that line up.
#[must_use]
pub fn table<const N: usize>(head: [String; N], rows: Vec<[String; N]>) -> String {
    let mut widths = head.each_ref().map(String::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let mut out = String::new();
    for row in std::iter::once(&head).chain(&rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{EpochStatus, Weakness};

    #[test]
    fn bytes_and_durations_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (185, "3m"),
            (7_500, "2h 5m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(duration_text(seconds), text);
        }
    }

    fn zone(name: &str, slots_lost: u64, slots_single: u64, majority_lost: bool) -> ZoneStatus {
        ZoneStatus {
            zone: name.into(),
            nodes: 1,
            voters: 1,
            slots_lost,
            slots_single,
            majority_lost,
        }
    }

    #[test]
    fn zones_that_cost_the_same_share_a_line() {
        let zones = [
            zone("a", 0, 0, false),
            zone("b", 0, 0, false),
            zone("c", 7, 0, true),
            zone("d", 0, 9, false),
        ];
        assert_eq!(
            zones_text(&zones),
            [
                "losing one of the zones a, b costs no blob and no majority",
                "losing zone c costs every copy of 7 of 16384 slots, the majority of voters (pushes wait)",
                "losing zone d costs all but one copy of 9 of 16384 slots",
            ]
        );
    }

    #[test]
    fn the_text_lines_up_and_names_what_is_weaker() {
        let node = NodeStatus {
            name: "n1".into(),
            zone: "a".into(),
            state: "active".into(),
            role: "leader".into(),
            blobs: 3,
            bytes: 2048,
            capacity_bytes: 1 << 30,
            volume: "ok".into(),
            client: "127.0.0.1:1".into(),
            ..NodeStatus::default()
        };
        let mut status = ClusterStatus {
            epoch: 2,
            replicas: 3,
            write_quorum: 2,
            under_replicated: 7,
            weaker: vec!["only one zone (P1)".into()],
            nodes: vec![node],
            promises: vec![Weakness {
                promise: "P1".into(),
                what: "only one zone".into(),
                since_seconds: 180,
                until: "a second is there".into(),
            }],
            epochs: [2, 1]
                .map(|epoch| EpochStatus {
                    epoch,
                    owners: 3,
                    waiting: vec!["n1".into(), "n2".into()],
                })
                .into(),
            bytes_left: 3 << 30,
            bytes_per_second: 100 << 20,
            eta_seconds: Some(31),
            ..ClusterStatus::default()
        };
        let text = status.to_text();
        for part in [
            "none (no quorum)",
            "NODE  ZONE  STATE   ROLE    BLOBS  BYTES",
            "7 of 16384 slots",
            "weaker: only one zone (P1); since 3m, until a second is there",
            "moving: 3.0 GiB left, 100.0 MiB/s, about 31s",
            "handoff to epoch 2: n1, n2 not done; in use beside it: epoch 1",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        // As an older node answers.
        status.promises.clear();
        assert!(status.to_text().contains("weaker: only one zone (P1)\n"));
    }

    #[test]
    fn a_document_of_an_older_node_is_read() {
        let text = r#"{"cluster":"c","seen_by":"n1","leader":null,"epoch":0,"older_epochs":0,
            "replicas":3,"write_quorum":2,"under_replicated":0,"weaker":[],"nodes":[]}"#;
        let status: ClusterStatus = serde_json::from_str(text).unwrap();
        assert_eq!(status.bytes_left, 0);
    }
}
