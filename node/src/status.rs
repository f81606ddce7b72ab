//! The cluster as one node sees it: the document behind `weir status`.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// The whole document. Keys are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Cluster id.
    pub cluster: String,
    /// Name of the node that answers.
    pub seen_by: String,
    /// Name of the node that leads; none while there is no quorum.
    pub leader: Option<String>,
    /// Number of the current placement; 0 before the first.
    pub epoch: u64,
    /// Older placements that reads still fall back to.
    pub older_epochs: u64,
    pub replicas: u32,
    pub write_quorum: u32,
    /// Slots (of 16,384) that have fewer owners up than copies are wanted.
    pub under_replicated: u64,
    /// Each promise that is weaker than configured, and why.
    pub weaker: Vec<String>,
    pub nodes: Vec<NodeStatus>,
}

/// One row of the node table, with the node's own account of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub name: String,
    /// Node id.
    pub id: String,
    pub zone: String,
    pub host: String,
    /// `joining`, `active` or `draining`; `down` if it did not answer.
    pub state: String,
    /// `leader`, `voter`, `learner` or `none`, in Raft.
    pub role: String,
    pub blobs: u64,
    pub bytes: u64,
    pub capacity_bytes: u64,
    /// `ok`, `full`, why the volume is out of use, or why the node is down.
    pub volume: String,
    pub version: String,
    pub client: String,
    pub peer: String,
    pub admin: String,
}

impl NodeStatus {
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state != "down"
    }
}

impl ClusterStatus {
    /// The document for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let leader = self.leader.as_deref().unwrap_or("none (no quorum)");
        let _ = writeln!(
            out,
            "cluster {}  leader {leader}  epoch {}  copies {} (durable before an answer: {})",
            self.cluster, self.epoch, self.replicas, self.write_quorum,
        );
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
                node.client.clone(),
            ]
        });
        let head = [
            "NODE", "ZONE", "STATE", "ROLE", "BLOBS", "BYTES", "CAPACITY", "VOLUME", "CLIENTS",
        ];
        out.push_str(&table(head.map(str::to_owned), rows.collect()));
        if self.under_replicated > 0 {
            let slots = self.under_replicated;
            let _ = writeln!(
                out,
                "under-replicated: {slots} of 16384 slots miss an owner"
            );
        }
        for weaker in &self.weaker {
            let _ = writeln!(out, "weaker: {weaker}");
        }
        if self.weaker.is_empty() {
            out.push_str("every promise holds as configured\n");
        }
        out
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

fn table<const N: usize>(head: [String; N], rows: Vec<[String; N]>) -> String {
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

    #[test]
    fn bytes_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
    }

    #[test]
    fn the_text_lines_up_and_names_what_is_weaker() {
        let node = NodeStatus {
            name: "n1".into(),
            id: "0".into(),
            zone: "a".into(),
            host: "h".into(),
            state: "active".into(),
            role: "leader".into(),
            blobs: 3,
            bytes: 2048,
            capacity_bytes: 1 << 30,
            volume: "ok".into(),
            version: "0".into(),
            client: "127.0.0.1:1".into(),
            peer: "127.0.0.1:2".into(),
            admin: "127.0.0.1:3".into(),
        };
        let status = ClusterStatus {
            cluster: "c".into(),
            seen_by: "n1".into(),
            leader: None,
            epoch: 1,
            older_epochs: 0,
            replicas: 3,
            write_quorum: 2,
            under_replicated: 7,
            weaker: vec!["P1: only one zone".into()],
            nodes: vec![node],
        };
        let text = status.to_text();
        assert!(text.contains("none (no quorum)"), "{text}");
        assert!(
            text.contains("NODE  ZONE  STATE   ROLE    BLOBS  BYTES"),
            "{text}"
        );
        assert!(text.contains("7 of 16384 slots"), "{text}");
        assert!(text.contains("weaker: P1: only one zone"), "{text}");
    }
}
