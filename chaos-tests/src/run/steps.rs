//! What is looked at between the steps of a script: how often a leader was
//! elected, and what nodes fetched that were away.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{fleet::Fleet, nemesis::Step, scenario::Limits};

/// Bytes that a node may fetch beyond what it has gained: blobs that were
/// counted as the power went, and were not durable.
const DOUBTFUL_BYTES: u64 = 1 << 20;

/// The faults after which nodes come back with all that was durable.
const ZONE_LOSS: &str = "zone-loss";

/// A look at the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// See `term` of the status.
    term: u64,
    nodes: BTreeMap<String, Held>,
}

/// What a node says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    bytes: u64,
    /// Fetched since it was started.
    fetched: u64,
}

impl Look {
    /// As the first healthy member that answers sees the cluster.
    pub(super) fn take(fleet: &Fleet) -> Result<Look> {
        let mut healthy = fleet.healthy().into_iter();
        let status = healthy.find_map(|number| fleet.status(number).ok());
        Look::of(&status.context("no member says how it is")?)
    }

    fn of(status: &Value) -> Result<Look> {
        let rows = status["nodes"].as_array().context("a status has nodes")?;
        let held = |row: &Value| {
            Some((
                row["name"].as_str()?.to_owned(),
                Held {
                    bytes: row["bytes"].as_u64()?,
                    fetched: row["repair"]["fetched_bytes"].as_u64().unwrap_or(0),
                },
            ))
        };
        Ok(Look {
            term: status["term"].as_u64().context("a status has a term")?,
            nodes: rows.iter().filter_map(held).collect(),
        })
    }

    /// Nodes that fetched more than they have gained.
    fn fetched_again(&self, earlier: &Look) -> Vec<String> {
        let again = |(name, now): (&String, &Held)| {
            let before = earlier.nodes.get(name)?;
            let gained = now.bytes.saturating_sub(before.bytes);
            let Held { bytes, fetched } = *now;
            (fetched > gained + DOUBTFUL_BYTES).then(|| {
                format!(
                    "{name} fetched {fetched} bytes and holds {bytes}; it held {} before",
                    before.bytes
                )
            })
        };
        self.nodes.iter().filter_map(again).collect()
    }
}

/// Judges a step that is over and healed; gives the look to go on from.
pub(super) fn judge(fleet: &mut Fleet, step: &Step, before: &Look, limits: Limits) -> Result<Look> {
    let is_loss = step.orders.iter().any(|order| order.fault == ZONE_LOSS);
    if is_loss {
        fleet.wait_settled()?;
    }
    let after = Look::take(fleet)?;
    let elections = after.term.saturating_sub(before.term);
    fleet.events().enter("elections", json!(elections));
    if let Some(most) = limits.elections
        && elections > most
    {
        bail!("{elections} elections, {most} are the limit");
    }
    if is_loss {
        let again = after.fetched_again(before);
        if !again.is_empty() {
            bail!("more than the difference moved: {}", again.join("; "));
        }
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(term: u64, bytes: u64, fetched: u64) -> Look {
        let repair = json!({"fetched_bytes": fetched});
        let node = json!({"name": "n1", "bytes": bytes, "repair": repair});
        Look::of(&json!({"term": term, "nodes": [node]})).unwrap()
    }

    #[test]
    fn what_was_there_already_is_not_to_be_fetched_again() {
        let before = look(1, 10 << 20, 5 << 20);
        assert_eq!(look(1, 12 << 20, 3 << 20).fetched_again(&before).len(), 0);
        assert_eq!(look(1, 12 << 20, 8 << 20).fetched_again(&before).len(), 1);
        // Evicted meanwhile.
        assert_eq!(look(1, 9 << 20, 0).fetched_again(&before).len(), 0);
        assert!(Look::of(&json!({"nodes": []})).is_err());
    }
}
