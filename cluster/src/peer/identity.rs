//! Who a message between nodes is for.
//!
//! Addresses are reused: a node may answer where another node, or a node of
//! another cluster, was yesterday. Every call therefore names the cluster and
//! the node it means, and a node that is not meant refuses it.

use std::str::FromStr;

use tonic::{Request, Status, metadata::MetadataMap};

use crate::{ClusterId, NodeId};

/// Cluster id, 32 hexadecimal digits.
pub const CLUSTER_KEY: &str = "weir-cluster";
/// Id of the node that is meant, decimal.
pub const NODE_KEY: &str = "weir-node";

/// Names the cluster and the node that a request is for.
pub fn stamp<T>(request: &mut Request<T>, cluster: ClusterId, to: NodeId) {
    let metadata = request.metadata_mut();
    // Digits alone: neither can fail to be a header.
    if let (Ok(cluster), Ok(node)) = (cluster.to_string().parse(), to.0.to_string().parse()) {
        metadata.insert(CLUSTER_KEY, cluster);
        metadata.insert(NODE_KEY, node);
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

fn value<T: FromStr>(metadata: &MetadataMap, key: &str) -> Option<T> {
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
        stamp(&mut request, cluster, me);
        assert!(!refused(&request));
        stamp(&mut request, cluster, NodeId(43));
        assert!(refused(&request));
        stamp(&mut request, ClusterId(8), me);
        assert!(refused(&request));
        stamp(&mut request, cluster, me);
        request
            .metadata_mut()
            .insert(NODE_KEY, "forty-two".parse().unwrap());
        assert!(refused(&request));
    }
}
