//! Many seeded runs of random faults: what was acknowledged is found.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::network::{Network, epoch_of, node};
use crate::{
    Digest, Error,
    blob::{BlobStore, ByteRange, Lease, collect, conformance::sample, put_bytes},
    peer::faulty_peers::Faults,
    replication::quorum::Quorum,
};

fn faults(rng: &mut StdRng) -> Faults {
    let healthy = Faults::default();
    match rng.random_range(0..8) {
        0 | 1 => Faults {
            down: true,
            ..healthy
        },
        2 => Faults {
            silent: true,
            ..healthy
        },
        3 => Faults {
            delay: Duration::from_millis(rng.random_range(1..3_000)),
            ..healthy
        },
        4 => Faults {
            breaks_after: Some(rng.random_range(0..3_000_000)),
            ..healthy
        },
        5 => Faults {
            loses_answers: true,
            ..healthy
        },
        6 => Faults {
            chunk_delay: Duration::from_millis(rng.random_range(1..3_000)),
            ..healthy
        },
        _ => healthy,
    }
}

async fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let zones: &[&[&str]] = &[
        &["a", "b", "c"],
        &["a", "b", "c", "a", "b", "c"],
        &["a", "a", "b", "b", "c"],
    ];
    let zones = *zones.choose(&mut rng).unwrap();
    // Some begin with all nodes placed; others grow, or lose a node's share.
    let nodes = zones.len() as u64;
    let placed = if rng.random_bool(0.5) { 3 } else { zones.len() };
    let network = Network::with(zones, placed, 3, 2);
    let mut states = vec![network.state.clone()];
    let mut acknowledged: Vec<Digest> = Vec::new();
    for step in 0..30 {
        let victim = node(rng.random_range(1..=nodes));
        network.fault(victim, faults(&mut rng));
        if rng.random_bool(0.1) && states.len() < 4 {
            let mut members: Vec<u64> = (1..=nodes).collect();
            if nodes > 3 && rng.random_bool(0.5) {
                members.remove(rng.random_range(0..members.len()));
            }
            states.push(epoch_of(states.last().unwrap(), &members));
        }
        // News of epochs comes to nodes one by one.
        let news = rng.random_range(1..=nodes);
        network.show(news, states.last().unwrap());
        let gateway = network.gateway(rng.random_range(1..=nodes));
        let len = *[10, 5_000, 1 << 20, 3 << 20, 6 << 20]
            .choose(&mut rng)
            .unwrap();
        let bytes = sample(seed * 1_000 + step, len);
        match put_bytes(gateway, bytes).await {
            Ok(digest) => acknowledged.push(digest),
            Err(Error::NoQuorum(_)) => {}
            Err(error) => panic!("seed {seed} step {step}: {error}"),
        }
        if let Some(digest) = acknowledged.choose(&mut rng) {
            let gateway = network.gateway(rng.random_range(1..=nodes));
            let read = async { collect(gateway.get(*digest, ByteRange::ALL).await?).await };
            match read.await {
                Ok(bytes) => assert_eq!(Digest::of(&bytes), *digest, "seed {seed} step {step}"),
                Err(Error::NoQuorum(_)) => {}
                Err(error) => panic!("seed {seed} step {step}: acknowledged, then {error}"),
            }
        }
    }
    network.peers.heal();
    for id in 1..=nodes {
        network.show(id, states.last().unwrap());
    }
    for digest in &acknowledged {
        let holders = network.holders(*digest).len();
        assert!(holders >= 2, "seed {seed}: {digest} on {holders} nodes");
    }
    for id in 1..=nodes {
        for digest in &acknowledged {
            let read = network.gateway(id).get(*digest, ByteRange::ALL).await;
            let bytes = collect(read.unwrap()).await.unwrap();
            assert_eq!(Digest::of(&bytes), *digest, "seed {seed} gateway {id}");
        }
        let gateway = network.gateway(id);
        let missing = gateway
            .find_missing(&acknowledged, Lease::SHORT)
            .await
            .unwrap();
        for digest in missing
            .into_iter()
            .map(|index| acknowledged[index as usize])
        {
            let view = network.view();
            let held = network.holders(digest);
            let mut quorum = Quorum::new(view.need(digest));
            for owner in view.owners(digest).filter(|owner| held.contains(owner)) {
                quorum.ack(view.zone_number(owner));
            }
            let copies = quorum.acks();
            assert!(
                !quorum.is_reached(),
                "seed {seed}: {digest} is on {copies} owners"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_is_found_under_faults() {
    let seeds = match std::env::var("WEIR_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("WEIR_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..12,
    };
    for seed in seeds {
        // Shown when the run fails.
        #[allow(clippy::print_stdout)]
        {
            println!("seed {seed}: WEIR_SEED={seed} repeats this run");
        }
        run(seed).await;
    }
}
