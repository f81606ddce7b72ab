//! One node: its room, its disk, its configuration, its process.

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};

use crate::{
    ports,
    process::Process,
    rig::{Room, Volume, World},
};

/// Ports of a node in a room of its own: the usual ones.
const PORTS: [u16; 3] = [8980, 8981, 8982];

/// One node of a fleet.
pub struct Node {
    /// Its name within the cluster.
    pub name: String,
    /// The zone it is in.
    pub zone: String,
    /// URL of its port for clients, as members and clients know it.
    pub client: String,
    /// URL of its admin port, as members and clients know it.
    pub admin: String,
    /// URLs of the same two ports from its own room, whatever its address is.
    pub(super) own_client: String,
    pub(super) own_admin: String,
    /// Configuration and logs; kept when a trial fails.
    pub dir: PathBuf,
    /// Where it listens: for clients, for peers, for admin.
    listen: [String; 3],
    /// Where others find the same.
    known: [String; 3],
    // Dropped in this order: the process before what it uses.
    pub(super) process: Option<Process>,
    pub(super) volume: Option<Volume>,
    pub(super) room: Arc<Room>,
    pub(super) room_number: Option<usize>,
    pub(super) is_member: bool,
    pub(super) is_paused: bool,
    /// Bytes of its blobs were changed on purpose, since it had an empty disk.
    pub(super) is_rotten: bool,
}

impl Node {
    pub(super) fn in_room(
        name: &str,
        zone: &str,
        dir: PathBuf,
        world: &World,
        number: usize,
        volume: Volume,
    ) -> Node {
        let address = world.address(number);
        // Wherever the room is: addresses can change under a running node.
        let bind = PORTS.map(|port| format!("0.0.0.0:{port}"));
        let known = PORTS.map(|port| format!("{address}:{port}"));
        let room = world.room(number).clone();
        let mut node = Node::new(name, zone, dir, room, bind, known);
        node.room_number = Some(number);
        node.volume = Some(volume);
        node
    }

    pub(super) fn on_loopback(
        name: &str,
        zone: &str,
        dir: PathBuf,
        room: Arc<Room>,
    ) -> Result<Node> {
        let known = ports::free()?.map(|address| address.to_string());
        Ok(Node::new(name, zone, dir, room, known.clone(), known))
    }

    fn new(
        name: &str,
        zone: &str,
        dir: PathBuf,
        room: Arc<Room>,
        listen: [String; 3],
        known: [String; 3],
    ) -> Node {
        Node {
            name: name.into(),
            zone: zone.into(),
            client: format!("http://{}", known[0]),
            admin: format!("http://{}", known[2]),
            own_client: format!("http://{}", listen[0].replace("0.0.0.0", "127.0.0.1")),
            own_admin: format!("http://{}", listen[2].replace("0.0.0.0", "127.0.0.1")),
            dir,
            listen,
            known,
            process: None,
            room,
            room_number: None,
            volume: None,
            is_member: false,
            is_paused: false,
            is_rotten: false,
        }
    }

    /// Its data directory, as the node sees it.
    pub fn data(&self) -> PathBuf {
        match &self.volume {
            Some(volume) => volume.path().join("data"),
            None => self.dir.join("data"),
        }
    }

    /// Its data directory, as this process sees it while it is mounted.
    pub fn data_outside(&self) -> PathBuf {
        match &self.volume {
            Some(volume) => volume.outside().join("data"),
            None => self.dir.join("data"),
        }
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("weir.toml")
    }

    /// Where its output goes.
    pub fn log(&self) -> PathBuf {
        self.dir.join("weir.log")
    }

    /// Its volume, where it has one of its own.
    pub fn volume(&self) -> Result<&Volume> {
        self.volume
            .as_ref()
            .with_context(|| format!("{} has no volume of its own", self.name))
    }

    pub(super) fn volume_mut(&mut self) -> Result<&mut Volume> {
        let name = &self.name;
        self.volume
            .as_mut()
            .with_context(|| format!("{name} has no volume of its own"))
    }

    /// The number of its process, while it has one.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Whether it belongs to the cluster, as far as this fleet knows.
    pub fn is_member(&self) -> bool {
        self.is_member
    }

    pub(super) fn clock(&self) -> PathBuf {
        self.dir.join("clock")
    }

    pub(super) fn write_config(&self, capacity_bytes: u64) -> Result<()> {
        let name = &self.name;
        let mut text = format!(
            "[node]\nname = {name:?}\nzone = {:?}\nhost = {name:?}\ndata = {:?}\n\
             [store]\ncapacity_bytes = {capacity_bytes}\n",
            self.zone,
            self.data(),
        );
        for (section, addresses) in [("listen", &self.listen), ("advertise", &self.known)] {
            let [client, peer, admin] = addresses;
            text +=
                &format!("[{section}]\nclient = {client:?}\npeer = {peer:?}\nadmin = {admin:?}\n");
        }
        Ok(fs::write(self.config(), text)?)
    }
}
