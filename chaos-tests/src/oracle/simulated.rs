//! Histories for tests: written by hand, or made by a register that is right
//! by construction, with clients that lose track of it.

use crate::{
    history::{ABSENT, Kind, Operation, Outcome},
    seeded::Words,
};

/// Moves hand-written times past 0, which is before everything.
const FIRST: u64 = 1;

fn operation(kind: Kind, value: u64, start: u64, end: u64) -> Operation {
    Operation::done(kind, value, start + FIRST, end + FIRST)
}

pub(super) fn write(value: u64, start: u64, end: u64) -> Operation {
    operation(Kind::Write, value, start, end)
}

pub(super) fn delete(start: u64, end: u64) -> Operation {
    operation(Kind::Delete, ABSENT, start, end)
}

pub(super) fn hit(value: u64, start: u64, end: u64) -> Operation {
    operation(Kind::Read, value, start, end)
}

pub(super) fn miss(start: u64, end: u64) -> Operation {
    operation(Kind::Read, ABSENT, start, end)
}

pub(super) fn ask(value: u64, start: u64, end: u64) -> Operation {
    operation(Kind::Ask, value, start, end)
}

impl Operation {
    pub(super) fn unknown(self) -> Operation {
        let outcome = Outcome::Unknown;
        Operation { outcome, ..self }
    }

    pub(super) fn failed(self) -> Operation {
        let outcome = Outcome::Failed;
        Operation { outcome, ..self }
    }

    pub(super) fn revision(self, revision: u64) -> Operation {
        Operation { revision, ..self }
    }

    pub(super) fn uri(self, uri: u8) -> Operation {
        Operation { uri, ..self }
    }
}

/// How large a simulated history is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) keys: usize,
    /// Clients of each key.
    pub(super) clients: usize,
    /// Operations of each client.
    pub(super) rounds: usize,
    /// Percentage of writes whose outcome is unknown, and as many that fail.
    pub(super) unknown: usize,
    /// Percentage of deletes.
    pub(super) deletes: usize,
}

/// The history of registers that are right.
pub(super) fn simulate(shape: Shape, words: &mut Words) -> Vec<Operation> {
    let mut history = Vec::new();
    for key in 0..shape.keys {
        history.extend(simulate_key(key as u32, shape, words));
    }
    history
}

fn simulate_key(key: u32, shape: Shape, words: &mut Words) -> Vec<Operation> {
    // With the moment at which each takes effect, if ever.
    let mut planned: Vec<(Option<u64>, Operation)> = Vec::new();
    let mut value = 0;
    for client in 0..shape.clients {
        let mut now = FIRST + words.below(10) as u64;
        for _ in 0..shape.rounds {
            let effect = now + words.below(20) as u64;
            let end = effect + words.below(20) as u64;
            let kind = match words.below(100) {
                share if share < shape.deletes => Kind::Delete,
                share if share < 50 => Kind::Write,
                _ => Kind::Read,
            };
            let mut op = Operation {
                process: client as u32,
                key,
                ..operation(kind, ABSENT, now - FIRST, end - FIRST)
            };
            let mut at = Some(effect);
            if kind == Kind::Write {
                value += 1;
                op.value = value;
            }
            if kind != Kind::Read && words.below(100) < shape.unknown {
                op.outcome = Outcome::Unknown;
                // Soon, long after the client gave up, or never.
                at = match words.below(3) {
                    0 => None,
                    1 => Some(effect),
                    _ => Some(effect + words.below(400) as u64),
                };
            } else if kind != Kind::Read && words.below(100) < shape.unknown {
                op.outcome = Outcome::Failed;
                at = None;
            }
            planned.push((at, op));
            now = end + words.below(10) as u64;
        }
    }
    planned.sort_by_key(|(at, op)| (*at, op.process));
    let mut register = ABSENT;
    for (at, op) in &mut planned {
        match op.kind {
            Kind::Read => op.value = register,
            _ if at.is_some() => register = op.value,
            _ => {}
        }
    }
    planned.into_iter().map(|(_, op)| op).collect()
}

/// Changes one operation so that the history may have become impossible.
pub(super) fn corrupt(history: &mut [Operation], words: &mut Words) {
    let other = history[words.below(history.len())];
    let index = words.below(history.len());
    let op = &mut history[index];
    match (words.below(4), op.kind) {
        (0 | 1, Kind::Read) => op.value = other.value,
        (0, _) => op.outcome = Outcome::Ok,
        (1, _) => op.outcome = Outcome::Failed,
        (2, _) => {
            let length = op.end - op.start;
            op.start = other.start;
            op.end = op.start + length;
        }
        _ => op.end = op.start + (op.end - op.start) / 2,
    }
}

/// Tries every order: right without doubt, and only for a few operations.
pub(super) fn is_possible(history: &[Operation]) -> bool {
    let counted: Vec<Operation> = history
        .iter()
        .filter(|op| match op.kind {
            Kind::Ask => false,
            Kind::Read => op.outcome == Outcome::Ok,
            Kind::Write | Kind::Delete => op.outcome != Outcome::Failed,
        })
        .copied()
        .collect();
    try_orders(&counted, ABSENT)
}

fn try_orders(left: &[Operation], value: u64) -> bool {
    if left.iter().all(|op| op.outcome == Outcome::Unknown) {
        return true;
    }
    (0..left.len()).any(|index| {
        let next = left[index];
        let is_first = !left.iter().any(|other| other.before(&next));
        let fits = next.kind != Kind::Read || next.value == value;
        is_first && fits && {
            let mut rest = left.to_vec();
            rest.remove(index);
            try_orders(&rest, next.value)
        }
    })
}
