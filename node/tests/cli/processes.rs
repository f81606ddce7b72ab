//! Nodes as real processes, by the commands that an operator gives.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::commands::free_addresses;
pub(crate) use crate::commands::{succeeds, weir};

/// How long a node may take to serve or to stop: far more than it does.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// One node's folder, configuration and, while it runs, process.
pub(crate) struct Node {
    dir: PathBuf,
    pub(crate) admin: String,
    running: Option<Child>,
}

/// Asserts that a command failed and said this.
#[track_caller]
pub(crate) fn refused(args: &[&str], advice: &str) {
    let output = weir(args);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "weir {args:?} succeeded");
    assert!(text.contains(advice), "weir {args:?} said: {text}");
}

pub(crate) fn document(args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(args)).unwrap()
}

impl Node {
    pub(crate) fn new(root: &Path, name: &str) -> Self {
        let dir = root.join(name);
        fs::create_dir_all(&dir).unwrap();
        let [client, peer, admin] = free_addresses();
        let text = format!(
            "[node]\nname = {name:?}\nzone = \"zone-of-{name}\"\nhost = {name:?}\ndata = {:?}\n\
             [listen]\nclient = \"{client}\"\npeer = \"{peer}\"\nadmin = \"{admin}\"\n",
            dir.join("data")
        );
        fs::write(dir.join("weir.toml"), text).unwrap();
        Self {
            dir,
            admin: format!("http://{admin}"),
            running: None,
        }
    }

    pub(crate) fn config(&self) -> String {
        self.dir.join("weir.toml").display().to_string()
    }

    pub(crate) fn data(&self) -> String {
        self.dir.join("data").display().to_string()
    }

    pub(crate) fn serve(&mut self) {
        let log = fs::File::create(self.dir.join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["serve", "--config", &self.config()])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running = Some(child);
    }

    pub(crate) fn join(&self, admin: &str) {
        succeeds(&["join", "--config", &self.config(), "--node", admin]);
    }

    /// The status document, once it fits.
    pub(crate) fn status(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let output = weir(&["status", "--json", "--node", &self.admin]);
            let status = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
            if fits(&status) {
                return status;
            }
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(began.elapsed() < LIMIT, "status stays {status}\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until it has said this.
    pub(crate) fn logs(&self, text: &str) {
        let began = Instant::now();
        let said = || fs::read_to_string(self.dir.join("log")).unwrap();
        while !said().contains(text) {
            assert!(began.elapsed() < LIMIT, "{text:?} is not in {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it ends by itself.
    pub(crate) fn ends(&mut self) {
        let mut child = self.running.take().unwrap();
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if began.elapsed() > LIMIT {
                child.kill().unwrap();
                panic!("a node that was removed goes on");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            let status = child.wait().unwrap();
            assert!(status.success(), "{status}");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Nodes n1, n2, … by `init`, `join` and `serve`, each an owner in one epoch.
pub(crate) fn cluster(root: &Path, count: usize, settings: &[&str]) -> Vec<Node> {
    let names = (1..=count).map(|number| format!("n{number}"));
    let mut nodes: Vec<_> = names.map(|name| Node::new(root, &name)).collect();
    let (config, initial) = (nodes[0].config(), format!("initial_nodes={count}"));
    let mut args = vec!["init", "--config", &config, "--setting", &initial];
    for setting in settings {
        args.extend(["--setting", setting]);
    }
    succeeds(&args);
    nodes[0].serve();
    // Not waited for: joining waits for the cluster to be founded.
    let admin = nodes[0].admin.clone();
    listens(&nodes[0]);
    for node in &mut nodes[1..] {
        node.join(&admin);
        node.serve();
    }
    nodes[0].status(|status| {
        let rows = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        rows.len() == count && rows.iter().all(|row| row["state"] == "active")
    });
    nodes
}

/// Waits until a node's admin listener takes connections.
fn listens(node: &Node) {
    let address = node.admin.trim_start_matches("http://");
    let began = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(began.elapsed() < LIMIT, "{address} does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One row of the node table.
pub(crate) fn row<'a>(status: &'a Value, name: &str) -> &'a Value {
    let rows = status["nodes"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == name);
    row.unwrap_or(&Value::Null)
}
