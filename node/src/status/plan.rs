//! What a change would do: the document behind `weir plan`.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::{ZoneStatus, bytes_text, table, text::zones_text};

/// The whole document. Bytes are estimates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The change, in words.
    pub change: String,
    /// The epochs compared; the same number if no new one would begin.
    pub from_epoch: u64,
    pub to_epoch: u64,
    /// Copies of each blob.
    pub copies_before: u64,
    pub copies_after: u64,
    /// Pairs of a slot (of 16,384) and an owner that it does not have now.
    pub moved: u64,
    /// How many fair shares alone would ask for.
    pub ideal: u64,
    /// Bytes that owners would fetch.
    pub moved_bytes: u64,
    pub nodes: Vec<PlanNode>,
    /// What the loss of each zone would cost afterwards.
    pub zones: Vec<ZoneStatus>,
    /// What else to know before.
    pub notes: Vec<String>,
}

/// What the change means for one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanNode {
    pub name: String,
    /// Node id; empty for one that would join.
    pub id: String,
    pub zone: String,
    pub slots_before: u64,
    pub slots_after: u64,
    /// Slots that it would own and does not now, and bytes to fetch for them.
    pub gains: u64,
    pub fetches_bytes: u64,
    /// Bytes it would hold in the end.
    pub bytes_after: u64,
    /// 0 if not known.
    pub capacity_bytes: u64,
}

impl Plan {
    /// The document for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = format!("{}\n", self.change);
        let rows = self.nodes.iter().map(|node| {
            [
                node.name.clone(),
                node.zone.clone(),
                node.slots_before.to_string(),
                node.slots_after.to_string(),
                format!("+{}", node.gains),
                bytes_text(node.fetches_bytes),
                bytes_text(node.bytes_after),
                match node.capacity_bytes {
                    0 => "?".into(),
                    bytes => bytes_text(bytes),
                },
            ]
        });
        let head = [
            "NODE", "ZONE", "SLOTS", "THEN", "NEW", "FETCHES", "HOLDS", "CAPACITY",
        ];
        out.push_str(&table(head.map(str::to_owned), rows.collect()));
        if self.moved == 0 {
            out.push_str("nothing moves\n");
        } else {
            let _ = writeln!(
                out,
                "{} slots get a new owner (at best {}), about {} to move; epoch {} to {}",
                self.moved,
                self.ideal,
                bytes_text(self.moved_bytes),
                self.from_epoch,
                self.to_epoch,
            );
        }
        if self.copies_before != self.copies_after {
            let (before, after) = (self.copies_before, self.copies_after);
            let _ = writeln!(out, "copies of each blob: {before} now, {after} then");
        }
        for line in zones_text(&self.zones) {
            let _ = writeln!(out, "then {line}");
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_as_a_table_and_a_sum() {
        let plan = Plan {
            change: "n4 joins in zone d".into(),
            from_epoch: 3,
            to_epoch: 4,
            copies_before: 2,
            copies_after: 3,
            moved: 100,
            ideal: 90,
            moved_bytes: 3 << 20,
            nodes: vec![PlanNode {
                name: "new".into(),
                id: String::new(),
                zone: "d".into(),
                slots_before: 0,
                slots_after: 100,
                gains: 100,
                fetches_bytes: 3 << 20,
                bytes_after: 3 << 20,
                capacity_bytes: 0,
            }],
            zones: Vec::new(),
            notes: vec!["the disk is small".into()],
        };
        let text = plan.to_text();
        for part in [
            "NODE  ZONE  SLOTS  THEN  NEW   FETCHES  HOLDS    CAPACITY",
            "new   d     0      100   +100  3.0 MiB  3.0 MiB  ?",
            "100 slots get a new owner (at best 90), about 3.0 MiB to move; epoch 3 to 4",
            "copies of each blob: 2 now, 3 then",
            "note: the disk is small",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
