//! One node of a Weir cluster: the machine's disk, the services that clients
//! call, and the commands of the `weir` binary.
//!
//! [`assemble`] is the place where the whole stack is written out.

pub mod config;
pub mod store;
