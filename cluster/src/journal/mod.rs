//! Append-only files of checksummed records.
//!
//! [`disk`] is the thin layer under everything that writes files: the real
//! disk, or an in-memory one that can be cut off at any write
//! ([`sim_disk`]). The local store keeps small blobs in such files, Raft its
//! log and vote.

pub mod disk;
pub mod sim_disk;
