//! Nodes as real processes, and clusters of three.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    calls::Client,
    commands::{free_addresses, succeeds, weir},
};

/// How long anything may take that is waited for: far more than it does.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Between two looks at what is waited for.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// One test at a time: each runs up to three nodes.
pub(crate) fn stage() -> MutexGuard<'static, ()> {
    static STAGE: Mutex<()> = Mutex::new(());
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks until there is an answer.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) => assert!(began.elapsed() < LIMIT, "{what}, in vain: {why}"),
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// One node: its configuration, its folder and, while it runs, its process.
pub(crate) struct Node {
    pub(crate) name: String,
    dir: PathBuf,
    pub(crate) data: PathBuf,
    client: String,
    admin: String,
    running: Option<Child>,
}

impl Node {
    /// A node with its configuration in `root/name`; its volume is `data` or a
    /// folder beside the configuration.
    pub(crate) fn new(root: &Path, name: &str, data: Option<&Path>) -> Self {
        let dir = root.join(name);
        fs::create_dir_all(&dir).unwrap();
        let data = data.map_or_else(|| dir.join("data"), Path::to_owned);
        let [client, peer, admin] = free_addresses();
        let text = format!(
            "[node]\nname = {name:?}\nzone = \"zone-of-{name}\"\nhost = {name:?}\ndata = {data:?}\n\
             [listen]\nclient = \"{client}\"\npeer = \"{peer}\"\nadmin = \"{admin}\"\n\
             [store]\nsegment_bytes = 1048576\ncapacity_bytes = 134217728\n\
             [raft]\nsnapshot_entries = 20\n"
        );
        fs::write(dir.join("weir.toml"), text).unwrap();
        Self {
            name: name.into(),
            dir,
            data,
            client: format!("http://{client}"),
            admin: format!("http://{admin}"),
            running: None,
        }
    }

    pub(crate) fn config(&self) -> String {
        self.dir.join("weir.toml").display().to_string()
    }

    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// A client of this node; each has a connection of its own.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.client)
    }

    /// Everything it has said since it was last started.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub(crate) fn serve(&mut self) {
        assert!(self.running.is_none(), "{} runs", self.name);
        let log = fs::File::create(self.dir.join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["serve", "--config", &self.config()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running = Some(child);
    }

    /// How the process ended, or `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.running.as_mut()?.try_wait().unwrap()
    }

    /// Starts the node, insists that it ends by itself, not well, and returns
    /// what it said.
    pub(crate) fn serve_in_vain(&mut self) -> String {
        self.serve();
        let status = until("the node to end", || self.ended().ok_or_else(|| self.log()));
        self.running = None;
        assert!(!status.success(), "{status}: {}", self.log());
        self.log()
    }

    /// The cluster as this node sees it now; null if it does not answer.
    pub(crate) fn status_now(&self) -> Value {
        let output = weir(&["status", "--json", "--node", &self.admin]);
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// The cluster as this node sees it, once it fits.
    pub(crate) fn status(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        until(what, || {
            let status = self.status_now();
            match fits(&status) {
                true => Ok(status),
                false => Err(format!("status stays {status}\n{}", self.log())),
            }
        })
    }

    /// Stops the process in good order.
    pub(crate) fn stop(&mut self) {
        let mut child = self.running.take().expect("it runs");
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    pub(crate) fn kill9(&mut self) {
        if let Some(mut child) = self.running.take() {
            // Gone already at worst.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// A cluster of one node.
pub(crate) fn one(root: &Path, data: Option<&Path>) -> Node {
    let mut node = Node::new(root, "n1", data);
    succeeds(&["init", "--config", &node.config()]);
    node.serve();
    node.status("n1 to lead", |status| {
        status["leader"] == "n1" && status["epoch"] == 1
    });
    node
}

/// A cluster of three voters; the volume of the first is `data`, if given.
pub(crate) fn three(root: &Path, data: Option<&Path>) -> [Node; 3] {
    let mut nodes =
        [("n1", data), ("n2", None), ("n3", None)].map(|(name, data)| Node::new(root, name, data));
    let config = nodes[0].config();
    succeeds(&["init", "--config", &config, "--setting", "initial_nodes=3"]);
    nodes[0].serve();
    nodes[0].status("n1 to lead", |status| status["leader"] == "n1");
    let admin = nodes[0].admin.clone();
    for node in &mut nodes[1..] {
        succeeds(&["join", "--config", &node.config(), "--node", &admin]);
        node.serve();
    }
    for node in &nodes {
        node.status("three voters", |status| {
            let votes = |row: &&Value| row["role"] == "leader" || row["role"] == "voter";
            rows(status).iter().all(|row| row["state"] == "active")
                && rows(status).iter().filter(votes).count() == 3
        });
    }
    nodes
}

pub(crate) fn rows(status: &Value) -> &[Value] {
    status["nodes"].as_array().map_or(&[], Vec::as_slice)
}

/// The row of a node in a status document.
pub(crate) fn row<'a>(status: &'a Value, name: &str) -> &'a Value {
    static NONE: Value = Value::Null;
    rows(status)
        .iter()
        .find(|row| row["name"] == name)
        .unwrap_or(&NONE)
}
