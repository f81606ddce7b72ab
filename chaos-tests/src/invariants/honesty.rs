//! While something is broken, the status names it.
//!
//! Source: P12 (whenever a promise is weaker than configured, health, metrics
//! and `weir status` say which). That nothing is named when all is well is
//! [`convergence`](super::convergence).

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use super::{texts, wait_until_said};

/// What was broken on purpose.
#[derive(Clone, Debug, Default)]
pub struct Broken {
    /// Names of nodes that do not run, or cannot be reached.
    pub down: Vec<String>,
    /// Names of nodes whose volume is out of use.
    pub fenced: Vec<String>,
    /// Names of nodes whose volume has no room.
    pub full: Vec<String>,
    /// Whether a majority is gone.
    pub no_quorum: bool,
}

/// Insists that a status names all of it.
pub fn named(status: &Value, broken: &Broken) -> Result<()> {
    let weaker = texts(status, "weaker");
    let says = |name: &str| weaker.iter().any(|text| text.contains(name));
    let row = |name: &str| {
        let nodes = status["nodes"].as_array()?;
        nodes
            .iter()
            .find(|node| node["name"].as_str() == Some(name))
    };
    let mut hidden = Vec::new();
    for name in &broken.down {
        if row(name).is_none_or(|node| node["state"].as_str() != Some("down")) {
            hidden.push(format!("{name} is down, its row does not say so"));
        }
        if !says(name) {
            hidden.push(format!("{name} is down, no promise is said to be weaker"));
        }
    }
    for name in &broken.fenced {
        if row(name).is_none_or(|node| node["volume"].as_str() == Some("ok")) {
            hidden.push(format!(
                "the volume of {name} is out of use, and is said to be ok"
            ));
        }
        if !says(name) {
            hidden.push(format!(
                "no promise is said to be weaker by the volume of {name}"
            ));
        }
    }
    for name in &broken.full {
        let volume = row(name).and_then(|node| node["volume"].as_str());
        if !volume.is_some_and(|volume| volume.starts_with("full")) {
            hidden.push(format!(
                "the volume of {name} is full, and said to be {volume:?}"
            ));
        }
        if !says(name) {
            hidden.push(format!("{name} is full, no promise is said to be weaker"));
        }
    }
    if broken.no_quorum && status["leader"].as_str().is_some() {
        hidden.push("a leader is named without a quorum".into());
    }
    if broken.no_quorum && weaker.is_empty() {
        hidden.push("no promise is said to be weaker without a quorum".into());
    }
    // Nodes that say since when also say until what.
    let promises = status["promises"].as_array().map_or(&[][..], Vec::as_slice);
    for weakness in promises {
        if weakness["until"].as_str().is_none_or(str::is_empty) {
            hidden.push(format!("it is not said what ends this: {weakness}"));
        }
    }
    if !hidden.is_empty() {
        bail!("{}; it says: {weaker:?}", hidden.join("; "));
    }
    Ok(())
}

/// Insists that the metrics of a node say as much: a promise is weaker, and as
/// many members are down.
pub fn measured(metrics: &str, broken: &Broken) -> Result<()> {
    let sum = |series: &str| -> f64 {
        let values = metrics.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            name.starts_with(series)
                .then(|| value.parse().unwrap_or(0.0))
        });
        values.sum()
    };
    if sum("weir_promise_weaker{") < 1.0 {
        bail!("no promise is weaker by the metrics");
    }
    let down = sum("weir_members{state=\"down\"}");
    if down < broken.down.len() as f64 {
        let names = &broken.down;
        bail!("{names:?} are down, {down} members by the metrics");
    }
    Ok(())
}

/// Waits until each of the nodes that still answer names all of it.
pub fn wait(admins: &[String], broken: &Broken, limit: Duration) -> Result<()> {
    let what = "to name what is broken";
    wait_until_said(admins, what, limit, |status, _| named(status, broken))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_hidden_is_found() {
        let status = json!({
            "leader": "n1",
            "weaker": ["5 of 16384 slots miss an owner: 1 down (n2)", "the volume of n3 is not in use",
                "the volume of n4 is full: by others"],
            "nodes": [
                { "name": "n1", "state": "active", "volume": "ok" },
                { "name": "n2", "state": "down", "volume": "refused" },
                { "name": "n3", "state": "active", "volume": "write failed" },
                { "name": "n4", "state": "active", "volume": "full: by others" },
            ],
        });
        let down = |name: &str| Broken {
            down: vec![name.into()],
            ..Broken::default()
        };
        let fenced = |name: &str| Broken {
            fenced: vec![name.into()],
            ..Broken::default()
        };
        let full = |name: &str| Broken {
            full: vec![name.into()],
            ..Broken::default()
        };
        let no_quorum = Broken {
            no_quorum: true,
            ..Broken::default()
        };
        named(&status, &down("n2")).unwrap();
        named(&status, &fenced("n3")).unwrap();
        named(&status, &full("n4")).unwrap();
        let mut endless = status.clone();
        endless["promises"] = json!([{ "promise": "P2", "what": "n2 down", "until": "" }]);
        assert!(named(&endless, &down("n2")).is_err());
        for hidden in [
            down("n1"),
            down("n9"),
            fenced("n1"),
            full("n1"),
            full("n3"),
            no_quorum,
        ] {
            assert!(named(&status, &hidden).is_err(), "{hidden:?}");
        }
    }

    #[test]
    fn metrics_that_say_too_little_are_found() {
        let broken = |count: usize| Broken {
            down: vec!["n".into(); count],
            ..Broken::default()
        };
        let metrics = "# TYPE weir_members gauge\nweir_members{state=\"down\"} 1\n\
            weir_promise_weaker{promise=\"P1\"} 0\nweir_promise_weaker{promise=\"P2\"} 2\n";
        measured(metrics, &broken(1)).unwrap();
        assert!(measured(metrics, &broken(2)).is_err());
        assert!(measured(&metrics.replace("\"} 2", "\"} 0"), &broken(0)).is_err());
        assert!(measured("", &broken(0)).is_err());
    }
}
