//! When the faults are over, the cluster becomes whole by itself, and says so.
//!
//! Source: P2 (returns to R copies by itself), P9 (changes of membership end),
//! P12 (whatever is weaker than configured is said; here, that nothing is).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{look_anew, status, texts, wait_until_said};
use crate::wait::until;

/// Insists that a status tells of a whole cluster: a leader, every member up,
/// with its volume in use, one epoch, no slot without its owners, nothing left
/// to move, nothing weaker.
pub fn settled(status: &Value) -> Result<()> {
    settled_within(status, Duration::MAX)
}

/// The same, as of looks of repair that are at most so old.
fn settled_within(status: &Value, age: Duration) -> Result<()> {
    let mut open: Vec<String> = texts(status, "weaker")
        .into_iter()
        .map(String::from)
        .collect();
    if status["leader"].as_str().is_none() {
        open.push("there is no leader".into());
    }
    for (name, what) in [
        ("under_replicated", "slots are under-replicated"),
        ("older_epochs", "older epochs are alive"),
    ] {
        match status[name].as_u64() {
            Some(0) => {}
            Some(count) => open.push(format!("{count} {what}")),
            None => open.push(format!("the status has no {name}")),
        }
    }
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    if nodes.is_empty() {
        open.push("there are no nodes".into());
    }
    for node in nodes {
        let name = node["name"].as_str().unwrap_or("a node");
        let (state, volume) = (node["state"].as_str(), node["volume"].as_str());
        // A member that has drained stays so until it is called back or removed.
        let drained = state == Some("draining") && node["slots"].as_u64() == Some(0);
        if state != Some("active") && !drained {
            open.push(format!("{name} is {state:?}"));
        }
        if volume != Some("ok") {
            open.push(format!("the volume of {name} is {volume:?}"));
        }
    }
    for node in nodes {
        open.extend(moving(node, &status["epoch"]));
        let name = node["name"].as_str().unwrap_or("a node");
        let look_age_ms = node["repair"]["look_age_ms"].as_u64().unwrap_or(0);
        if u128::from(look_age_ms) > age.as_millis() {
            open.push(format!("{name} has not looked for {look_age_ms} ms"));
        }
    }
    if !open.is_empty() {
        bail!("{}", open.join("; "));
    }
    Ok(())
}

/// What repair on a node has not done yet, by its own account. A node that
/// gives none (it is of an older version) is believed.
fn moving(node: &Value, epoch: &Value) -> Option<String> {
    let repair = &node["repair"];
    if repair.is_null() {
        return None;
    }
    let is_nothing = |name: &str| repair[name].as_u64() == Some(0);
    let done = repair["settled"].as_bool() == Some(true)
        && &repair["settled_epoch"] == epoch
        && is_nothing("lacking_blobs")
        && is_nothing("surplus_blobs");
    let name = node["name"].as_str().unwrap_or("a node");
    (!done).then(|| format!("{name} is not repaired: {repair}"))
}

/// Waits until every node tells of a whole cluster.
pub fn wait(admins: &[String], limit: Duration) -> Result<()> {
    wait_until_said(admins, "to settle", limit, |status, _| settled(status))
}

/// Waits until every node tells of a whole cluster as of a look that began
/// after this call: what is told otherwise may be as old as the interval of
/// repair, and not know of what clients did at the end.
pub fn wait_anew(admins: &[String], limit: Duration) -> Result<()> {
    let begun = order_look(admins, limit)?;
    let what = "to settle, and to have looked since";
    wait_until_said(admins, what, limit, |status, asked| {
        settled_within(status, asked.saturating_duration_since(begun))
    })
}

/// Waits until every node has verified all its copies once more.
pub fn wait_verified(admins: &[String], limit: Duration) -> Result<()> {
    let admin = admins.first().context("nobody can be asked")?;
    let before = passes(&status(admin)?);
    order_look(admins, limit)?;
    wait_until_said(admins, "to have verified all copies", limit, |status, _| {
        let now = passes(status);
        let is_done = now.iter().zip(&before).all(|(now, before)| now > before);
        ensure!(is_done, "passes were {before:?} and are {now:?}");
        Ok(())
    })
}

/// Gives the order to look now; when it was given.
fn order_look(admins: &[String], limit: Duration) -> Result<Instant> {
    until("an order to look anew to be taken", limit, || {
        let begun = Instant::now();
        let taken = admins.iter().any(|admin| look_anew(admin).is_ok());
        Ok(taken.then_some(begun))
    })
}

/// How often each node has verified its copies, in the order of their names.
fn passes(status: &Value) -> Vec<u64> {
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let passes = nodes.iter().map(|node| node["scrub"]["passes"].as_u64());
    passes.map(|count| count.unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn whole() -> Value {
        let node = |name| json!({ "name": name, "state": "active", "volume": "ok" });
        json!({
            "leader": "n1", "under_replicated": 0, "older_epochs": 0, "weaker": [],
            "nodes": [node("n1"), node("n2")],
        })
    }

    #[test]
    fn what_is_left_to_move_is_named() {
        let with = |settled, epoch, lacking, surplus| {
            let mut status = whole();
            status["epoch"] = json!(4);
            status["nodes"][1]["repair"] = json!({
                "settled": settled, "settled_epoch": epoch,
                "lacking_blobs": lacking, "surplus_blobs": surplus,
            });
            super::settled(&status)
        };
        with(true, 4, 0, 0).unwrap();
        for (settled, epoch, lacking, surplus) in [
            (false, 4, 0, 0),
            (true, 3, 0, 0),
            (true, 4, 1, 0),
            (true, 4, 0, 1),
        ] {
            let error = with(settled, epoch, lacking, surplus).unwrap_err();
            assert!(error.to_string().contains("n2 is not repaired"), "{error}");
        }
        let mut drained = whole();
        drained["nodes"][0]["state"] = json!("draining");
        assert!(super::settled(&drained).is_err());
        drained["nodes"][0]["slots"] = json!(0);
        super::settled(&drained).unwrap();
    }

    #[test]
    fn an_old_look_is_no_evidence() {
        let mut status = whole();
        status["nodes"][0]["repair"] = json!({
            "settled": true, "settled_epoch": null, "lacking_blobs": 0, "surplus_blobs": 0,
            "look_age_ms": 1500,
        });
        let within = |ms| settled_within(&status, Duration::from_millis(ms));
        within(1500).unwrap();
        let error = within(1499).unwrap_err().to_string();
        assert!(error.contains("n1 has not looked"), "{error}");
        settled(&status).unwrap();
    }

    #[test]
    fn each_open_thing_is_named() {
        settled(&whole()).unwrap();
        for (pointer, value, says) in [
            ("/leader", json!(null), "no leader"),
            ("/under_replicated", json!(7), "7 slots"),
            ("/older_epochs", json!(1), "1 older"),
            ("/weaker", json!(["P1: one zone"]), "P1: one zone"),
            ("/nodes", json!([]), "no nodes"),
            ("/nodes/1/state", json!("down"), "n2 is"),
            ("/nodes/1/state", json!("draining"), "n2 is"),
            ("/nodes/0/volume", json!("full"), "volume of n1"),
        ] {
            let mut status = whole();
            *status.pointer_mut(pointer).unwrap() = value;
            let error = settled(&status).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(settled(&json!({})).is_err());
    }
}
