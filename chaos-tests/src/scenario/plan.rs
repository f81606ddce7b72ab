//! Which faults a scenario orders, before a seed says when and whom.

use std::time::Duration;

use anyhow::Result;

use crate::{
    nemesis::{Order, Script, Step},
    seeded::Words,
};

/// What takes the place of faults that cannot be had.
const ANYWHERE: [&str; 2] = ["kill", "pause"];

/// Faults that last together.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub faults: &'static [&'static str],
    pub hold_ms: u64,
}

/// What is done to a fleet.
#[derive(Clone, Copy, Debug)]
pub enum Plan {
    /// Nothing, for so long.
    Calm { hold_ms: u64 },
    /// These, one after the other, so many times over.
    Turns {
        turns: &'static [Turn],
        times: usize,
    },
    /// Drawn from these.
    Drawn {
        faults: &'static [&'static str],
        steps: usize,
        at_once: usize,
        hold_ms: u64,
    },
}

impl Plan {
    /// The names of all faults that it may order.
    #[must_use]
    pub fn faults(&self) -> Vec<&'static str> {
        match self {
            Plan::Calm { .. } => Vec::new(),
            Plan::Turns { turns, .. } => {
                let all = turns.iter().flat_map(|turn| turn.faults);
                all.copied().collect()
            }
            Plan::Drawn { faults, .. } => faults.to_vec(),
        }
    }

    /// See [`Scenario::script`](super::Scenario::script).
    pub(super) fn script(&self, seed: u64, has: impl Fn(&str) -> bool) -> Result<Script> {
        let mut words = Words::new(seed);
        let fitting = |faults: &'static [&'static str]| -> Vec<&'static str> {
            let mut fitting = faults.to_vec();
            fitting.retain(|name| has(name));
            fitting
        };
        match *self {
            Plan::Calm { hold_ms } => Ok(Script {
                seed,
                steps: vec![Step {
                    orders: Vec::new(),
                    hold_ms,
                }],
            }),
            Plan::Turns { turns, times } => {
                let mut steps = Vec::new();
                for turn in (0..times).flat_map(|_| turns) {
                    let mut faults = fitting(turn.faults);
                    if faults.is_empty() {
                        faults.push(ANYWHERE[words.below(ANYWHERE.len())]);
                    }
                    let orders = faults.into_iter().map(|fault| Order {
                        fault: fault.into(),
                        seed: words.next().unwrap_or_default(),
                    });
                    steps.push(Step {
                        orders: orders.collect(),
                        hold_ms: turn.hold_ms,
                    });
                }
                Ok(Script { seed, steps })
            }
            Plan::Drawn {
                faults,
                steps,
                at_once,
                hold_ms,
            } => {
                let mut faults = fitting(faults);
                if faults.is_empty() {
                    faults.extend(ANYWHERE);
                }
                let hold = Duration::from_millis(hold_ms);
                Script::draw(seed, steps, at_once, hold, &faults)
            }
        }
    }
}
