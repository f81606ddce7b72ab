//! The `weir` binary as an operator meets it, with nodes as real processes.

#[path = "../support/commands.rs"]
mod commands;
mod drain;
mod members;
mod processes;
mod starting;
