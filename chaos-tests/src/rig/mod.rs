//! What chaos runs stand on: networks and disks that fail on command.
//!
//! ```text
//!  World ── one mount namespace, private to the run; a reaper behind it
//!    ├── Room ── a thread in a network namespace of its own: one for each
//!    │            node, one for clients; whoever starts there, lives there
//!    ├── Switch ── the only wire between rooms: delay, jitter, loss,
//!    │              duplicates, reordering, rate, cuts, for each direction
//!    └── Volume ── an ext4 file system in a file: power cuts, full, read-only,
//!          │        gone, rotten, put back in an older state
//!          └── FaultDisk ── where a scenario asks for it, a disk below: cuts that
//!                            keep a part, errors by place, delays
//! ```
//!
//! Promised: nothing of a run is seen outside of it, and nothing is left when
//! it ends, also when this process is killed: namespaces and mounts have no
//! name, so the kernel takes them back with their last user; processes of a
//! room are killed with it; files are removed by the reaper.
//!
//! Needed: root, `/dev/net/tun`, loop devices, `ip`, `mkfs.ext4`, `perl`.
//! Where one of them is missing, [`available`] says which.
//!
//! Not promised: that a cut without a [`faultdisk`] keeps a part of what was not
//! flushed. It loses all of it.

pub mod events;
pub mod faultdisk;
mod ioctl;
mod reaper;
pub mod room;
pub mod switch;
pub mod volume;
pub mod world;

use std::{sync::OnceLock, thread};

use anyhow::{Context, Result};

pub use events::Events;
pub use room::Room;
pub use switch::{Link, Switch};
pub use volume::{Backing, Volume, VolumeSpec};
pub use world::World;

/// Whether worlds can be had on this machine, or in one line why not. Tried
/// once in a process, for real.
pub fn available() -> Result<(), String> {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    FOUND.get_or_init(|| apart(try_it)).clone()
}

/// Makes an attempt on a thread of its own: the caller keeps its namespaces.
fn apart(attempt: fn() -> Result<(), String>) -> Result<(), String> {
    let made = thread::spawn(attempt).join();
    made.unwrap_or_else(|_| Err("the attempt panicked".into()))
}

fn try_it() -> Result<(), String> {
    let attempt = || -> Result<()> {
        let dir = tempfile::tempdir()?;
        let base = Room::with_mounts().context("no namespaces")?;
        let room = base.with_network().context("no network namespace")?;
        switch::tun::open(&room, "10.99.0.1".parse()?, 1500).context("no TUN")?;
        let spec = VolumeSpec {
            bytes: 8 << 20,
            inodes: 128,
            backing: Backing::File,
        };
        let mut volume = Volume::create(base, dir.path(), "probe", spec).context("no volume")?;
        volume.cut()?;
        volume.unmount()
    };
    attempt().map_err(|error| format!("{error:#}").replace('\n', " "))
}
