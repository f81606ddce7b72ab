//! `weir.toml`: what is particular to one node.
//!
//! One section for each part of the program, each with the struct that the
//! part itself defines. What must be the same on all nodes is no configuration
//! but a cluster setting ([`weir_cluster::state::Settings`]).
//!
//! Every key has a default. Reading reports every fault at once, each with its
//! file, line, key and what was expected, so that nobody mends one only to be
//! told of the next.

mod read;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use weir_cluster::raft::RaftConfig;

pub use read::{ConfigError, Fault};

use crate::{api::ApiConfig, store::StoreConfig};

/// The whole file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub node: NodeConfig,
    pub listen: ListenConfig,
    pub advertise: AdvertiseConfig,
    pub store: StoreConfig,
    pub raft: RaftConfig,
    pub api: ApiConfig,
    pub log: LogConfig,
}

/// `[node]`: who this node is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// A label for people, unique in the cluster. Default: the host's name.
    pub name: String,
    /// The failure domain: what may be lost as a whole (a rack, a building, a
    /// cloud zone). Copies of a blob are put into different zones. Nodes that
    /// claim the same zone are assumed to fail together.
    pub zone: String,
    /// The machine, where several nodes run on one (one for each disk). Copies
    /// avoid sharing a host as well. Default: the host's name.
    pub host: String,
    /// Share of the blobs relative to other nodes: 2 holds twice as many as 1.
    /// From 1 to 100. Set it in proportion to `store.capacity_bytes`.
    pub weight: u32,
    /// The volume: everything this node keeps is below this folder. Moving the
    /// folder to another machine moves the node.
    pub data: PathBuf,
}

/// `[listen]`: the sockets this node opens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// Where clients (bst, bazel, …) connect.
    pub client: SocketAddr,
    /// Where the other nodes connect. Never expose it to clients.
    pub peer: SocketAddr,
    /// Health, status and the `weir` commands. Loopback unless you have a
    /// reason: who reaches it may change the cluster.
    pub admin: SocketAddr,
}

/// `[advertise]`: how others reach the sockets above, as `host:port`. Needed
/// where a socket listens on all addresses or behind a translation of
/// addresses. Default: the address of `[listen]`, or the host's name and that
/// port if it listens on all addresses.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdvertiseConfig {
    pub client: Option<String>,
    pub peer: Option<String>,
    pub admin: Option<String>,
}

/// `[log]`: what is written to standard error.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A filter: a level (`error`, `warn`, `info`, `debug`, `trace`), or levels
    /// by module (`info,weir_cluster::raft=debug`). The variable `WEIR_LOG` wins.
    /// By default openraft tells errors alone, and not that it refused a change
    /// of members: who asked for that hears it, and an election is no error.
    pub filter: String,
    /// `text` for people, `json` for machines (one object a line).
    pub format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for NodeConfig {
    fn default() -> Self {
        let host = host_name();
        Self {
            name: host.clone(),
            zone: "default".into(),
            host,
            weight: 1,
            data: "/var/lib/weir".into(),
        }
    }
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            client: ([0, 0, 0, 0], 8980).into(),
            peer: ([0, 0, 0, 0], 8981).into(),
            admin: ([127, 0, 0, 1], 8982).into(),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            filter: "info,openraft=error,openraft::raft::api::management=off".into(),
            format: LogFormat::Text,
        }
    }
}

impl Config {
    /// Reads a file and applies overrides of the form `section.key=value`.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|error| ConfigError::unreadable(path, &error))?;
        Self::parse(&path.display().to_string(), &text, overrides)
    }

    /// Reads the text of a file; `place` names it in faults.
    pub fn parse(place: &str, text: &str, overrides: &[String]) -> Result<Self, ConfigError> {
        let (config, mut faults) = read::parse(place, text);
        let (config, refused) = read::apply_overrides(config, overrides);
        faults.extend(refused);
        faults.extend(config.check(place));
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError { faults })
        }
    }

    /// The file as TOML, every key written out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("plain values always have a TOML form")
    }

    /// What the types alone do not say.
    fn check(&self, place: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, key: &str, message: String| {
            if !holds {
                faults.push(Fault {
                    place: place.into(),
                    key: key.into(),
                    message,
                });
            }
        };
        let label = |text: &str| {
            (1..=64).contains(&text.len())
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        for (key, text) in [
            ("node.name", &self.node.name),
            ("node.zone", &self.node.zone),
            ("node.host", &self.node.host),
        ] {
            let message = format!("{text:?}: expected 1 to 64 letters, digits, '-', '_' or '.'");
            expect(label(text), key, message);
        }
        let weight = self.node.weight;
        let message = format!("{weight}: expected a number from 1 to 100");
        expect((1..=100).contains(&weight), "node.weight", message);
        let message = "empty: expected the path of a folder".into();
        expect(!self.node.data.as_os_str().is_empty(), "node.data", message);
        for (key, address) in [
            ("advertise.client", &self.advertise.client),
            ("advertise.peer", &self.advertise.peer),
            ("advertise.admin", &self.advertise.admin),
        ] {
            if let Some(address) = address {
                let message = format!("{address:?}: expected host:port");
                expect(is_host_and_port(address), key, message);
            }
        }
        let listen = &self.listen;
        for (a, b, keys) in [
            (listen.client, listen.peer, "listen.client and listen.peer"),
            (
                listen.client,
                listen.admin,
                "listen.client and listen.admin",
            ),
            (listen.peer, listen.admin, "listen.peer and listen.admin"),
        ] {
            let message = format!("both are {a}: expected different ports");
            expect(a != b || a.port() == 0, keys, message);
        }
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log.filter) {
            expect(
                false,
                "log.filter",
                format!("{:?}: {error}", self.log.filter),
            );
        }
        if let Err(error) = self.store.check() {
            expect(false, "store", error.to_string());
        }
        for (key, message) in self.raft.faults() {
            expect(false, key, message);
        }
        faults
    }
}

impl AdvertiseConfig {
    /// The address to tell others for a socket that listens on `listen`.
    #[must_use]
    pub fn address(told: Option<&String>, listen: SocketAddr, host: &str) -> String {
        match told {
            Some(address) => address.clone(),
            None if listen.ip().is_unspecified() => format!("{host}:{}", listen.port()),
            None => listen.to_string(),
        }
    }
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

/// The machine's name without its domain, or "localhost".
fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy().into_owned();
    match name.split('.').next() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "localhost".to_owned(),
    }
}

#[cfg(test)]
mod tests;
