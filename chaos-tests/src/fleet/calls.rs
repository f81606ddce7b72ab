//! What nodes say, and waiting until they say what is wanted.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use weir_proto::{
    cluster::{StatusRequest, admin_client::AdminClient},
    reapi::{GetCapabilitiesRequest, capabilities_client::CapabilitiesClient},
};

use super::Fleet;
use crate::{rig::room::Inside, wait::until};

/// One probe of a client port.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// One answer. A node waits two seconds for those that are silent.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// From a start or the end of a fault until a node serves or a leader is
/// known, with an unoptimised program on a busy machine.
const SERVE_LIMIT: Duration = Duration::from_secs(90);

/// Until every blob is where it belongs.
const SETTLE_LIMIT: Duration = Duration::from_secs(240);

impl Fleet {
    /// The cluster as a node sees it, asked from its own room.
    pub fn status(&self, number: usize) -> Result<Value> {
        let admin = self.node(number).own_admin.clone();
        let ask = async {
            let mut client = AdminClient::connect(admin).await?;
            let answer = client.status(StatusRequest {}).await?;
            Ok::<_, anyhow::Error>(answer.into_inner().json)
        };
        let json = self
            .call(number, ANSWER_LIMIT, ask)?
            .with_context(|| format!("{} is silent", self.node(number).name))??;
        Ok(serde_json::from_str(&json)?)
    }

    /// The status code and the body of a page of a node's admin port, asked from
    /// its own room.
    pub fn get(&self, number: usize, path: &str) -> Result<(u16, String)> {
        let _inside = self.beside(number)?;
        let admin = &self.node(number).own_admin;
        let address = admin.strip_prefix("http://").context("a URL of HTTP")?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        // Of 1.0: the answer ends with the connection, in one piece.
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let parted = answer.split_once("\r\n\r\n");
        let (head, body) = parted.with_context(|| format!("no answer to {path}: {answer:?}"))?;
        let code = head
            .split_whitespace()
            .nth(1)
            .and_then(|code| code.parse().ok());
        Ok((code.context("no status code")?, body.to_owned()))
    }

    /// Whether a node serves clients, asked from its own room.
    pub fn serves(&self, number: usize) -> Result<bool> {
        let url = self.node(number).own_client.clone();
        let probe = async {
            let mut client = CapabilitiesClient::connect(url).await.ok()?;
            let request = GetCapabilitiesRequest::default();
            client.get_capabilities(request).await.ok()
        };
        Ok(self.call(number, PROBE_LIMIT, probe)?.flatten().is_some())
    }

    /// The number of the node that leads, as the first healthy member that
    /// knows one sees it.
    pub fn leader(&self) -> Result<Option<usize>> {
        for number in self.healthy() {
            let Ok(status) = self.status(number) else {
                continue;
            };
            let leads = |name: &str| self.nodes.iter().position(|node| node.name == name);
            if let Some(leader) = status["leader"].as_str().and_then(leads) {
                return Ok(Some(leader));
            }
        }
        Ok(None)
    }

    /// Waits until a node serves clients.
    pub fn wait_serving(&mut self, number: usize) -> Result<()> {
        let name = self.node(number).name.clone();
        until(format!("{name} to serve"), SERVE_LIMIT, || {
            self.insist_running(number)?;
            Ok(self.serves(number)?.then_some(()))
        })
    }

    /// Waits until all members serve: those that do not run were forgotten.
    pub fn wait_all_serving(&mut self) -> Result<()> {
        for number in self.members() {
            self.wait_serving(number)?;
        }
        Ok(())
    }

    /// Waits until some member knows a leader, and returns its number.
    pub fn wait_leader(&self) -> Result<usize> {
        until("a leader", SERVE_LIMIT, || self.leader())
    }

    /// See [`Options::may_fill`](super::Options::may_fill).
    #[must_use]
    pub fn may_fill(&self) -> bool {
        self.options.may_fill
    }

    /// Waits until every member sees exactly the members, all of them active,
    /// and a leader with all the voters that it wants.
    pub fn wait_members(&mut self) -> Result<()> {
        let may_fill = self.may_fill();
        self.wait_seen("all members", |status, members| {
            unready(status, members, may_fill)
        })
    }

    /// Waits until moreover every blob is on its owners and nowhere else, as
    /// each member says.
    pub fn wait_settled(&mut self) -> Result<()> {
        let may_fill = self.may_fill();
        self.wait_seen("everything settled", |status, members| {
            unready(status, members, may_fill).or_else(|| unsettled(status))
        })
    }

    fn wait_seen(
        &mut self,
        what: &str,
        lacks: impl Fn(&Value, &[&str]) -> Option<String>,
    ) -> Result<()> {
        let members = self.members();
        let names = members.iter().map(|number| self.node(*number).name.clone());
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for number in members {
            let mut last = String::new();
            let what = format!("{} to see {what}", self.node(number).name);
            until(what, SETTLE_LIMIT, || {
                self.insist_running(number)?;
                match self.status(number) {
                    Err(error) => last = format!("{error:#}"),
                    Ok(status) => match lacks(&status, &names) {
                        None => return Ok(Some(())),
                        Some(why) => last = why,
                    },
                }
                Ok(None)
            })
            .map_err(|error| anyhow!("{error:#}; at last: {last}"))?;
        }
        Ok(())
    }

    /// Where a node is, for calls to it.
    fn beside(&self, number: usize) -> Result<Option<Inside>> {
        let node = self.node(number);
        let is_apart = node.room_number.is_some();
        is_apart.then(|| node.room.enter()).transpose()
    }

    fn call<F: Future>(
        &self,
        number: usize,
        limit: Duration,
        call: F,
    ) -> Result<Option<F::Output>> {
        let _inside = self.beside(number)?;
        // Of one thread, this one: its sockets are made in the node's room.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let timed = async { tokio::time::timeout(limit, call).await };
        Ok(runtime.block_on(timed).ok())
    }
}

fn rows(status: &Value) -> &[Value] {
    status["nodes"].as_array().map_or(&[][..], Vec::as_slice)
}

/// What is missing of a whole cluster, apart from its blobs.
fn unready(status: &Value, members: &[&str], may_fill: bool) -> Option<String> {
    let rows = rows(status);
    let mut found: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    found.sort_unstable();
    if found != members {
        return Some(format!("the members are {found:?}, not {members:?}"));
    }
    if status["leader"].is_null() {
        return Some("there is no leader".into());
    }
    let is_well = |volume: &Value| volume == "ok" || (may_fill && volume == "full");
    if let Some(row) = rows
        .iter()
        .find(|row| row["state"] != "active" || !is_well(&row["volume"]))
    {
        let (name, state, volume) = (&row["name"], &row["state"], &row["volume"]);
        return Some(format!("{name} is {state}, its volume {volume}"));
    }
    let votes = |row: &&Value| row["role"] == "leader" || row["role"] == "voter";
    let voters = rows.iter().filter(votes).count();
    // An odd number, five at most.
    let wanted = rows.len().min(5).div_ceil(2) * 2 - 1;
    (voters < wanted).then(|| format!("{voters} nodes vote, not {wanted}"))
}

/// What is not where it belongs, if anything is.
fn unsettled(status: &Value) -> Option<String> {
    for key in ["under_replicated", "older_epochs"] {
        if status[key] != 0 {
            return Some(format!("{key} is {}", status[key]));
        }
    }
    rows(status).iter().find_map(|row| {
        let repair = &row["repair"];
        let is_settled = repair["settled"] == true
            && repair["settled_epoch"] == status["epoch"]
            && repair["lacking_blobs"] == 0
            && repair["surplus_blobs"] == 0;
        (!is_settled).then(|| format!("the repair of {} is {repair}", row["name"]))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whatever_is_missing_or_under_way_is_not_settled() {
        let node = |name: &str, role: &str| {
            json!({"name": name, "state": "active", "volume": "ok", "role": role, "repair": {
                "settled": true, "settled_epoch": 3, "lacking_blobs": 0, "surplus_blobs": 0}})
        };
        let nodes = [
            node("n1", "voter"),
            node("n3", "leader"),
            node("n2", "voter"),
        ];
        let whole = json!({"leader": "n3", "epoch": 3, "under_replicated": 0,
            "older_epochs": 0, "nodes": nodes});
        let members = ["n1", "n2", "n3"];
        let lacks = |status: &Value| unready(status, &members, false).or_else(|| unsettled(status));
        assert_eq!(lacks(&whole), None);
        assert!(unready(&whole, &["n1", "n2"], false).is_some());
        for (place, value) in [
            ("/leader", Value::Null),
            ("/under_replicated", json!(7)),
            ("/older_epochs", json!(1)),
            ("/nodes/0/state", json!("draining")),
            ("/nodes/0/volume", json!("full")),
            ("/nodes/0/role", json!("learner")),
            ("/nodes/1/repair", Value::Null),
            ("/nodes/1/repair/settled", json!(false)),
            ("/nodes/1/repair/settled_epoch", json!(2)),
            ("/nodes/1/repair/lacking_blobs", json!(1)),
            ("/nodes/1/repair/surplus_blobs", json!(1)),
        ] {
            let mut other = whole.clone();
            *other.pointer_mut(place).unwrap() = value;
            assert!(lacks(&other).is_some(), "{place}");
        }
    }
}
