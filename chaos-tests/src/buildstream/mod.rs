//! BuildStream as its users run it: installed from PyPI, on machines with
//! caches of their own, building a project that needs nothing from the
//! network.
//!
//! Not promised: anything about BuildStream itself. A client that fails shows
//! its whole output; nothing is tried a second time here, because a user would
//! see that failure too.

mod install;
mod machine;
mod project;
mod remotes;

pub use install::{BuildStream, Release};
pub use machine::{Deps, Machine, Queues};
pub use project::{Project, SourceKind};
pub use remotes::{Part, Remote, Remotes};
