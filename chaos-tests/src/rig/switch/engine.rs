//! The thread that moves packets.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Shared;

/// The largest packet that IPv4 has.
const PACKET_MAX: usize = 65_536;

/// Packets read from one port before the others have their turn.
const BURST: usize = 64;

/// Bytes under way at once; more are lost. Ten wires of 100 Mbit/s with half a
/// second of queue each.
const BYTES_LIMIT: usize = 64 << 20;

/// Looks at the state at least so often, whatever happens.
const IDLE: Duration = Duration::from_secs(1);

/// A packet under way, the earliest first, in order of sending.
type Waiting = Reverse<(Duration, u64, usize, Vec<u8>)>;

/// Moves packets until the switch is closed.
pub(super) fn run(shared: &Shared, start: Instant) {
    let mut heap: BinaryHeap<Waiting> = BinaryHeap::new();
    let (mut bytes_waiting, mut sent) = (0, 0);
    let mut buffer = vec![0; PACKET_MAX];
    loop {
        let Some(ports) = shared.open_ports() else {
            return;
        };
        let ready = wait(shared, &ports, heap.peek(), start);
        let now = start.elapsed();
        while let Some(Reverse((at, ..))) = heap.peek()
            && *at <= now
            && let Some(Reverse((_, _, to, packet))) = heap.pop()
        {
            bytes_waiting -= packet.len();
            write(&ports, to, &packet);
        }
        for from in ready {
            for _ in 0..BURST {
                let Ok(length) = rustix::io::read(&ports[from], &mut buffer[..]) else {
                    break;
                };
                let packet = &buffer[..length];
                let Some((to, arrival)) = shared.decide(from, packet, now) else {
                    continue;
                };
                for _ in 0..1 + u8::from(arrival.twice) {
                    if arrival.at <= now {
                        write(&ports, to, packet);
                    } else if bytes_waiting + length <= BYTES_LIMIT {
                        sent += 1;
                        bytes_waiting += length;
                        heap.push(Reverse((arrival.at, sent, to, packet.to_vec())));
                    }
                }
            }
        }
    }
}

/// Waits until a packet can be read, one under way is due, or the state has
/// changed. Returns the ports that can be read.
fn wait(
    shared: &Shared,
    ports: &[Arc<OwnedFd>],
    next: Option<&Waiting>,
    start: Instant,
) -> Vec<usize> {
    let rest = next.map_or(IDLE, |Reverse((at, ..))| {
        at.saturating_sub(start.elapsed()).min(IDLE)
    });
    let rest = Timespec {
        tv_sec: rest.as_secs() as i64,
        tv_nsec: i64::from(rest.subsec_nanos()),
    };
    let all = [shared.wake.as_fd()]
        .into_iter()
        .chain(ports.iter().map(|port| port.as_fd()));
    let mut polled: Vec<_> = all
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    // Interrupted or not: what is ready is ready.
    let _ = poll(&mut polled, Some(&rest));
    let is_ready = |one: &PollFd<'_>| one.revents().contains(PollFlags::IN);
    if is_ready(&polled[0]) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&shared.wake, &mut count);
    }
    (0..ports.len())
        .filter(|port| is_ready(&polled[port + 1]))
        .collect()
}

/// What an interface does not take is lost, as on any wire.
fn write(ports: &[Arc<OwnedFd>], to: usize, packet: &[u8]) {
    if let Some(port) = ports.get(to) {
        let _ = rustix::io::write(port, packet);
    }
}
