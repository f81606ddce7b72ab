//! Where the nodes of a development cluster live: folders and ports.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use super::Dev;
use crate::config::Config;

pub(super) struct Layout {
    pub(super) dir: PathBuf,
    pub(super) nodes: Vec<DevNode>,
}

pub(super) struct DevNode {
    /// Holds weir.toml, weir.log and data/.
    pub(super) dir: PathBuf,
    pub(super) config: Config,
}

impl Layout {
    /// Decides on folders and ports and writes each node's weir.toml. A node
    /// that exists keeps its zone and ports: the others know it by them.
    pub(super) fn plan(dir: &Path, dev: &Dev, overrides: &[String]) -> anyhow::Result<Self> {
        // Held until all are chosen, so that no port is given out twice.
        let mut held = Vec::new();
        let count = usize::from(dev.nodes).max(existing_nodes(dir));
        let nodes = (0..count)
            .map(|index| {
                let dir = dir.join(format!("n{}", index + 1));
                fs::create_dir_all(&dir)
                    .with_context(|| format!("cannot create {}", dir.display()))?;
                let config = config(&dir, index, dev, overrides, &mut held)?;
                fs::write(dir.join("weir.toml"), config.to_toml())
                    .with_context(|| format!("cannot write into {}", dir.display()))?;
                Ok(DevNode { dir, config })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self {
            dir: dir.to_owned(),
            nodes,
        })
    }
}

impl DevNode {
    pub(super) fn name(&self) -> &str {
        &self.config.node.name
    }

    /// Whether it has been made a node already.
    pub(super) fn exists(&self) -> bool {
        self.config.node.data.join("node.json").exists()
    }

    pub(super) fn client_url(&self) -> String {
        format!("http://{}", self.config.listen.client)
    }

    pub(super) fn admin_url(&self) -> String {
        format!("http://{}", self.config.listen.admin)
    }
}

fn config(
    dir: &Path,
    index: usize,
    dev: &Dev,
    overrides: &[String],
    held: &mut Vec<TcpListener>,
) -> anyhow::Result<Config> {
    let file = dir.join("weir.toml");
    let data = dir.join("data");
    let mut config = Config::default();
    if data.join("node.json").exists() {
        let before = Config::load(&file, &[])?;
        config.node = before.node;
        config.listen = before.listen;
    } else {
        let Some(zone) = dev.zones.get(index % dev.zones.len().max(1)) else {
            bail!("--zones names no zone");
        };
        let first = match dev.base_port {
            0 => None,
            base => Some(
                u16::try_from(usize::from(base) + 3 * index)
                    .ok()
                    .filter(|port| *port < u16::MAX - 3)
                    .context("--base-port leaves no room for all nodes")?,
            ),
        };
        config.node.name = format!("n{}", index + 1);
        config.node.zone = zone.clone();
        // One host each: what is tried here is a cluster of machines.
        config.node.host = format!("n{}", index + 1);
        config.node.data = data;
        let mut address = |offset| listen_address(first.map(|port| port + offset), held);
        config.listen.client = address(0)?;
        config.listen.peer = address(1)?;
        config.listen.admin = address(2)?;
    }
    if let Some(capacity) = dev.capacity {
        config.store.capacity_bytes = capacity;
    }
    let text = config.to_toml();
    Ok(Config::parse(
        &file.display().to_string(),
        &text,
        overrides,
    )?)
}

/// A loopback address: at the given port, or at one that is free now.
fn listen_address(port: Option<u16>, held: &mut Vec<TcpListener>) -> anyhow::Result<SocketAddr> {
    if let Some(port) = port {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    held.push(listener);
    Ok(address)
}

/// Nodes that an earlier run made; all of them are started again.
fn existing_nodes(dir: &Path) -> usize {
    (1..)
        .take_while(|number| dir.join(format!("n{number}/data/node.json")).exists())
        .count()
}
