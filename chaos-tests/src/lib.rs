//! Clusters of real `weir` processes on this machine, under real clients.
//!
//! ```text
//!  Trial ── watchdog, progress lines, a directory, the list of process groups
//!    ├── Cluster ── `weir dev`, its nodes, kill -9, start again, stop;
//!    │               nodes that join, drain, are removed and replaced; status
//!    ├── Gate ── which nodes clients may use; Workload and Builds go through it
//!    └── Machine ── one developer's machine: a BuildStream with caches of its own
//!
//!  chaos (the program) ── cli ── run ── scenario
//!    ├── rig ── a world: network namespaces behind a switch, volumes that lose power
//!    ├── fleet ── nodes in such a world, or on loopback where there is none
//!    ├── nemesis ── faults, one a file, in scripts that follow from a seed
//!    ├── load ── what clients do; history ── what they were told
//!    └── oracle, invariants ── whether that may be so
//! ```
//!
//! Promises of this crate, whatever happens to a test:
//!
//! - nothing waits without a bound, and a wait that ran out says what it
//!   waited for;
//! - a trial that ends, by success, error, panic or the watchdog, leaves no
//!   process behind that it started;
//! - a trial that fails keeps its directory and says where it is.
//!
//! Not promised: timing. No test here asserts how long anything took.

pub mod balancer;
pub mod builds;
pub mod buildstream;
pub mod cli;
pub mod cluster;
pub mod fleet;
pub mod gate;
pub mod history;
pub mod invariants;
pub mod load;
pub mod nemesis;
pub mod oracle;
pub mod ports;
pub mod probe;
pub mod process;
pub mod program;
pub mod rig;
pub mod run;
pub mod scenario;
pub mod seeded;
pub mod tree;
pub mod trial;
pub mod wait;
pub mod workload;

pub use cluster::{Cluster, Options};
pub use trial::Trial;
