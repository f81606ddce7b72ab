//! The vocabulary: digests, identifiers and errors.

pub mod digest;
pub mod error;
pub mod ids;
