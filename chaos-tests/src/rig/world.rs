//! Rooms with their wires and volumes: everything a run of several nodes has.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    Events, Room, Switch, Volume, VolumeSpec,
    reaper::Reaper,
    room::Inside,
    switch::{Pair, tun},
};
use crate::trial::Trial;

/// The first three numbers of every address.
pub(super) const NETWORK: [u8; 3] = [10, 99, 0];

/// Rooms of one world: as many as there are addresses.
const ROOMS_MAX: usize = 250;

/// Large enough that a megabyte is not hundreds of packets for a switch in
/// user space, small enough that loss means something.
const MTU: u32 = 9000;

/// The control groups of processors, in the layout of the first version.
const CPU_GROUPS: &str = "/sys/fs/cgroup/cpu";

/// Set to any value: volumes and images outlive the run, for a look at them.
const KEEP: &str = "WEIR_KEEP_WORLD";

/// Worlds of this process so far.
static WORLDS: AtomicU32 = AtomicU32::new(0);

/// A private machine room; see the [module](super).
pub struct World {
    // In this order they are dropped: wires first, then the mounts with the
    // last room, then the files.
    switch: Switch,
    spots: Vec<Spot>,
    base: Arc<Room>,
    events: Events,
    dir: PathBuf,
    groups: PathBuf,
    _reaper: Reaper,
}

/// A room that is plugged in. The first is the clients'.
struct Spot {
    room: Arc<Room>,
    address: Ipv4Addr,
}

/// The room of clients.
pub const CLIENTS: usize = 0;

impl World {
    /// A world with a room for clients and none for nodes. Its files are in
    /// `world` in the trial's directory.
    pub fn new(trial: &Trial, seed: u64, events: Events) -> Result<World> {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let dir = trial.dir().join(format!("world-{number}"));
        fs::create_dir(&dir)?;
        let groups = format!("weir-{}-{number}", std::process::id());
        let groups = Path::new(CPU_GROUPS).join(groups);
        let mut reaper = Reaper::new(&dir, &groups)?;
        if std::env::var_os(KEEP).is_some() {
            reaper.dismiss();
        }
        let base = Room::with_mounts()?;
        events.enter("world", json!({"seed": seed, "dir": dir}));
        let mut world = World {
            switch: Switch::new(seed, events.clone())?,
            spots: Vec::new(),
            base,
            events,
            dir,
            groups,
            _reaper: reaper,
        };
        world.add_room()?;
        Ok(world)
    }

    /// Adds a room and plugs it in; returns its number, which is also that of
    /// its port.
    pub fn add_room(&mut self) -> Result<usize> {
        let number = self.spots.len();
        ensure!(number < ROOMS_MAX, "a world has {ROOMS_MAX} rooms at most");
        // Clients have the last address, nodes count from 1.
        let octet = if number == CLIENTS { 254 } else { number as u8 };
        let [a, b, c] = NETWORK;
        let address = Ipv4Addr::new(a, b, c, octet);
        let room = self.base.with_network()?;
        let wire = tun::open(&room, address, MTU)?;
        let port = self.switch.plug(wire, octet);
        ensure!(port == number, "rooms and ports are counted alike");
        self.spots.push(Spot { room, address });
        Ok(number)
    }

    /// A room by its number.
    pub fn room(&self, number: usize) -> &Arc<Room> {
        &self.spots[number].room
    }

    /// The address of a room.
    pub fn address(&self, number: usize) -> Ipv4Addr {
        self.spots[number].address
    }

    /// How many rooms there are, that of clients included.
    pub fn rooms(&self) -> usize {
        self.spots.len()
    }

    /// The wires.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// The record of this run.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Moves the calling thread to where clients are, until the guard is
    /// dropped. Threads and processes that it starts meanwhile are there, too.
    pub fn enter(&self) -> Result<Inside> {
        self.room(CLIENTS).enter()
    }

    /// Makes and mounts a volume that all rooms see.
    pub fn volume(&self, name: &str, spec: VolumeSpec) -> Result<Volume> {
        Volume::create(self.base.clone(), &self.dir, name, spec)
    }

    /// The world's directory: whatever is put there goes with it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Exchanges the addresses of two rooms: names lead to the wrong node.
    pub fn swap_addresses(&mut self, one: usize, two: usize) -> Result<()> {
        let (first, second) = (self.address(one), self.address(two));
        tun::readdress(self.room(one), first, second)?;
        tun::readdress(self.room(two), second, first)?;
        self.switch.route(second.octets()[3], one);
        self.switch.route(first.octets()[3], two);
        self.spots[one].address = second;
        self.spots[two].address = first;
        self.events
            .enter("addresses swapped", json!({"rooms": [one, two]}));
        Ok(())
    }

    /// Limits a process to a share of one processor, if this machine has
    /// control groups for it. Returns what [`unlimit`](Self::unlimit) needs.
    pub fn limit_cpu(&self, pid: u32, percent: u32) -> Result<PathBuf> {
        ensure!(
            Path::new(CPU_GROUPS).join("cpu.cfs_quota_us").exists(),
            "no control group limits processors here"
        );
        let group = self.groups.join(pid.to_string());
        fs::create_dir_all(&group).with_context(|| format!("cannot make {}", group.display()))?;
        fs::write(group.join("cpu.cfs_period_us"), "100000")?;
        let quota = (percent.max(1) * 1000).to_string();
        fs::write(group.join("cpu.cfs_quota_us"), quota)?;
        fs::write(group.join("cgroup.procs"), pid.to_string())?;
        Ok(group)
    }

    /// Lifts a limit; the process may be gone meanwhile.
    pub fn unlimit(&self, group: &Path) -> Result<()> {
        fs::write(group.join("cpu.cfs_quota_us"), "-1")?;
        for pid in fs::read_to_string(group.join("cgroup.procs"))?.lines() {
            // Fails only for one that has just ended.
            let _ = fs::write(Path::new(CPU_GROUPS).join("cgroup.procs"), pid);
        }
        fs::remove_dir(group).with_context(|| format!("cannot remove {}", group.display()))
    }
}

/// Both directions between two rooms.
pub fn both(one: usize, two: usize) -> [Pair; 2] {
    [(one, two), (two, one)]
}
