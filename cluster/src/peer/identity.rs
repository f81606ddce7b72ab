//! Who a message between nodes is for.
//!
//! Addresses are reused: a node may answer where another node, or a node of
//! another cluster, was yesterday. Every call therefore names the cluster and
//! the node it means, and a node that is not meant refuses it.
//!
//! Every call also names its sender. One that was removed from the cluster is
//! refused and told so; it hears it through [`Removal`]. A sender that is not
//! known is let through: a node that joins is known to some nodes before others.

use std::{collections::BTreeSet, str::FromStr};

use tokio::sync::watch;
use tonic::{Code, Request, Status, metadata::MetadataMap};

use crate::{
    ClusterId, NodeId,
    planted::{self, Bug},
};

/// Cluster id, 32 hexadecimal digits.
pub const CLUSTER_KEY: &str = "weir-cluster";
/// Id of the node that is meant, decimal.
pub const NODE_KEY: &str = "weir-node";
/// Id of the node that sends, decimal.
pub const FROM_KEY: &str = "weir-from";
/// In a refusal: the sender was removed from the cluster.
pub const REMOVED_KEY: &str = "weir-removed";

/// Names the cluster and the node that a request is for, and its sender.
pub fn stamp<T>(request: &mut Request<T>, cluster: ClusterId, from: NodeId, to: NodeId) {
    let metadata = request.metadata_mut();
    let named = [
        (CLUSTER_KEY, cluster.to_string()),
        (NODE_KEY, to.0.to_string()),
        (FROM_KEY, from.0.to_string()),
    ];
    for (key, value) in named {
        // Digits alone: none can fail to be a header.
        if let Ok(value) = value.parse() {
            metadata.insert(key, value);
        }
    }
}

/// FAILED_PRECONDITION unless a request is for this node of this cluster.
pub fn check(metadata: &MetadataMap, cluster: ClusterId, me: NodeId) -> Result<(), Status> {
    let named: Option<ClusterId> = value(metadata, CLUSTER_KEY);
    if named != Some(cluster) {
        let named = named.map_or_else(|| "no cluster".into(), |named| format!("cluster {named}"));
        let what = format!("request is for {named}, this is cluster {cluster}");
        return Err(Status::failed_precondition(what));
    }
    let named = value(metadata, NODE_KEY).map(NodeId);
    if named != Some(me) {
        let named = named.map_or_else(|| "no node".into(), |named| format!("node {named}"));
        let what = format!("request is for {named}, this is node {me}");
        return Err(Status::failed_precondition(what));
    }
    Ok(())
}

/// FAILED_PRECONDITION if a request comes from a node that was removed.
pub fn check_sender(metadata: &MetadataMap, removed: &BTreeSet<NodeId>) -> Result<(), Status> {
    let is_barred = |from: &NodeId| removed.contains(from) && !planted::is(Bug::RemovedSenderHeard);
    let Some(from) = sender(metadata).filter(is_barred) else {
        return Ok(());
    };
    let what = format!("node {from} was removed from the cluster");
    let mut status = Status::failed_precondition(what);
    if let Ok(value) = "1".parse() {
        status.metadata_mut().insert(REMOVED_KEY, value);
    }
    Err(status)
}

/// The node that says it sends a request.
#[must_use]
pub fn sender(metadata: &MetadataMap) -> Option<NodeId> {
    value(metadata, FROM_KEY).map(NodeId)
}

/// Whether a call was refused because of whom it was for: the connection leads
/// to the wrong node, and the address has to be looked up again.
#[must_use]
pub fn misled(status: &Status) -> bool {
    // A peer's own errors carry details, and none of them has this code.
    status.code() == Code::FailedPrecondition
        && status.details().is_empty()
        && !status.metadata().contains_key(REMOVED_KEY)
}

/// Where it is heard that this node was removed from the cluster. Clones share
/// what was heard. It is hearsay: whoever listens asks again before it acts.
#[derive(Clone, Debug)]
pub struct Removal {
    heard: watch::Sender<bool>,
}

impl Default for Removal {
    fn default() -> Self {
        Self {
            heard: watch::Sender::new(false),
        }
    }
}

impl Removal {
    /// Takes note if a call was refused because this node was removed.
    pub fn listen(&self, status: &Status) {
        if status.metadata().contains_key(REMOVED_KEY) {
            self.heard
                .send_if_modified(|heard| !std::mem::replace(heard, true));
        }
    }

    /// Returns once somebody said so since the last call.
    pub async fn heard(&self) {
        let mut heard = self.heard.subscribe();
        // The sender is this value.
        let _ = heard.wait_for(|heard| *heard).await;
        self.heard.send_replace(false);
    }
}

/// What a header says, if it is there and can be read.
pub(crate) fn value<T: FromStr>(metadata: &MetadataMap, key: &str) -> Option<T> {
    metadata.get(key)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_node_that_is_meant_takes_a_request() {
        let (cluster, me) = (ClusterId(7), NodeId(42));
        let mut request = Request::new(());
        let refused = |request: &Request<()>| check(request.metadata(), cluster, me).is_err();
        assert!(refused(&request));
        stamp(&mut request, cluster, NodeId(1), me);
        assert!(!refused(&request));
        stamp(&mut request, cluster, NodeId(1), NodeId(43));
        assert!(refused(&request));
        stamp(&mut request, ClusterId(8), NodeId(1), me);
        assert!(refused(&request));
        stamp(&mut request, cluster, NodeId(1), me);
        request
            .metadata_mut()
            .insert(NODE_KEY, "forty-two".parse().unwrap());
        assert!(refused(&request));
    }

    #[tokio::test]
    async fn a_removed_sender_is_refused_and_told_and_no_other() {
        let removed = BTreeSet::from([NodeId(3)]);
        let mut request = Request::new(());
        let from = |request: &mut Request<()>, id| {
            stamp(request, ClusterId(7), NodeId(id), NodeId(42));
            check_sender(request.metadata(), &removed)
        };
        assert!(check_sender(Request::new(()).metadata(), &removed).is_ok());
        assert!(from(&mut request, 4).is_ok());
        let refusal = from(&mut request, 3).unwrap_err();
        assert!(refusal.message().contains("was removed"), "{refusal}");
        assert!(!misled(&refusal), "it is the node that was meant");
        let elsewhere = check(request.metadata(), ClusterId(7), NodeId(43)).unwrap_err();
        assert!(misled(&elsewhere));

        let removal = Removal::default();
        removal.listen(&elsewhere);
        assert!(!*removal.heard.borrow());
        removal.listen(&refusal);
        removal.heard().await;
    }
}
