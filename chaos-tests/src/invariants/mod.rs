//! Promises that are checked on a cluster when the faults are over, and some
//! while they last. One promise a file; each says where it is promised.
//!
//! ```text
//!  durable        P1, P2, P3   what was acknowledged is read back from every node
//!  complete       P7           what a visible ref needs is there, to the leaves
//!  replicas       P2           as many copies as wanted, where they belong
//!  availability   P4, P8       how long, and how often, nobody was served
//!  pace           P1, P3       what one slow node costs all
//!  bounds         P11          memory, files and threads of the nodes
//!  convergence    P2, P9       the cluster says that it is whole again
//!  honesty        P12          while something was broken, it was named
//!  logs           P10, P12     no panic, no error that nothing explains
//! ```
//!
//! Checks that ask nodes have a time limit of their own, ask again while the
//! answer is "not now", and say what they waited for.

pub mod availability;
pub mod bounds;
pub mod complete;
pub mod convergence;
pub mod durable;
pub mod honesty;
pub mod logs;
pub mod pace;
pub mod replicas;

use std::{
    future::Future,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use tokio::runtime::Runtime;
use weir_proto::cluster::{ScrubNodesRequest, StatusRequest, admin_client::AdminClient};

use crate::{
    history::{Clock, Outcome},
    load::{
        answer::Refusal,
        cas::{self, Answer, Node},
        content::Name,
        meter::Meter,
    },
    wait::until,
};

/// Longest single call of a check.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// Between two attempts at what cannot be answered now.
const REST: Duration = Duration::from_millis(100);

/// Between two questions for a status, which asks every node.
const STATUS_REST: Duration = Duration::from_millis(200);

/// Longest answer of an admin port.
const STATUS_LIMIT: Duration = Duration::from_secs(10);

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// A connection to the node at a URL, made on the runtime that this is called
/// on.
fn node(number: usize, url: &str, clock: Clock) -> Result<Node> {
    Ok(Node {
        number: number as u16,
        channel: cas::channel(url, CALL_LIMIT).with_context(|| format!("no URL: {url}"))?,
        clock,
        meter: Meter::default(),
    })
}

/// Calls again while the outcome is unknown, up to a limit. Calls of checks
/// change nothing, so that this is safe.
async fn patiently<T, F: Future<Output = Answer<T>>>(
    limit: Duration,
    mut call: impl FnMut() -> F,
) -> Answer<T> {
    let start = Instant::now();
    loop {
        match call().await {
            Err(Refusal {
                outcome: Outcome::Unknown,
                ..
            }) if start.elapsed() < limit => tokio::time::sleep(REST).await,
            other => return other,
        }
    }
}

/// What the node behind an admin port says of the cluster, as the document of
/// `weir status --json`.
pub fn status(admin: &str) -> Result<Value> {
    let url = admin.to_owned();
    let ask = async move {
        let channel = cas::channel(&url, STATUS_LIMIT)?;
        let answer = AdminClient::new(channel).status(StatusRequest {}).await?;
        anyhow::Ok(serde_json::from_str(&answer.into_inner().json)?)
    };
    runtime()?
        .block_on(ask)
        .map_err(|error| anyhow!("status of {admin}: {error:#}"))
}

/// Has every node of the cluster behind an admin port verify its copies, and
/// compare now what it holds with what the others hold.
fn look_anew(admin: &str) -> Result<()> {
    let url = admin.to_owned();
    let order = async move {
        let channel = cas::channel(&url, STATUS_LIMIT)?;
        let all = ScrubNodesRequest::default();
        AdminClient::new(channel).scrub(all).await?;
        anyhow::Ok(())
    };
    runtime()?
        .block_on(order)
        .map_err(|error| anyhow!("an order to {admin}: {error:#}"))
}

/// Waits until what each of these nodes says of the cluster passes a check,
/// which is also told when the node was asked; the error says what the check
/// last held against it.
fn wait_until_said(
    admins: &[String],
    what: &str,
    limit: Duration,
    check: impl Fn(&Value, Instant) -> Result<()>,
) -> Result<()> {
    for admin in admins {
        let mut last = String::new();
        let waited = until(format!("{admin} {what}"), limit, || {
            let asked = Instant::now();
            let told = status(admin).and_then(|status| check(&status, asked));
            Ok(match told {
                Ok(()) => Some(()),
                Err(open) => {
                    last = format!("{open:#}");
                    thread::sleep(STATUS_REST);
                    None
                }
            })
        });
        if let Err(error) = waited {
            bail!("{error}: {last}");
        }
    }
    Ok(())
}

/// Which of these blobs the node at a URL says are present: from then on they
/// are readable though one node is lost.
pub fn present(url: &str, names: &[Name]) -> Result<Vec<Name>> {
    runtime()?.block_on(async {
        let node = node(0, url, Clock::start())?;
        let missing = node.find_missing(names).await;
        let missing = missing.map_err(|refusal| anyhow!("{url}: {refusal}"))?;
        let is_there = |name: &&Name| !missing.contains(name);
        Ok(names.iter().filter(is_there).copied().collect())
    })
}

/// Whether the node at a URL answers clients now.
pub fn serves(url: &str) -> Result<bool> {
    runtime()?.block_on(async {
        let node = node(0, url, Clock::start())?;
        Ok(node.find_missing(&[]).await.is_ok())
    })
}

/// The texts of an array of the status.
fn texts<'a>(status: &'a Value, name: &str) -> Vec<&'a str> {
    let array = status[name].as_array().map_or(&[][..], Vec::as_slice);
    array.iter().filter_map(Value::as_str).collect()
}
