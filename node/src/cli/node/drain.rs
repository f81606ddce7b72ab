//! `weir node drain`

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use weir_proto::cluster::DrainRequest;

use super::super::{
    NodeArgs, admin_client, block_on, duration, say,
    show::{Line, note},
};
use super::progress::Progress;
use crate::{
    planted::{self, Bug},
    status::{ClusterStatus, NodeStatus},
};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Move everything that a node holds to the others, so that it can leave
///
/// The node goes on serving, owns nothing new, and its blobs move to the nodes
/// that own them from now on. With --wait the command shows what is left and
/// ends with 0 when the node holds no copy that another may lack; then
/// `weir node remove` takes it out. Stopping the command stops nothing: give it
/// again to look on. --cancel calls the node back.
///
/// Examples:
///   weir node drain cache-2 --wait
///   weir node drain cache-2 --wait --timeout 6h && weir node remove cache-2
///   weir node drain cache-2 --cancel
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Drain {
    #[command(flatten)]
    node: NodeArgs,
    /// The node, by name or id
    #[arg(value_name = "NODE")]
    member: String,
    /// Wait until it holds no copy that another may lack
    #[arg(long, conflicts_with = "cancel")]
    wait: bool,
    /// Give up waiting after this long and end with 1, e.g. 30m; the drain goes on
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "wait")]
    timeout: Option<Duration>,
    /// Call the node back: it owns its share again
    #[arg(long)]
    cancel: bool,
}

/// A node that is not draining in so many looks was called back. In fewer, the
/// node that is asked may only be behind, as after its start.
const BACK_LOOKS: u32 = 10;

/// How a drain stands.
#[derive(Debug, PartialEq, Eq)]
enum Stand {
    /// The node holds no copy that another may lack, or left already.
    Done(String),
    /// What is still to happen.
    Under { bytes_left: u64, what: String },
    /// The node does not drain, as far as the one that is asked knows.
    Back,
}

impl Drain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        block_on(self.drain())?
    }

    async fn drain(self) -> anyhow::Result<ExitCode> {
        let mut admin = admin_client::connect(&self.node.node).await?;
        let request = DrainRequest {
            node: self.member.clone(),
            cancel: self.cancel,
        };
        let answer = admin.drain(request).await.map_err(admin_client::explain)?;
        say(answer.into_inner().message);
        if !self.wait {
            return Ok(ExitCode::SUCCESS);
        }
        let began = Instant::now();
        let mut line = Line::default();
        let mut progress = Progress::default();
        // By id from the first look on: names may be given to another node.
        let mut member = self.member.clone();
        let mut back = 0;
        loop {
            // The node that is asked may be restarted meanwhile.
            let text = match admin_client::status(&self.node.node).await {
                Err(error) => format!("{error:#}; trying again"),
                Ok((_, status)) => {
                    if let Some(node) = status.node(&member) {
                        member.clone_from(&node.id);
                    }
                    match stand(&status, &member, &self.member) {
                        Stand::Done(text) => {
                            line.end();
                            say(text);
                            return Ok(ExitCode::SUCCESS);
                        }
                        Stand::Back if back == BACK_LOOKS => {
                            line.end();
                            anyhow::bail!("{} was called back and does not drain", self.member);
                        }
                        Stand::Back => {
                            back += 1;
                            format!("{}: not draining yet", self.member)
                        }
                        Stand::Under { bytes_left, what } => {
                            back = 0;
                            progress.look(began.elapsed(), bytes_left);
                            format!("{}: {}{what}", self.member, progress.text())
                        }
                    }
                }
            };
            line.show(&text);
            if self.timeout.is_some_and(|limit| began.elapsed() >= limit) {
                line.end();
                note("the time is up; the drain goes on, and the same command looks on");
                return Ok(ExitCode::FAILURE);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

fn stand(status: &ClusterStatus, member: &str, name: &str) -> Stand {
    let Some(node) = status.node(member) else {
        return Stand::Done(format!("{name} is no member any more"));
    };
    if node.status != "draining" {
        return Stand::Back;
    }
    if node.holds_no_sole_copy() || planted::is(Bug::DrainEndsEarly) {
        return Stand::Done(format!(
            "{name} holds no copy that another may lack; take it out: weir node remove {name}"
        ));
    }
    Stand::Under {
        bytes_left: node.repair.surplus_bytes.max(status.bytes_left),
        what: waits_for(status, node),
    }
}

/// What a drain waits for, beside bytes.
fn waits_for(status: &ClusterStatus, node: &NodeStatus) -> String {
    if !node.is_up() {
        return format!("; it does not answer: {}", node.volume);
    }
    let waiting = status.epochs.first().map(|current| &current.waiting);
    match waiting {
        Some(waiting) if !node.epochs.is_empty() && !waiting.is_empty() => {
            format!("; waits for {} to hold all they own", waiting.join(", "))
        }
        _ if !node.repair.trouble.is_empty() => format!("; trouble: {}", node.repair.trouble),
        _ if node.repair.surplus_blobs == 0 => "; it compares what it holds".into(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{EpochStatus, RepairStatus};

    fn status(node: NodeStatus) -> ClusterStatus {
        ClusterStatus {
            nodes: vec![node],
            epochs: vec![EpochStatus {
                epoch: 4,
                owners: 3,
                waiting: vec!["n1".into(), "n3".into()],
            }],
            ..ClusterStatus::default()
        }
    }

    fn draining() -> NodeStatus {
        NodeStatus {
            name: "n2".into(),
            id: "2".into(),
            state: "draining".into(),
            status: "draining".into(),
            ..NodeStatus::default()
        }
    }

    fn look(node: NodeStatus) -> Stand {
        stand(&status(node), "2", "n2")
    }

    #[test]
    fn a_drain_has_ended_only_when_nothing_can_be_lost() {
        let settled = RepairStatus {
            settled: true,
            ..RepairStatus::default()
        };
        let done = NodeStatus {
            repair: settled.clone(),
            ..draining()
        };
        assert!(matches!(look(done.clone()), Stand::Done(text) if text.contains("remove n2")));
        for (unfinished, says) in [
            (draining(), "it compares"),
            (
                NodeStatus {
                    epochs: vec![3],
                    ..done.clone()
                },
                "waits for n1, n3",
            ),
            (
                NodeStatus {
                    repair: RepairStatus {
                        surplus_blobs: 1,
                        trouble: "n3 is silent".into(),
                        ..settled
                    },
                    ..done.clone()
                },
                "n3 is silent",
            ),
            (
                NodeStatus {
                    state: "down".into(),
                    volume: "refused".into(),
                    ..done.clone()
                },
                "does not answer: refused",
            ),
        ] {
            match look(unfinished) {
                Stand::Under { what, .. } => assert!(what.contains(says), "{what}"),
                other => panic!("{says}: {other:?}"),
            }
        }
        let back = NodeStatus {
            status: "active".into(),
            ..done
        };
        assert_eq!(look(back), Stand::Back);
        let gone = stand(&ClusterStatus::default(), "2", "n2");
        assert!(matches!(gone, Stand::Done(_)));
    }
}
