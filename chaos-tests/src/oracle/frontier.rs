//! Linearizability of a register by search, for histories in which a read
//! does not tell which write it saw: those with deletes.
//!
//! Wing and Gong's search, in Lowe's just-in-time form: time goes on event by
//! event, with the set of all states that the register may be in by now. A
//! state is its value and which of the open operations have taken effect. An
//! operation that ends must have taken effect in each state that lives on, so
//! writes are put in order no earlier than an end asks for it. Reads change
//! nothing and take effect as soon as they can, which loses no possibility.
//!
//! Memory is bounded by the number of states at one moment, and by the number
//! of open operations; beyond that the answer is "undecided".

use std::collections::HashSet;

use super::Violation;
use crate::history::{ABSENT, Kind, Operation};

/// Most states at one moment: some 3 MiB.
const STATES: usize = 1 << 16;

/// Most operations that are open at one moment. Those of unknown outcome are
/// open for ever.
const OPEN: usize = 128;

/// Operations that an explanation lists.
const LISTED: usize = 6;

const RULE: &str = "no order of the operations explains this answer";

/// What the search found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Possible,
    Impossible(Box<Violation>),
    Undecided,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    value: u64,
    /// Open operations that have taken effect, a bit each.
    done: u128,
}

struct Search<'a> {
    operations: &'a [Operation],
    /// Which operation has each bit.
    open: [Option<usize>; OPEN],
    states: HashSet<State>,
}

/// Searches the operations of one key; those of unknown outcome have an end
/// that never comes.
pub(super) fn search(operations: &[Operation]) -> Outcome {
    let mut search = Search {
        operations,
        open: [None; OPEN],
        states: HashSet::from([State {
            value: ABSENT,
            done: 0,
        }]),
    };
    for (_, is_end, index) in events(operations) {
        if !is_end {
            if !search.begin(index) {
                return Outcome::Undecided;
            }
            continue;
        }
        let Some(next) = search.end(index) else {
            return Outcome::Undecided;
        };
        if next.is_empty() {
            return Outcome::Impossible(Box::new(search.explain(index)));
        }
        search.states = next;
    }
    Outcome::Possible
}

/// Starts and ends in order; at the same moment starts come first, since equal
/// times are concurrent.
fn events(operations: &[Operation]) -> Vec<(u64, bool, usize)> {
    let mut events = Vec::with_capacity(2 * operations.len());
    for (index, operation) in operations.iter().enumerate() {
        events.push((operation.start, false, index));
        if operation.end != u64::MAX {
            events.push((operation.end, true, index));
        }
    }
    events.sort_unstable();
    events
}

impl Search<'_> {
    /// False when too many operations are open.
    fn begin(&mut self, index: usize) -> bool {
        let Some(bit) = self.open.iter().position(Option::is_none) else {
            return false;
        };
        self.open[bit] = Some(index);
        if self.operations[index].kind == Kind::Read {
            let states = std::mem::take(&mut self.states);
            self.states = states.into_iter().map(|state| self.settle(state)).collect();
        }
        true
    }

    /// The states after the end of an operation; `None` when there are too
    /// many.
    fn end(&mut self, index: usize) -> Option<HashSet<State>> {
        let bit = self.open.iter().position(|open| *open == Some(index))?;
        let mut next = HashSet::new();
        let mut seen = self.states.clone();
        let mut left: Vec<State> = seen.iter().copied().collect();
        while let Some(state) = left.pop() {
            if state.done & (1 << bit) != 0 {
                next.insert(State {
                    done: state.done & !(1 << bit),
                    ..state
                });
                continue;
            }
            for (other, open) in self.open.iter().enumerate() {
                let Some(write) = open.map(|index| self.operations[index]) else {
                    continue;
                };
                if write.kind == Kind::Read || state.done & (1 << other) != 0 {
                    continue;
                }
                let after = self.settle(State {
                    value: write.value,
                    done: state.done | (1 << other),
                });
                if seen.insert(after) {
                    left.push(after);
                }
            }
            if seen.len() > STATES {
                return None;
            }
        }
        self.open[bit] = None;
        Some(next)
    }

    /// Open reads that find this value have taken effect.
    fn settle(&self, mut state: State) -> State {
        for (bit, open) in self.open.iter().enumerate() {
            let Some(operation) = open.map(|index| self.operations[index]) else {
                continue;
            };
            if operation.kind == Kind::Read && operation.value == state.value {
                state.done |= 1 << bit;
            }
        }
        state
    }

    /// The operation at whose end no state was left, with those that were
    /// there when it ran, the last first.
    fn explain(&self, index: usize) -> Violation {
        let impossible = self.operations[index];
        let mut because: Vec<Operation> = self
            .operations
            .iter()
            .enumerate()
            .filter(|(other, op)| *other != index && op.start <= impossible.end)
            .map(|(_, op)| *op)
            .collect();
        because.sort_by_key(|op| std::cmp::Reverse((op.end, op.start)));
        because.truncate(LISTED);
        Violation {
            key: impossible.key,
            rule: RULE,
            impossible,
            because,
        }
    }
}
