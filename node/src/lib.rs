//! One node of a Weir cluster: the machine's disk, the services that clients
//! call, and the commands of the `weir` binary.
//!
//! [`assemble`] is the place where the whole stack is written out.

pub mod admin;
pub mod api;
pub mod assemble;
pub mod cli;
pub mod config;
pub mod data_dir;
// Once more, for the reason given there.
#[path = "../../cluster/src/planted/mod.rs"]
pub mod planted;
pub mod serve;
pub mod status;
pub mod store;
pub mod telemetry;
mod upkeep;
