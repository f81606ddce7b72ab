//! One end of a wire: the packets that a room sends and receives.

use std::{net::Ipv4Addr, os::fd::OwnedFd, sync::Arc};

use anyhow::Result;
use rustix::fs::{Mode, OFlags, open as open_file};

use super::super::{ioctl, room::Room};

/// The name of the interface in each room.
const NAME: &str = "wire";

/// Gives a room an interface with this address, and returns the other end of
/// its wire. Reads and writes of it are whole packets and do not wait.
pub(in super::super) fn open(room: &Arc<Room>, address: Ipv4Addr, mtu: u32) -> Result<OwnedFd> {
    // The interface belongs to the network in which the file was opened.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tun = room.run(move || open_file("/dev/net/tun", flags, Mode::empty()))??;
    ioctl::attach(tun.try_clone()?, NAME)?;
    let (mtu, address) = (mtu.to_string(), format!("{address}/24"));
    room.command("ip", &["address", "add", &address, "dev", NAME])?;
    let up = ["link", "set", NAME, "mtu", &mtu, "txqueuelen", "1000", "up"];
    room.command("ip", &up)?;
    Ok(tun)
}

/// Replaces the address of a room's interface.
pub(in super::super) fn readdress(room: &Room, old: Ipv4Addr, new: Ipv4Addr) -> Result<()> {
    let (old, new) = (format!("{old}/24"), format!("{new}/24"));
    // In this order: the later of two addresses is secondary, and goes with
    // the first.
    room.command("ip", &["address", "del", &old, "dev", NAME])?;
    room.command("ip", &["address", "add", &new, "dev", NAME])?;
    Ok(())
}
