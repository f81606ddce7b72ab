//! What nodes say of the cluster, and waiting until they say what is wanted.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use weir_proto::{
    cluster::{StatusRequest, admin_client::AdminClient},
    reapi::{GetCapabilitiesRequest, capabilities_client::CapabilitiesClient},
};

use super::Cluster;
use crate::wait::until;

/// One probe of a client port.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// One answer. A node waits two seconds for those that are silent.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// From a change of members until every blob is where it belongs: repair of a
/// few hundred MB by an unoptimised program on a busy machine.
const SETTLE_LIMIT: Duration = Duration::from_secs(180);

impl Cluster {
    /// The cluster as the node at `index` sees it.
    pub fn status(&self, index: usize) -> Result<Value> {
        status(&self.node(index).admin)
    }

    /// Waits until the cluster, as the node at `index` sees it, is as wanted:
    /// `fits` says what is wrong with it, if anything is. A node that does not
    /// answer is asked again.
    pub fn wait_status(
        &self,
        index: usize,
        what: &str,
        limit: Duration,
        fits: impl Fn(&Value) -> Option<String>,
    ) -> Result<Value> {
        let mut last = String::new();
        let found = until(what, limit, || {
            match self.status(index) {
                Err(error) => last = format!("{error:#}"),
                Ok(status) => match fits(&status) {
                    None => return Ok(Some(status)),
                    Some(why) => last = why,
                },
            }
            Ok(None)
        });
        found.map_err(|error| anyhow!("{error}; at last: {last}"))
    }

    /// Waits until the members are exactly these nodes, all of them owners, and
    /// every blob is on its owners and nowhere else, as each of them says.
    pub fn wait_settled(&self, members: &[usize]) -> Result<()> {
        let names: Vec<&str> = members
            .iter()
            .map(|index| self.node(*index).name.as_str())
            .collect();
        self.trial
            .step(format!("waiting until {} have settled", names.join(", ")));
        for index in members {
            let what = format!("{} to see everything settled", self.node(*index).name);
            self.wait_status(*index, &what, SETTLE_LIMIT, |status| {
                unsettled(status, &names)
            })?;
        }
        Ok(())
    }
}

/// Whether a server answers GetCapabilities at `url`. Every refusal counts as
/// "not yet"; the error is only for this machine's own trouble.
pub fn answers(url: &str) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let url = url.to_owned();
    let probe = async move {
        let mut client = CapabilitiesClient::connect(url).await.ok()?;
        client
            .get_capabilities(GetCapabilitiesRequest::default())
            .await
            .ok()
    };
    Ok(runtime
        .block_on(async { tokio::time::timeout(PROBE_LIMIT, probe).await })
        .is_ok_and(|answer| answer.is_some()))
}

/// The cluster as the node with this admin URL sees it.
pub fn status(admin: &str) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ask = async {
        let mut client = AdminClient::connect(admin.to_owned()).await?;
        let answer = client.status(StatusRequest {}).await?;
        Ok::<_, anyhow::Error>(answer.into_inner().json)
    };
    let json = runtime
        .block_on(async { tokio::time::timeout(ANSWER_LIMIT, ask).await })
        .with_context(|| format!("{admin} is silent"))??;
    Ok(serde_json::from_str(&json)?)
}

/// The row of a node in a status document.
pub fn row<'a>(status: &'a Value, name: &str) -> &'a Value {
    static NONE: Value = Value::Null;
    let rows = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    rows.iter().find(|row| row["name"] == name).unwrap_or(&NONE)
}

/// What is not settled yet, if anything is.
fn unsettled(status: &Value, members: &[&str]) -> Option<String> {
    let rows = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let mut found: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    let mut wanted = members.to_vec();
    found.sort_unstable();
    wanted.sort_unstable();
    if found != wanted {
        return Some(format!("the members are {found:?}, not {wanted:?}"));
    }
    for (key, wanted) in [("under_replicated", 0), ("older_epochs", 0)] {
        if status[key] != wanted {
            return Some(format!("{key} is {}", status[key]));
        }
    }
    if status["leader"].is_null() {
        return Some("there is no leader".into());
    }
    rows.iter().find_map(|row| {
        let repair = &row["repair"];
        let settled = row["state"] == "active"
            && repair["settled"] == true
            && repair["settled_epoch"] == status["epoch"]
            && repair["lacking_blobs"] == 0
            && repair["surplus_blobs"] == 0;
        (!settled).then(|| {
            format!(
                "{} is {}, its repair {repair}, at epoch {}",
                row["name"], row["state"], status["epoch"]
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whatever_is_missing_or_under_way_is_not_settled() {
        let node = |name: &str| {
            json!({"name": name, "state": "active", "repair": {"settled": true,
                "settled_epoch": 3, "lacking_blobs": 0, "surplus_blobs": 0}})
        };
        let whole = json!({"leader": "n1", "epoch": 3, "under_replicated": 0,
            "older_epochs": 0, "nodes": [node("n2"), node("n1")]});
        assert_eq!(unsettled(&whole, &["n1", "n2"]), None);
        assert_eq!(row(&whole, "n1")["state"], "active");
        assert!(row(&whole, "n3").is_null());
        assert!(unsettled(&whole, &["n1"]).is_some());
        for (place, value) in [
            ("/leader", Value::Null),
            ("/under_replicated", json!(7)),
            ("/older_epochs", json!(1)),
            ("/nodes/0/state", json!("draining")),
            ("/nodes/1/repair/settled", json!(false)),
            ("/nodes/1/repair/settled_epoch", json!(2)),
            ("/nodes/1/repair/lacking_blobs", json!(1)),
            ("/nodes/1/repair/surplus_blobs", json!(1)),
            ("/nodes/1/repair", Value::Null),
        ] {
            let mut other = whole.clone();
            *other.pointer_mut(place).unwrap() = value;
            assert!(unsettled(&other, &["n1", "n2"]).is_some(), "{place}");
        }
    }
}
