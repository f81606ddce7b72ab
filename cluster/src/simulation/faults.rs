//! Faults, one after the other and on top of each other.

use rand::{Rng, seq::IndexedRandom};

use super::cluster::{Cluster, pause};
use crate::outside;

/// Makes faults until it is dropped.
pub(super) async fn run(cluster: &Cluster) {
    loop {
        pause(200..3_000).await;
        one(cluster).await;
        // More often than not the next comes to a cluster that has recovered.
        if outside::rng().random_ratio(3, 5) {
            pause(500..5_000).await;
            cluster.heal().await;
            cluster.look_at_barred();
        }
    }
}

async fn one(cluster: &Cluster) {
    let running = cluster.running();
    let Some(node) = running.choose(&mut outside::rng()).copied() else {
        return;
    };
    let others = running.iter().copied().filter(|other| *other != node);
    let others: Vec<usize> = others.collect();
    let (world, network) = (cluster.world(), &cluster.network);
    world.record().counts.faults += 1;
    match outside::rng().random_range(0..100) {
        0..15 => {
            world.trace(format_args!("node {node} is cut off"));
            for other in others {
                network.cut(node, other);
                network.cut(other, node);
            }
        }
        15..25 => {
            world.trace(format_args!("nothing reaches node {node}"));
            for other in others {
                network.cut(other, node);
            }
        }
        25..35 => {
            world.trace(format_args!("nothing comes from node {node}"));
            for other in others {
                network.cut(node, other);
            }
        }
        35..45 => {
            let here: Vec<bool> = running.iter().map(|_| outside::random()).collect();
            world.trace(format_args!("{running:?} is split: {here:?}"));
            for (a, a_here) in running.iter().zip(&here) {
                for (b, b_here) in running.iter().zip(&here) {
                    if a_here != b_here {
                        network.cut(*a, *b);
                    }
                }
            }
        }
        45..55 => {
            let millis = outside::rng().random_range(20..800);
            world.trace(format_args!("node {node} is slow: {millis} ms"));
            network.slow_down(node, millis);
        }
        55..60 => {
            world.trace(format_args!("connections of node {node} break"));
            network.reset(node);
        }
        60..78 => cluster.end(node, true),
        78..90 => cluster.end(node, false),
        _ => {
            for node in running {
                cluster.end(node, true);
            }
            pause(10..500).await;
            cluster.heal().await;
        }
    }
}
