//! The scenarios.
//!
//! Limits of time are those of an unoptimised program on a busy machine; what
//! was measured is in the ledger of runs.

use std::time::Duration;

use super::{
    Limits, Plan, Reads, Scenario, Shape, Turn, Work,
    plan::Plan::{Calm, Drawn, Turns},
};

const fn shape(nodes: usize, zones: usize) -> Shape {
    Shape {
        nodes,
        zones,
        volume_bytes: 256 << 20,
        settings: &[],
        cluster: &[],
        lease: None,
    }
}

const THREE: Shape = shape(3, 3);
const FIVE: Shape = shape(5, 3);

/// Room for what an optimised program takes while nodes are looked at.
const ROOMY: Shape = Shape {
    volume_bytes: 4 << 30,
    ..THREE
};

/// Raft's log is cut so soon that a node that was away needs a snapshot.
const SNAPSHOTS: Shape = Shape {
    settings: &["raft.snapshot_entries=50"],
    ..THREE
};

/// Stores that a run can fill, and leases that it outlasts.
const SMALL: Shape = Shape {
    settings: &[
        "store.capacity_bytes=33554432",
        "log.filter=info,openraft=error,openraft::raft::api::management=off,weir_node::store=debug",
    ],
    lease: Some(60),
    ..FIVE
};

const ALL: Work = Work {
    refs: 40.0,
    fetches: 0.6,
    names: 40,
    blobs: 8.0,
    blob_bytes: 256 << 10,
    artifacts: 6.0,
    presence: 4.0,
    builds: false,
    reads: Reads::Available,
};

const REFS: Work = Work {
    refs: 300.0,
    blobs: 0.0,
    artifacts: 0.0,
    presence: 0.0,
    reads: Reads::Linearizable,
    ..ALL
};

/// Some blobs besides, so that there is something to read.
const REFS_AND_READS: Work = Work { blobs: 4.0, ..REFS };

/// Where each push brings the next snapshot nearer.
const FEW_REFS: Work = Work { refs: 80.0, ..REFS };

const BLOBS: Work = Work {
    refs: 10.0,
    blobs: 20.0,
    artifacts: 0.0,
    ..ALL
};

/// Also blobs that get a file of their own.
const LARGE: Work = Work {
    blob_bytes: 4 << 20,
    ..BLOBS
};

/// Little enough that a new node soon has all of it.
const LITTLE: Work = Work {
    refs: 5.0,
    blobs: 8.0,
    blob_bytes: 32 << 10,
    artifacts: 0.0,
    presence: 10.0,
    ..ALL
};

/// Blobs that have files of their own as often as not.
const FILES: Work = Work {
    refs: 0.0,
    blobs: 20.0,
    blob_bytes: 4 << 20,
    artifacts: 0.0,
    presence: 0.0,
    ..ALL
};

/// Names that nobody has pushed yet are asked for all the time.
const NEW_NAMES: Work = Work {
    names: 400,
    reads: Reads::Available,
    ..REFS
};

const ARTIFACTS: Work = Work {
    refs: 0.0,
    blobs: 0.0,
    artifacts: 20.0,
    ..ALL
};

const BUILDS: Work = Work {
    artifacts: 2.0,
    builds: true,
    ..ARTIFACTS
};

/// New contents all the time, most of which nobody reads again.
const FILLING: Work = Work {
    refs: 10.0,
    blobs: 3.0,
    artifacts: 25.0,
    presence: 0.0,
    ..ALL
};

const fn limits(reads: u64, pushes: u64) -> Limits {
    Limits {
        reads: Some(Duration::from_secs(reads)),
        pushes: Some(Duration::from_secs(pushes)),
        pace: None,
        settled: Duration::from_secs(90),
        elections: None,
        slowest_push: None,
    }
}

/// One node is gone: others answer.
const ONE: Limits = limits(6, 15);

/// Whoever leads is gone: blobs are read on, refs wait for an election.
const LEADER: Limits = limits(6, 20);

/// Nothing is gone.
const NONE: Limits = limits(3, 6);

/// Nothing is gone, and one node takes its time.
const SLOW: Limits = Limits {
    pace: Some(0.8),
    ..limits(4, 8)
};

/// There may be no majority for as long as it lasts.
const ANY: Limits = Limits {
    reads: None,
    pushes: None,
    pace: None,
    settled: Duration::from_secs(120),
    elections: None,
    slowest_push: None,
};

macro_rules! turns {
    ($times:literal: $([$($fault:literal),+] $hold:literal),+) => {
        Turns {
            turns: &[$(Turn { faults: &[$($fault),+], hold_ms: $hold }),+],
            times: $times,
        }
    };
}

const fn scenario(
    name: &'static str,
    rows: &'static [u8],
    (shape, work, limits): (Shape, Work, Limits),
    plan: Plan,
    about: &'static str,
) -> Scenario {
    Scenario {
        name,
        about,
        rows,
        shape,
        work,
        plan,
        limits,
        shown_by: &[],
    }
}

/// Faults that leave all copies where they are.
const PASSING: &[&str] = &[
    "kill",
    "kill-leader",
    "stop",
    "stop-leader",
    "pause",
    "pause-leader",
    "flap",
    "power-cut",
    "power-cut-leader",
    "isolate",
    "leader-alone",
    "deaf",
    "mute",
    "ring",
    "bridge",
    "delay",
    "loss",
    "duplicate",
    "reorder",
    "rate",
    "names",
    "disk-full",
    "read-only",
];

/// Every scenario there is.
#[rustfmt::skip]
pub static SCENARIOS: &[Scenario] = &[
    scenario("calm", &[], (THREE, ALL, NONE), Calm { hold_ms: 4000 },
        "nothing happens, and nobody waits"),
    scenario("calm-linearizable", &[], (FIVE, REFS, NONE), Calm { hold_ms: 4000 },
        "nothing happens; refs are read as of one machine"),
    scenario("bad-clients", &[36], (THREE, LARGE, NONE), Calm { hold_ms: 5000 },
        "uploads that are cut off, resumed, forged, or the same everywhere"),

    scenario("kill-any", &[1], (THREE, ALL, ONE), turns!(2: ["kill"] 1500),
        "one node after the other is killed and comes back"),
    scenario("kill-leader", &[2], (FIVE, REFS, LEADER), turns!(3: ["kill-leader"] 1000),
        "whoever leads is killed; refs are read as of one machine"),
    scenario("kill-leaders", &[2], (FIVE, REFS_AND_READS, LEADER), turns!(10: ["kill-leader"] 2500),
        "leaders are killed, one after the other, each after pushes went well again"),
    scenario("kill-leader-available", &[2], (THREE, ALL, LEADER), turns!(2: ["kill-leader"] 1000),
        "whoever leads is killed, under all workloads"),
    scenario("stop-leader", &[3], (THREE, REFS, ONE.slowest_push(Duration::from_secs(1))), turns!(2: ["stop-leader"] 1000),
        "whoever leads is told to end, and hands over"),
    scenario("stop-any", &[3], (THREE, ALL, ONE), turns!(2: ["stop"] 1000),
        "one node after the other is told to end"),
    scenario("pause-any", &[4], (THREE, ALL, limits(12, 20)), turns!(2: ["pause"] 2000),
        "nodes do nothing for a while and know nothing of it"),
    scenario("pause-leader", &[4], (THREE, REFS, limits(12, 20)), turns!(2: ["pause-leader"] 2500),
        "a leader that slept must not answer from its past"),
    scenario("flapping", &[5], (THREE, REFS, limits(12, 20).elections(2)), turns!(1: ["flap"] 6000),
        "a node is there every other moment"),

    scenario("power-cut", &[6], (THREE, ALL, ONE), turns!(2: ["power-cut"] 1000),
        "a machine loses what it had not synced"),
    scenario("power-cut-leader", &[6], (THREE, REFS, LEADER), turns!(2: ["power-cut-leader"] 1500),
        "the machine that leads loses what it had not synced"),
    scenario("power-cut-all", &[8], (THREE, ALL, ANY), turns!(2: ["power-cut-all"] 500),
        "all machines lose what they had not synced, in one instant"),
    scenario("power-cut-all-files", &[8], (THREE, FILES, ANY), turns!(1: ["power-cut-all"] 500),
        "all machines lose power; blobs have files of their own"),
    scenario("cut-split-pause", &[9], (FIVE, REFS, ANY), turns!(2: ["power-cut", "isolate", "pause"] 2500),
        "a power cut, a partition and a pause at the same time"),

    scenario("torn-cut", &[7], (THREE, ALL, ONE), turns!(2: ["torn-cut"] 1000),
        "a machine loses some of what it had not synced, or of its blocks"),
    scenario("torn-cut-all", &[7, 8], (THREE, ALL, ANY), turns!(2: ["torn-cut-all"] 500),
        "all machines do, in one instant"),
    scenario("read-errors", &[10], (THREE, LARGE, ONE), turns!(2: ["read-errors"] 3000),
        "a disk cannot read some places where blobs are"),
    scenario("write-errors", &[11], (THREE, ALL, ONE), turns!(2: ["write-errors"] 2000),
        "a disk refuses all writes of a running node, for good or for a while"),
    scenario("sync-errors", &[11], (THREE, ALL, ONE), turns!(2: ["sync-errors"] 2000),
        "a disk loses what it was to flush, for good or for a while"),
    scenario("slow-disk", &[16], (THREE, ALL, SLOW), turns!(1: ["slow-disk"] 8000),
        "one node has a disk that flushes slowly"),
    scenario("slow-disk-leader", &[16], (THREE, REFS, SLOW), turns!(1: ["slow-disk-leader"] 8000),
        "whoever leads has a disk that flushes slowly"),

    scenario("rot", &[12], (THREE, BLOBS, ONE), turns!(2: ["rot"] 2000),
        "stored bytes change under running nodes"),
    scenario("rot-files", &[12], (THREE, FILES, ONE), turns!(2: ["rot"] 2000),
        "stored bytes of large blobs change under running nodes"),
    scenario("damaged-journal", &[12, 31], (THREE, REFS, LEADER), turns!(1: ["damage-journal"] 1000),
        "bytes in the middle of Raft's log change: the node stops, or is replaced"),
    scenario("damaged-tail", &[31], (THREE, REFS, LEADER), turns!(2: ["damage-tail"] 1000),
        "rubbish behind the last record of Raft's log"),
    scenario("damaged-snapshot", &[12], (SNAPSHOTS, FEW_REFS, LEADER), turns!(1: ["damage-snapshot"] 1000),
        "bytes of the newest snapshot change"),
    scenario("snapshots", &[30], (SNAPSHOTS, FEW_REFS, ANY), turns!(2: ["kill"] 4000, ["kill-leader"] 4000),
        "nodes that were away are sent snapshots")
        .shown_by(&["took over a snapshot of the leader"]),
    scenario("damaged-state", &[12], (SNAPSHOTS, ALL, LEADER), turns!(2: ["damage-state"] 1000),
        "applied state changes on disk, and is made anew")
        .shown_by(&["applied state is restored from a snapshot"]),
    scenario("volume-gone", &[13], (THREE, BLOBS, ONE), turns!(2: ["vanish"] 2000),
        "a volume is taken away under a running node"),
    scenario("disk-full", &[14], (THREE, BLOBS, ONE), turns!(2: ["disk-full"] 2500),
        "something else takes all space of a volume, and gives it back"),
    scenario("inodes-full", &[14], (THREE, LARGE, ONE), turns!(2: ["inodes-full"] 2000),
        "something else takes all inodes of a volume"),
    scenario("read-only", &[15], (THREE, BLOBS, ONE), turns!(2: ["read-only"] 2000),
        "a file system takes no more writes"),

    scenario("isolate", &[17, 23], (THREE, ALL, limits(12, 20)), turns!(2: ["isolate"] 3000),
        "one node is cut off, with and without its clients"),
    scenario("leader-alone", &[17], (FIVE, REFS, limits(12, 20)), turns!(2: ["leader-alone"] 3000),
        "whoever leads is cut off, and must not answer as if it led"),
    scenario("halves", &[17], (FIVE, ALL, ANY), turns!(2: ["halves"] 3000),
        "two nodes and three do not hear each other"),
    scenario("zone-away", &[17], (FIVE, ALL, ANY), turns!(2: ["zone-away"] 3000),
        "a zone is cut off"),
    scenario("one-way", &[18, 23], (FIVE, REFS, ANY.elections(3)), turns!(1: ["deaf"] 2000, ["mute"] 2000),
        "a node hears nobody, then nobody hears it"),
    scenario("deaf-new-names", &[18], (THREE, NEW_NAMES, ANY), turns!(2: ["deaf"] 3000),
        "a node that hears nobody is asked for refs that were pushed since"),
    scenario("one-way-leader", &[18], (FIVE, REFS, ANY.elections(3)), turns!(1: ["deaf-leader"] 2500, ["mute-leader"] 2500),
        "whoever leads hears nobody, then nobody hears it"),
    scenario("ring", &[19], (FIVE, REFS, ANY), turns!(1: ["ring"] 5000),
        "each node hears another majority"),
    scenario("bridge", &[19], (FIVE, REFS, ANY), turns!(1: ["bridge"] 5000),
        "two parts that both hear one node"),
    scenario("clients-away", &[20], (THREE, ALL, limits(12, 20)), turns!(2: ["clients-away"] 2500),
        "a node is cut off from clients, and not from its peers"),
    scenario("latency", &[21], (THREE, ALL, ANY), turns!(1: ["delay"] 4000),
        "every packet takes long"),
    scenario("loss", &[21], (THREE, ALL, ANY), turns!(2: ["loss"] 3000),
        "packets are lost"),
    scenario("disorder", &[21], (THREE, ALL, ANY), turns!(1: ["duplicate"] 2500, ["reorder"] 2500),
        "packets arrive twice, or overtaken"),
    scenario("slow-wire", &[22], (THREE, BLOBS, ANY), turns!(1: ["rate"] 4000),
        "one node has a slow connection"),
    scenario("wrong-addresses", &[24], (THREE, ALL, ANY), turns!(2: ["names"] 3000),
        "two nodes exchange their addresses, and are not believed"),

    scenario("clock-steps", &[25], (THREE, ALL, NONE), turns!(2: ["clock"] 1500),
        "the wall clock of a node steps by minutes and days"),
    scenario("clock-steps-all", &[25], (THREE, REFS, NONE), turns!(2: ["clock-all"] 2000),
        "all wall clocks step"),

    scenario("churn", &[26], (THREE, ALL, limits(6, 20)), turns!(1: ["churn"] 2000),
        "a node joins under load, is drained and removed"),
    scenario("churn-and-kill", &[26, 1], (FIVE, ALL, ANY), turns!(1: ["churn", "kill"] 2000),
        "a node joins while another dies"),
    scenario("replace", &[27], (THREE, ALL, ONE), turns!(1: ["replace"] 1500),
        "a disk is lost; a new node of the same name takes its place"),
    scenario("lost-alone", &[17, 27], (THREE, LITTLE, ANY), turns!(1: ["lost-alone"] 5000),
        "a node is cut off from the others and not from clients, and then lost"),
    scenario("removed-unaware", &[28], (FIVE, REFS, LEADER), turns!(1: ["removed-unaware"] 1000),
        "a node is removed while it is cut off, and runs on"),
    scenario("removed-returns", &[28], (FIVE, REFS, LEADER), turns!(1: ["removed-returns"] 2000),
        "a removed node comes back with all it had, and is refused")
        .shown_by(&["this node may not take part in the cluster"]),
    scenario("old-image", &[29], (FIVE, REFS, LEADER), turns!(1: ["old-image"] 3000),
        "a volume is put back as it was, and is not believed")
        .shown_by(&["this node may not take part in the cluster"]),
    scenario("zone-loss", &[32], (FIVE, ALL, ANY), turns!(1: ["zone-loss"] 2500),
        "all machines of a zone lose power"),
    scenario("zone-loss-twice", &[32], (shape(6, 3), ALL, ANY), turns!(2: ["zone-loss"] 2500),
        "one zone loses power, and when all is well again another"),

    scenario("few-files", &[35], (ROOMY, LARGE, ANY), turns!(2: ["starve-files"] 4000),
        "a node may open no more files"),
    scenario("little-cpu", &[35], (THREE, ALL, ANY), turns!(1: ["starve-cpu"] 4000),
        "a node gets a tenth of a processor"),
    scenario("full-and-fewer", &[37], (SMALL, FILLING, ANY), turns!(1: ["kill", "stop"] 70_000),
        "stores fill up and evict while two nodes are down")
        .shown_by(&["evicted blobs"]),

    scenario("build-farm", &[1, 6, 17], (FIVE, ARTIFACTS, ANY), turns!(1: ["kill"] 1500, ["power-cut"] 1500, ["isolate"] 1500),
        "artifacts are pushed and pulled through kills, cuts and partitions"),
    scenario("builds", &[1, 2, 17], (THREE, BUILDS, ANY), turns!(1: ["kill"] 8000, ["isolate"] 8000, ["kill-leader"] 8000),
        "real builds, none of which may fail, while nodes are killed and cut off"),
    scenario("builds-power", &[6], (THREE, BUILDS, ANY), turns!(1: ["power-cut"] 8000, ["power-cut-leader"] 8000),
        "real builds, none of which may fail, while machines lose power"),
    scenario("mixed-two", &[39], (FIVE, ALL, ANY), Drawn { faults: PASSING, steps: 3, at_once: 2, hold_ms: 3000 },
        "up to two faults at a time, drawn"),
    scenario("mixed-three", &[39], (FIVE, ALL, ANY), Drawn { faults: PASSING, steps: 4, at_once: 3, hold_ms: 5000 },
        "up to three faults at a time, drawn"),
    scenario("mixed-linearizable", &[39], (FIVE, REFS, ANY), Drawn { faults: PASSING, steps: 4, at_once: 2, hold_ms: 3000 },
        "up to two faults at a time, drawn; refs are read as of one machine"),
];

/// Short scenarios of every kind, for every change of the code; the first are
/// the most telling.
pub const SMOKE: &[&str] = &[
    "calm",
    "kill-leader",
    "kill-any",
    "isolate",
    "power-cut-all",
    "rot",
    "replace",
    "churn",
    "pause-leader",
    "leader-alone",
    "calm-linearizable",
    "bad-clients",
    "kill-leader-available",
    "stop-leader",
    "stop-any",
    "pause-any",
    "flapping",
    "power-cut",
    "power-cut-leader",
    "volume-gone",
    "inodes-full",
    "read-only",
    "ring",
    "bridge",
    "clients-away",
    "latency",
    "disorder",
    "wrong-addresses",
    "clock-steps",
];
