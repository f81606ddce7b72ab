//! The two requests to the kernel that need an `ioctl` of no safe wrapper.
//!
//! They are made by `perl`, which every Debian has and which starts in a few
//! milliseconds: unsafe code is forbidden in this workspace, and two requests
//! that are made a few times a run are no reason to allow it. Helper and
//! caller share the open file, so what the helper did to it stays.

use std::{
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Result;

use super::room::finish;

/// TUNSETIFF with IFF_TUN and IFF_NO_PI: the open `/dev/net/tun` on standard
/// input becomes the interface of this name.
const ATTACH: &str = "my $request = pack('a16 S x22', $ARGV[0], 0x1001);
    ioctl(STDIN, 0x400454ca, $request) or die \"TUNSETIFF: $!\\n\";";

/// The GOINGDOWN request of ext4 and xfs, without a flush of the log: the
/// file system stops where it is.
const GOING_DOWN: &str = "open(my $root, '<', $ARGV[0]) or die \"$ARGV[0]: $!\\n\";
    my $flags = pack('I', 2);
    ioctl($root, 0x8004587d, $flags) or die \"GOINGDOWN: $!\\n\";";

/// Makes an open `/dev/net/tun` the interface `name`, in the network
/// namespace in which it was opened.
pub(super) fn attach(tun: OwnedFd, name: &str) -> Result<()> {
    let mut perl = Command::new("perl");
    perl.args(["-e", ATTACH, name]).stdin(Stdio::from(tun));
    finish(perl).map(drop)
}

/// Stops the file system at `mount` as a power cut would.
pub(super) fn going_down(mount: &Path) -> Result<()> {
    let mut perl = Command::new("perl");
    perl.args(["-e", GOING_DOWN])
        .arg(mount)
        .stdin(Stdio::null());
    finish(perl).map(drop)
}
