//! Which promises agreed state alone makes weaker than configured.
//!
//! What takes asking the members (which of them are down, whose volume is out
//! of use, what repair lacks) is added by who asks them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{Placement, REPLICA_LIMIT, view::View};
use crate::{NodeId, state::MemberStatus};

/// A promise that is weaker than configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Weaker {
    /// The same as long as it is about the same thing, whatever the numbers.
    pub key: String,
    /// Names of the promises, e.g. `P1, P2`.
    pub promises: &'static str,
    pub what: String,
    /// What ends it.
    pub until: String,
}

impl Weaker {
    pub fn new(
        key: impl Into<String>,
        promises: &'static str,
        what: impl Into<String>,
        until: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            promises,
            what: what.into(),
            until: until.into(),
        }
    }
}

impl fmt::Display for Weaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.promises)
    }
}

/// Key of the entry for blobs that move to the owners of a new epoch.
pub const MOVING: &str = "moving";

impl View {
    /// Which promises are weaker than configured, and why.
    #[must_use]
    pub fn weaker(&self) -> Vec<Weaker> {
        let Some(current) = self.current() else {
            return vec![Weaker::new(
                "begin",
                "P1, P3",
                "no node takes part yet: nothing can be stored",
                "the first nodes have joined",
            )];
        };
        let settings = &self.state().settings;
        let (nodes, zones) = (current.nodes().len(), current.zones().len());
        let width = current.width();
        let (replicas, quorum) = (settings.replicas as usize, settings.write_quorum as usize);
        let mut weaker = Vec::new();
        if replicas > width {
            let (why, until) = if nodes > width {
                let why = format!("more than {REPLICA_LIMIT} are not supported");
                (why, format!("replicas is {REPLICA_LIMIT} or less"))
            } else {
                let why = format!("the cluster has {}", plural(nodes, "node"));
                (why, format!("{} own blobs", plural(replicas, "node")))
            };
            let what = format!(
                "blobs have {} instead of {replicas}: {why}",
                plural(width, "copy")
            );
            weaker.push(Weaker::new("copies", "P1, P2", what, until));
        }
        if quorum > width {
            let what = format!(
                "uploads are answered at {} instead of {quorum}: the cluster has {}",
                plural(width, "copy"),
                plural(nodes, "node"),
            );
            let until = format!("{} own blobs", plural(quorum, "node"));
            weaker.push(Weaker::new("quorum", "P1", what, until));
        }
        if zones < replicas.min(nodes) {
            let loss = match zones {
                0 | 1 => "the loss of the zone loses blobs".into(),
                2 => "the loss of one zone may leave a single copy".into(),
                _ => {
                    let left = plural(zones - 1, "copy");
                    format!("the loss of one zone may leave {left}")
                }
            };
            let what = format!(
                "copies share zones: {} for {}; {loss}",
                plural(zones, "zone"),
                plural(width, "copy"),
            );
            let until = format!("nodes are in {}", plural(width, "zone"));
            weaker.push(Weaker::new("zones", "P2", what, until));
        }
        let hosts = self.hosts().collect::<BTreeSet<_>>().len();
        if hosts < width {
            let what = format!(
                "copies share machines: {} for {}",
                plural(hosts, "host"),
                plural(width, "copy"),
            );
            let until = format!("nodes are on {}", plural(width, "host"));
            weaker.push(Weaker::new("hosts", "P2", what, until));
        }
        if self.placements().len() > 1 {
            let what = format!(
                "blobs move to epoch {}, with {} still in use: some have fewer than {} at their new owners",
                self.epoch(),
                plural(self.placements().len() - 1, "older epoch"),
                plural(width, "copy"),
            );
            weaker.push(Weaker::new(MOVING, "P2", what, "blobs have moved"));
        }
        weaker.extend(self.gone(current));
        weaker.extend(self.stay_outside(current));
        weaker
    }

    /// Hosts of the current epoch; a node without a label is a host of its own.
    fn hosts(&self) -> impl Iterator<Item = (Option<NodeId>, &str)> {
        let shares = self.state().epochs.last().map(|plan| plan.nodes.iter());
        shares.into_iter().flatten().map(|(id, share)| {
            let own = share.host.is_empty().then_some(*id);
            (own, &*share.host)
        })
    }

    /// Owners that were replaced and whose successors own nothing yet.
    fn gone(&self, current: &Placement) -> Option<Weaker> {
        let gone = current.nodes().filter(|node| self.member(*node).is_none());
        let gone = gone.count();
        let what = format!(
            "{} of epoch {} left: blobs have fewer than {}",
            plural(gone, "owner"),
            self.epoch(),
            plural(current.width(), "copy"),
        );
        let until = "a node has taken their place";
        (gone > 0).then(|| Weaker::new("gone", "P1, P2", what, until))
    }

    fn stay_outside<'a>(&'a self, current: &'a Placement) -> impl Iterator<Item = Weaker> + 'a {
        let mut outside: BTreeMap<NodeId, &str> = BTreeMap::new();
        for (id, member) in &self.state().members {
            if member.status == MemberStatus::Active && !current.contains(*id) {
                outside.insert(*id, &member.name);
            }
        }
        outside.into_iter().map(|(id, name)| {
            let what = format!("node {name} is active but owns nothing in this epoch");
            Weaker::new(format!("outside:{id}"), "P2", what, "a new epoch begins")
        })
    }
}

fn plural(count: usize, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {noun}s"),
    }
}
