//! Ports for nodes that are plain processes.

use std::{
    net::{SocketAddr, TcpListener},
    process,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, bail};

use crate::seeded::Words;

/// From here up to where Linux takes ports for outgoing connections by default:
/// one of those may be in use again before a node has started, or while it is
/// down.
const FIRST: u16 = 10_000;
const END: u16 = 32_768;

/// Ports that are tried.
const TRIES: usize = 1_000;

/// Addresses of this machine on which nobody listens now, all different; drawn,
/// so that tests side by side hardly ever meet.
pub fn free<const N: usize>() -> Result<[SocketAddr; N]> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let call = CALLS.fetch_add(1, Relaxed);
    let mut words = Words::new(now ^ u64::from(process::id()).rotate_left(40) ^ (call << 20));
    // Held together until all are found.
    let mut held = Vec::with_capacity(N);
    for _ in 0..TRIES {
        let port = FIRST + words.below(usize::from(END - FIRST)) as u16;
        held.extend(TcpListener::bind(("127.0.0.1", port)));
        if held.len() == N {
            let addresses = held.iter().map(TcpListener::local_addr);
            let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
            let found: Result<[SocketAddr; N], _> = addresses.try_into();
            return found.map_err(|found| anyhow::anyhow!("{found:?} are not {N}"));
        }
    }
    bail!("no free ports from {FIRST} to {END}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_differ_and_are_no_ports_of_outgoing_connections() {
        let [one, two, three] = free::<3>().unwrap();
        assert!(one != two && two != three && one != three);
        assert!(
            [one, two, three]
                .iter()
                .all(|at| (FIRST..END).contains(&at.port()))
        );
    }
}
