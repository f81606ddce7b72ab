//! Commands of `weir`, and addresses for nodes that are real processes.

use std::{
    hash::{BuildHasher, RandomState},
    net::{SocketAddr, TcpListener},
    process::{Command, Output},
};

/// From here up to where Linux takes ports for outgoing connections by default:
/// one of those may be in use again before a node has started.
const PORTS: std::ops::Range<u16> = 10_000..32_768;

/// Runs a command to its end.
pub(crate) fn weir(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(args)
        .env_remove("WEIR_CONFIG")
        .env_remove("WEIR_NODE")
        .output()
        .unwrap()
}

#[track_caller]
pub(crate) fn succeeds(args: &[&str]) -> String {
    let output = weir(args);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "weir {args:?} failed: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// Three addresses on which nobody listens now, drawn.
pub(crate) fn free_addresses() -> [SocketAddr; 3] {
    let draws = RandomState::new();
    // Held together, so that the three differ.
    let mut held = Vec::new();
    for draw in 0..1_000_u32 {
        let offset = draws.hash_one(draw) % PORTS.len() as u64;
        held.extend(TcpListener::bind((
            "127.0.0.1",
            PORTS.start + offset as u16,
        )));
        if let [client, peer, admin] = &held[..] {
            return [client, peer, admin].map(|one| one.local_addr().unwrap());
        }
    }
    panic!("no free ports in {PORTS:?}");
}
