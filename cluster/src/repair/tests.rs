//! Some nodes in one process, with repair on each: what was acknowledged is
//! found, and ends up on its owners and nowhere else.

mod changes;
mod cluster;
mod crashes;
mod model;
mod soak;
mod troubles;
