//! One run of a scenario, from an empty machine to a verdict.
//!
//! ```text
//!  fleet ──► work begins ──► faults, healed ──► settled ──► full scan ──► verdict ──► copies counted
//!  ground    work            scenario::Plan,    invariants   scan         judge,      at_rest
//!                            named                                        record
//! ```
//!
//! - [`Ground`](ground::Ground) is what a run stands on: a fleet of its own, or
//!   a cluster of somebody else's, whose faults are commands of theirs.
//! - Histories are written down before they are judged, with everything that is
//!   needed to judge them again: see [`replay`].
//! - All judges are asked, also when the first has found something. A call
//!   that failed may have happened or not; it is never taken for absent.
//! - A run that found something keeps its folder: histories, logs, the script
//!   of its faults, what was done when.
//!
//! [`Tally`] adds up what all runs did.

mod at_rest;
mod events;
mod fleet;
pub mod ground;
mod judge;
mod named;
mod play;
mod record;
mod report;
mod scan;
mod steps;
mod tally;
pub mod target;
mod work;

pub use self::{
    fleet::{Orders, run},
    play::busy,
    record::replay,
    report::{COURSE, Planted, Report},
    tally::Tally,
    target::Target,
};
