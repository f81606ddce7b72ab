//! Which faults come when: a value that follows from a seed, and its run.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Fault, Kind, find};
use crate::{fleet::Fleet, seeded::Words};

/// Between two ticks of the faults that last.
const TICK: Duration = Duration::from_millis(500);

/// One fault of a step, as it is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// See [`Kind::name`].
    pub fault: String,
    /// What its choices follow from.
    pub seed: u64,
}

/// Faults that last at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Injected in this order, but those that lose copies first; healed the
    /// other way round.
    pub orders: Vec<Order>,
    /// How long they last together.
    pub hold_ms: u64,
}

/// Steps one after the other. Its JSON, which is printed, can be run again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// What it was drawn from.
    pub seed: u64,
    /// In their order.
    pub steps: Vec<Step>,
}

impl Script {
    /// Draws `steps` steps, of up to `at_once` of these faults at a time, that
    /// last from half of `hold` to the whole. No step has two faults that lose
    /// copies: together they may lose all.
    pub fn draw(
        seed: u64,
        steps: usize,
        at_once: usize,
        hold: Duration,
        names: &[&str],
    ) -> Result<Script> {
        ensure!(!names.is_empty() && at_once > 0, "no faults to draw from");
        let kinds = names.iter().map(|name| find(name));
        let kinds: Vec<&Kind> = kinds.collect::<Result<_>>()?;
        let mut words = Words::new(seed);
        let draw_step = |_| {
            let mut drawn: Vec<&Kind> = Vec::new();
            for _ in 0..=words.below(at_once) {
                let kind = kinds[words.below(kinds.len())];
                let is_new = drawn.iter().all(|other| other.name != kind.name);
                let loses = kind.loses_copies && drawn.iter().any(|other| other.loses_copies);
                if is_new && !loses {
                    drawn.push(kind);
                }
            }
            let orders = drawn.iter().map(|kind| Order {
                fault: kind.name.into(),
                seed: words.next().unwrap_or_default(),
            });
            let orders = orders.collect();
            let half = hold.as_millis() as u64 / 2;
            let hold_ms = half + words.below(half as usize + 1) as u64;
            Step { orders, hold_ms }
        };
        let steps = (0..steps).map(draw_step).collect();
        Ok(Script { seed, steps })
    }

    /// One step of one fault, for a test of just that.
    pub fn just(fault: &str, seed: u64, hold: Duration) -> Script {
        let order = Order {
            fault: fault.into(),
            seed,
        };
        let step = Step {
            orders: vec![order],
            hold_ms: hold.as_millis() as u64,
        };
        Script {
            seed,
            steps: vec![step],
        }
    }

    /// Runs all steps. After each is healed and the members serve again,
    /// `check` looks at what the fleet has become; its error ends the run.
    pub fn run(
        &self,
        fleet: &mut Fleet,
        check: impl FnMut(&mut Fleet, &Step) -> Result<()>,
    ) -> Result<()> {
        self.run_watched(fleet, |_, _| Ok(()), check)
    }

    /// As [`run`](Self::run); moreover `watch` looks at the fleet while the
    /// faults of a step last, just before they are healed.
    pub fn run_watched(
        &self,
        fleet: &mut Fleet,
        mut watch: impl FnMut(&mut Fleet, &[Hit<'_>]) -> Result<()>,
        mut check: impl FnMut(&mut Fleet, &Step) -> Result<()>,
    ) -> Result<()> {
        fleet.events().enter("script", json!(self));
        for step in &self.steps {
            step.run(fleet, &mut watch)
                .and_then(|()| check(fleet, step))
                .with_context(|| format!("in {step} of the script {}", json!(self)))?;
        }
        Ok(())
    }
}

impl Step {
    fn run(
        &self,
        fleet: &mut Fleet,
        watch: &mut impl FnMut(&mut Fleet, &[Hit<'_>]) -> Result<()>,
    ) -> Result<()> {
        let mut faults: Vec<Ordered<'_>> = Vec::new();
        for order in &self.orders {
            let kind = find(&order.fault)?;
            ensure!(kind.fits(fleet), "{} needs {:?}", kind.name, kind.needs);
            let fault = (kind.make)(order.seed);
            faults.push(Ordered { kind, order, fault });
        }
        // Those that lose copies change members, which needs a quorum: they
        // come before the others, and are healed after them.
        faults.sort_by_key(|one| !one.kind.loses_copies);
        let loses_copies = faults.iter().any(|one| one.kind.loses_copies);
        let mut begun = 0;
        let injected = faults.iter_mut().try_for_each(|one| {
            begun += 1;
            one.inject(fleet)
        });
        let held = injected
            .and_then(|()| self.hold(fleet, &mut faults))
            .and_then(|()| {
                let hits = faults.iter().map(Ordered::hit);
                watch(fleet, &hits.collect::<Vec<_>>())
            });
        // Whatever happened: what was begun is ended, all of it.
        let mut outcome = held;
        for one in faults[..begun].iter_mut().rev() {
            outcome = outcome.and(one.heal(fleet));
        }
        outcome?;
        fleet.wait_all_serving()?;
        fleet.wait_members()?;
        if loses_copies {
            fleet.wait_settled()?;
        }
        fleet.events().enter("healed", json!(self));
        Ok(())
    }

    fn hold(&self, fleet: &mut Fleet, faults: &mut [Ordered<'_>]) -> Result<()> {
        let time = Duration::from_millis(self.hold_ms);
        let start = Instant::now();
        loop {
            let passed = start.elapsed().as_secs_f64() / time.as_secs_f64().max(1e-3);
            for one in &mut *faults {
                one.fault.tick(fleet, passed.min(1.0))?;
            }
            if passed >= 1.0 {
                return Ok(());
            }
            thread::sleep(TICK.min(time.saturating_sub(start.elapsed())));
        }
    }
}

/// A fault that lasts, and whom it hits.
#[derive(Clone, Copy, Debug)]
pub struct Hit<'a> {
    /// See [`Kind::name`].
    pub fault: &'static str,
    pub victims: &'a [usize],
}

/// A fault on its way.
struct Ordered<'a> {
    kind: &'static Kind,
    order: &'a Order,
    fault: Box<dyn Fault>,
}

impl Ordered<'_> {
    fn hit(&self) -> Hit<'_> {
        Hit {
            fault: self.kind.name,
            victims: self.fault.victims(),
        }
    }

    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        if fleet.healthy().is_empty() {
            fleet
                .events()
                .enter("nobody is left for", json!(self.order));
            return Ok(());
        }
        fleet.events().enter("inject", json!(self.order));
        let injected = self.fault.inject(fleet);
        injected.with_context(|| format!("{} cannot be injected", self.order))
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        fleet.events().enter("heal", json!(self.order));
        let healed = self.fault.heal(fleet);
        healed.with_context(|| format!("{} cannot be healed", self.order))
    }
}

impl fmt::Display for Order {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} of seed {}", self.fault, self.seed)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, order) in self.orders.iter().enumerate() {
            write!(out, "{}{order}", if number == 0 { "" } else { " with " })?;
        }
        write!(out, " for {} ms", self.hold_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::KINDS;

    #[test]
    fn a_script_follows_from_its_seed_and_survives_as_json() {
        let names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        let draw = |seed| Script::draw(seed, 200, 3, Duration::from_secs(4), &names).unwrap();
        let script = draw(5);
        assert_eq!(script, draw(5));
        assert_ne!(script, draw(6));
        let again: Script = serde_json::from_value(json!(script)).unwrap();
        assert_eq!(again, script);
        let mut used = std::collections::BTreeSet::new();
        for step in &script.steps {
            assert!((1..=3).contains(&step.orders.len()));
            assert!((2000..=4000).contains(&step.hold_ms));
            let loses = |order: &&Order| find(&order.fault).unwrap().loses_copies;
            assert!(step.orders.iter().filter(loses).count() <= 1);
            used.extend(step.orders.iter().map(|order| order.fault.clone()));
        }
        assert!(used.len() > names.len() / 2, "{used:?}");
        assert!(Script::draw(1, 1, 1, Duration::ZERO, &["happiness"]).is_err());
    }
}
