//! The `weir` binary as an operator meets it, with nodes as real processes.

mod drain;
mod members;
mod processes;
mod starting;
