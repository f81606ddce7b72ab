//! What `weir dev` tells the person in front of it.

use std::{fmt::Write, path::Path};

use super::Layout;
use crate::status::ClusterStatus;

/// The cluster, and the configuration to paste.
pub(super) fn text(dir: &Path, layout: &Layout, status: &ClusterStatus) -> String {
    let mut out = format!(
        "\n{} nodes serve; everything is in {}\n\n{}",
        layout.nodes.len(),
        dir.display(),
        status.to_text()
    );
    let url = layout.nodes[0].client_url();
    let _ = write!(
        out,
        "\nBuildStream: paste this into ~/.config/buildstream.conf (any node's URL will do)\n\n\
         artifacts:\n  servers:\n  - url: {url}\n    push: true\n\
         source-caches:\n  servers:\n  - url: {url}\n    push: true\n\n\
         Look again: weir status --node {}\n\
         Stop with Ctrl-C.\n",
        layout.nodes[0].admin_url()
    );
    out
}

/// The state of the cluster in one line, the same while nothing of note changes.
pub(super) fn line(status: &ClusterStatus) -> String {
    let (up, down): (Vec<_>, Vec<_>) = status.nodes.iter().partition(|node| node.is_up());
    let mut out = format!("{} of {} nodes up", up.len(), status.nodes.len());
    if !down.is_empty() {
        let names: Vec<_> = down.iter().map(|node| node.name.as_str()).collect();
        let _ = write!(out, " (down: {})", names.join(", "));
    }
    match &status.leader {
        Some(leader) => _ = write!(out, ", {leader} leads"),
        None => out.push_str(", no leader: pushes wait"),
    }
    out
}
