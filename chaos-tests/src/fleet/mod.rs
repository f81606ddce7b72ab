//! A cluster of real nodes, each of which can be hurt on its own.
//!
//! ```text
//!  Fleet ── nodes by number, the order in which they were made; never reused
//!    ├── life      init, join, start, kill, stop, pause, power cut, erase
//!    ├── disks     disks that are slow or fail, below the volumes
//!    ├── members   drain, remove, replace: the commands of an operator
//!    ├── calls     status, leader, pages; waiting for conditions
//!    ├── commands  `weir` in the room of a node
//!    ├── clock     wall clocks that step, each node its own
//!    ├── readings  memory, files, threads
//!    └── volumes   what is on the disks of nodes that do not run
//! ```
//!
//! Two forms. In a [`World`] each node has a network and a volume of its own,
//! and everything that can happen to either can be ordered. On loopback the
//! nodes are plain processes on plain directories: they can be killed and
//! paused, which needs no rights at all.
//!
//! Promised: what is asked of a node while it is cut off is asked from its own
//! room, so that answers do not depend on the faults of the network; every
//! change of a node is entered in [`Events`]; nodes die with the fleet.

mod calls;
pub mod clock;
mod commands;
mod disks;
mod life;
mod members;
mod node;
mod readings;
mod volumes;

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

pub use self::{node::Node, readings::Readings};
use crate::{
    load::Nodes,
    program,
    rig::{Backing, Events, Room, VolumeSpec, World, room::Inside},
    trial::Trial,
};

/// What a fleet is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes.
    pub nodes: usize,
    /// The zones that they are spread over, in turn.
    pub zones: Vec<String>,
    /// Configuration of every node, as `section.key=value`.
    pub settings: Vec<String>,
    /// Settings of the cluster, as `name=value`.
    pub cluster: Vec<String>,
    /// What the volume of each node is made with.
    pub volume: VolumeSpec,
    /// Whether a node may be full while all is well: its store is that small.
    pub may_fill: bool,
    /// Whether wall clocks can be stepped; needs libfaketime.
    pub clocks: bool,
    /// What the faults of the network are drawn from.
    pub seed: u64,
}

impl Default for Options {
    /// Five nodes in three zones, with short timeouts and small volumes.
    fn default() -> Options {
        let settings = [
            "raft.heartbeat_ms=50",
            "raft.election_min_ms=250",
            "raft.election_max_ms=500",
            "store.segment_bytes=4194304",
        ];
        Options {
            nodes: 5,
            zones: ["a", "b", "c"].map(String::from).to_vec(),
            settings: settings.map(String::from).to_vec(),
            cluster: Vec::new(),
            volume: VolumeSpec::default(),
            may_fill: false,
            clocks: false,
            seed: 1,
        }
    }
}

/// A running cluster. Dropping it kills every process of it.
pub struct Fleet {
    // Dropped in this order: processes and volumes, then the world.
    nodes: Vec<Node>,
    world: Option<World>,
    /// Where processes without a world start.
    plain: Arc<Room>,
    trial: Trial,
    events: Events,
    options: Options,
    weir: PathBuf,
    commands: std::cell::Cell<u32>,
    clients: Nodes,
    pids: Arc<Mutex<Vec<u32>>>,
    cuts: Vec<Cut>,
}

/// When the power of a node was cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub node: usize,
    pub ordered: Instant,
    /// Its process was gone, with whatever it still might have answered.
    pub done: Instant,
}

impl Fleet {
    /// Starts a fleet in a world, or on loopback where this machine has none,
    /// and says so.
    pub fn start(trial: &Trial, options: Options) -> Result<Fleet> {
        match crate::rig::available() {
            Ok(()) => Fleet::in_world(trial, options),
            Err(why) => {
                trial.step(format!("on loopback: {why}"));
                Fleet::on_loopback(trial, options)
            }
        }
    }

    /// Starts a fleet in a world of its own, and waits until all nodes serve.
    pub fn in_world(trial: &Trial, options: Options) -> Result<Fleet> {
        let events = Events::new(trial, &trial.dir().join("events.jsonl"))?;
        let world = World::new(trial, options.seed, events.clone())?;
        Fleet::found(trial, options, events, Some(world))
    }

    /// Starts a fleet of plain processes, and waits until all nodes serve.
    pub fn on_loopback(trial: &Trial, options: Options) -> Result<Fleet> {
        let events = Events::new(trial, &trial.dir().join("events.jsonl"))?;
        Fleet::found(trial, options, events, None)
    }

    fn found(
        trial: &Trial,
        options: Options,
        events: Events,
        world: Option<World>,
    ) -> Result<Fleet> {
        ensure!(options.nodes > 0, "a fleet has a node");
        ensure!(!options.zones.is_empty(), "a fleet has a zone");
        if options.clocks {
            clock::library()?;
        }
        let mut fleet = Fleet {
            nodes: Vec::new(),
            world,
            plain: Room::plain()?,
            trial: trial.clone(),
            events,
            weir: program::weir(trial)?,
            commands: std::cell::Cell::new(0),
            clients: Nodes::default(),
            pids: Arc::default(),
            cuts: Vec::new(),
            options,
        };
        for number in 0..fleet.options.nodes {
            fleet.make()?;
            if number == 0 {
                fleet.init(0)?;
                fleet.start_node(0)?;
                fleet.wait_serving(0)?;
                // Founded: it can take others in.
                fleet.wait_members()?;
            } else {
                // They catch up while the next are made.
                fleet.join(number)?;
                fleet.start_node(number)?;
            }
        }
        fleet.wait_all_serving()?;
        fleet.wait_members()?;
        Ok(fleet)
    }

    /// Makes a node that is no member yet and does not run; returns its number.
    pub fn make(&mut self) -> Result<usize> {
        let number = self.nodes.len();
        let name = format!("n{}", number + 1);
        let zone = &self.options.zones[number % self.options.zones.len()];
        let dir = self.trial.dir().join("nodes").join(&name);
        fs::create_dir_all(&dir)?;
        let node = match &mut self.world {
            Some(world) => {
                let room = world.add_room()?;
                let volume = world.volume(&name, self.options.volume)?;
                Node::in_room(&name, zone, dir, world, room, volume)
            }
            None => Node::on_loopback(&name, zone, dir, self.plain.clone())?,
        };
        let capacity = self.options.volume.bytes / 4 * 3;
        node.write_config(capacity)?;
        clock::set(&node, 0)?;
        self.events.enter(
            "made",
            json!({"node": name, "zone": zone, "client": node.client}),
        );
        // Told to clients once it is a member.
        let known = self.clients.add(node.client.clone());
        self.clients.set(known, None);
        self.nodes.push(node);
        Ok(number)
    }

    /// When the power of nodes was cut, in this order.
    pub fn cuts(&self) -> &[Cut] {
        &self.cuts
    }

    /// A node by its number.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// All nodes that were ever made.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Numbers of the nodes that are members, running or not.
    pub fn members(&self) -> Vec<usize> {
        self.numbers(|node| node.is_member)
    }

    /// Numbers of the members that run, are not paused, and have a volume that
    /// takes writes.
    pub fn healthy(&self) -> Vec<usize> {
        self.numbers(|node| {
            let is_well = node.volume.as_ref().is_none_or(|volume| volume.is_well());
            node.is_member && node.process.is_some() && !node.is_paused && is_well
        })
    }

    fn numbers(&self, fits: impl Fn(&Node) -> bool) -> Vec<usize> {
        let all = self.nodes.iter().enumerate();
        all.filter(|(_, node)| fits(node))
            .map(|(number, _)| number)
            .collect()
    }

    /// Whether bytes of a member's blobs were changed on purpose.
    pub fn is_rotten(&self) -> bool {
        self.nodes
            .iter()
            .any(|node| node.is_member && node.is_rotten)
    }

    /// Where clients find the members.
    pub fn urls(&self) -> Vec<String> {
        let members = self.members().into_iter();
        members
            .map(|number| self.node(number).client.clone())
            .collect()
    }

    /// The members as clients ask them, by number; follows what becomes of
    /// the fleet. A member that does not run is still asked.
    pub fn clients(&self) -> Nodes {
        self.clients.clone()
    }

    /// Every process that was started as a node so far, also those that have
    /// ended; follows what becomes of the fleet.
    pub fn pids(&self) -> impl Fn() -> Vec<u32> + Send + 'static {
        let pids = self.pids.clone();
        move || pids.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_member(&mut self, number: usize, is_member: bool) {
        let node = &mut self.nodes[number];
        node.is_member = is_member;
        let url = is_member.then(|| node.client.clone());
        self.clients.set(number as u16, url);
    }

    /// Moves the calling thread to where clients are, until the guard is
    /// dropped; see [`World::enter`]. On loopback that is where it is already.
    pub fn enter(&self) -> Result<Option<Inside>> {
        self.world.as_ref().map(World::enter).transpose()
    }

    /// The world, for a fleet that is in one.
    pub fn world(&self) -> Result<&World> {
        self.world.as_ref().context("this fleet is in no world")
    }

    /// Whether the fleet is in a world.
    pub fn has_world(&self) -> bool {
        self.world.is_some()
    }

    /// Whether its volumes are on disks that fail as ordered.
    pub fn has_disks(&self) -> bool {
        self.has_world() && self.options.volume.backing == Backing::FaultDisk
    }

    /// Exchanges the addresses of two nodes, as others see them.
    pub fn swap_addresses(&mut self, one: usize, two: usize) -> Result<()> {
        let rooms = [self.room_number(one)?, self.room_number(two)?];
        let world = self.world.as_mut().context("this fleet is in no world")?;
        world.swap_addresses(rooms[0], rooms[1])
    }

    /// The room of a node, for the rules of the network.
    pub fn room_number(&self, number: usize) -> Result<usize> {
        self.node(number)
            .room_number
            .context("this fleet is in no world")
    }

    /// The record of this run.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The trial it belongs to.
    pub fn trial(&self) -> &Trial {
        &self.trial
    }

    /// What it was made of.
    pub fn options(&self) -> &Options {
        &self.options
    }
}
