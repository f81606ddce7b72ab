//! Many seeded runs of writes, changes of membership and faults together.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::cluster::{Cluster, id};
use crate::{
    Error,
    peer::faulty_peers::Faults,
    state::{Command, MemberStatus},
};

/// Nodes; the first few are members at first, the others join or replace.
const ZONES: &[&str] = &["a", "b", "c", "a", "b", "c", "a", "b"];

fn faults(rng: &mut StdRng) -> Faults {
    let healthy = Faults::default();
    match rng.random_range(0..7) {
        0 => Faults {
            down: true,
            ..healthy
        },
        1 => Faults {
            silent: true,
            ..healthy
        },
        2 => Faults {
            delay: Duration::from_millis(rng.random_range(1..3_000)),
            ..healthy
        },
        3 => Faults {
            breaks_after: Some(rng.random_range(0..2_000_000)),
            ..healthy
        },
        4 => Faults {
            loses_answers: true,
            ..healthy
        },
        5 => Faults {
            corrupt: true,
            ..healthy
        },
        _ => healthy,
    }
}

struct Run {
    cluster: Cluster,
    rng: StdRng,
    /// Nodes that are or were members.
    used: u64,
    killed: Option<u64>,
    lost_a_volume: bool,
}

impl Run {
    fn active(&self) -> Vec<u64> {
        let members = self.cluster.members().into_iter();
        let active = members.filter(|(_, member)| member.status == MemberStatus::Active);
        active.map(|(id, _)| id.0).collect()
    }

    /// Commands may be refused: too many epochs, too few owners.
    async fn step(&mut self) {
        let active = self.active();
        let member = *active.choose(&mut self.rng).unwrap();
        let spare = self.used + 1;
        match self.rng.random_range(0..16) {
            0..6 => {
                let gateway = member;
                if Some(gateway) == self.killed {
                    return;
                }
                for _ in 0..self.rng.random_range(1..6) {
                    match self.cluster.try_write(gateway).await {
                        Ok(_) | Err(Error::NoQuorum(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            6 if spare <= ZONES.len() as u64 && self.cluster.state().epochs.len() < 8 => {
                self.used += 1;
                self.cluster.join(spare).await;
            }
            7 if active.len() > 3 => {
                let id = id(member);
                self.cluster
                    .try_propose(Command::Drain { id, on: true })
                    .await;
            }
            8 => {
                let replicas = self.rng.random_range(2..5);
                let settings = crate::state::Settings {
                    replicas,
                    ..self.cluster.state().settings.clone()
                };
                self.cluster.try_propose(Command::Settle { settings }).await;
            }
            9 | 10 => self.cluster.peers.set(id(member), faults(&mut self.rng)),
            11 => {
                let deaf = self.rng.random_bool(0.5);
                self.cluster.set_deaf(member, deaf);
            }
            12 if self.killed.is_none() => {
                self.killed = Some(member);
                self.cluster.kill(member);
            }
            13 => {
                if let Some(number) = self.killed.take() {
                    self.cluster.revive(number);
                }
            }
            14 if !self.lost_a_volume && spare <= ZONES.len() as u64 => {
                self.lose_a_volume(spare).await;
            }
            // Drained nodes leave, if nothing needs them.
            15 => {
                for (id, member) in self.cluster.members() {
                    if member.status == MemberStatus::Draining {
                        let force = false;
                        self.cluster
                            .try_propose(Command::Remove { id, force })
                            .await;
                    }
                }
            }
            _ => {}
        }
        let pause = self.rng.random_range(0..15_000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    fn heal(&mut self) {
        self.cluster.peers.heal();
        if let Some(number) = self.killed.take() {
            self.cluster.revive(number);
        }
        for number in 1..=ZONES.len() as u64 {
            self.cluster.set_deaf(number, false);
        }
    }

    /// W copies survive the loss of one, so no other is lost with it.
    async fn lose_a_volume(&mut self, spare: u64) {
        self.heal();
        let active = self.active();
        let victim = *active.choose(&mut self.rng).unwrap();
        self.lost_a_volume = true;
        self.cluster.kill(victim);
        self.cluster.store(victim).clear();
        self.used += 1;
        self.cluster.replace(victim, spare).await;
        // The removed node stays away, and may fail as it likes.
        self.cluster.peers.set(
            id(victim),
            Faults {
                down: true,
                ..Faults::default()
            },
        );
        let nodes = vec![id(spare)];
        let _ = self.cluster.try_propose(Command::Activate { nodes }).await;
    }
}

async fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let members = rng.random_range(3..6);
    let mut run = Run {
        cluster: Cluster::new(ZONES, members, 3, 2),
        rng,
        used: members as u64,
        killed: None,
        lost_a_volume: false,
    };
    for _ in 0..30 {
        run.step().await;
    }
    run.heal();
    // A node that joined while there was no room for an epoch.
    let joining = run.cluster.members().into_iter();
    let joining = joining.filter(|(_, member)| member.status == MemberStatus::Joining);
    let nodes: Vec<_> = joining.map(|(id, _)| id).collect();
    run.cluster.settle().await;
    if !nodes.is_empty() {
        run.cluster.propose(Command::Activate { nodes }).await;
        run.cluster.settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_ends_up_on_its_owners() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>());
    let seeds = match (number("WEIR_SEED"), number("WEIR_SEEDS")) {
        (Some(seed), _) => {
            let seed = seed.expect("WEIR_SEED is a number");
            seed..seed + 1
        }
        (None, Some(seeds)) => 0..seeds.expect("WEIR_SEEDS is a number"),
        (None, None) => 0..30,
    };
    for seed in seeds {
        // Shown when the run fails.
        #[allow(clippy::print_stdout)]
        {
            println!("seed {seed}: WEIR_SEED={seed} repeats this run");
        }
        run(seed).await;
    }
}
