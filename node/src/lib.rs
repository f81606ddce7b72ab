//! One node of a Weir cluster.

pub mod api;
