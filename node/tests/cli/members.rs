//! Members that come and go, by the commands that an operator gives.
//!
//! Protects: what could lose a blob is refused with what to do first; what is
//! shown before a change is what the change does; a name is never taken from a
//! node that lives.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::processes::{Node, cluster, document, refused, row, succeeds};

#[test]
fn operators_look_before_they_change_and_are_told_what_a_change_does() {
    let root = tempfile::tempdir().unwrap();
    let mut nodes = cluster(root.path(), 3, &[]);
    let admin = nodes[0].admin.clone();
    let node = ["--node", &*admin];
    let with = |args: &[&'static str]| [args, &node].concat();

    let listed = document(&with(&["node", "list", "--json"]));
    assert_eq!(listed[2]["name"], "n3");
    assert_eq!(listed[2]["slots"], 16_384);
    assert!(succeeds(&with(&["node", "list"])).contains("REPAIR"));

    let plan = document(&with(&["plan", "join", "--zone", "d", "--json"]));
    let (moved, ideal) = (plan["moved"].as_u64(), plan["ideal"].as_u64());
    assert!(moved.unwrap() * 10 <= ideal.unwrap() * 12, "{plan}");
    assert_eq!(plan["copies_after"], 3);
    let plan = succeeds(&with(&["plan", "drain", "n2"]));
    assert!(
        plan.contains("copies of each blob: 3 now, 2 then"),
        "{plan}"
    );
    assert!(succeeds(&with(&["plan"])).contains("nothing moves"));
    refused(&with(&["plan", "drain", "zonk"]), "there are n1, n2, n3");
    refused(
        &with(&["plan", "settings", "replicas=99"]),
        "expected a number from 1 to 9",
    );

    let said = succeeds(&with(&["settings", "set", "lease=1h", "repair.rate=20MiB"]));
    assert!(said.contains("lease: 3h -> 1h"), "{said}");
    let settings = document(&with(&["settings", "--json"]));
    assert_eq!(settings["repair.rate"], "20MiB");
    assert!(succeeds(&with(&["settings"])).contains("repair.rate        20MiB"));
    refused(&with(&["settings", "set", "zonk=1"]), "expected one of");

    let scrub = document(&with(&["scrub", "n1", "--json"]));
    assert_eq!(scrub[0]["name"], "n1");
    assert_eq!(scrub.as_array().map(Vec::len), Some(1));
    succeeds(&with(&["scrub", "--now"]));

    let page = http_get(&admin, "/metrics");
    assert!(page.contains("\nweir_epoch 1\n"), "{page}");
    assert!(page.contains("weir_members{state=\"active\"} 3"), "{page}");
    assert!(http_get(&admin, "/readyz").contains("200 OK"));
    nodes.iter_mut().for_each(Node::stop);
}

#[test]
fn members_leave_only_by_the_way_that_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut nodes = cluster(root.path(), 3, &[]);
    let admin = nodes[0].admin.clone();
    let node = ["--node", &*admin];
    let with = |args: &[&'static str]| [args, &node].concat();

    let drain_first = "drain it first: weir node drain n2 --wait";
    refused(&with(&["node", "remove", "n2"]), drain_first);
    let alive = "n2 answers; drain it";
    refused(&with(&["node", "remove", "--dead", "n2"]), alive);
    refused(&with(&["node", "drain", "zonk"]), "there are n1, n2, n3");

    // A name that a living node has stays its own, and nothing is left behind.
    let double = Node::new(&root.path().join("elsewhere"), "n2");
    let config = double.config();
    let join = ["join", "--config", &config, "--node", &admin];
    refused(&join, "the name \"n2\" is taken by a node that answers");
    refused(&["serve", "--config", &config], "run `weir init`");

    // Once that node is dead, a new one on an empty directory takes its place.
    let before = nodes[0].status(|_| true);
    nodes[1].stop();
    let dead = "does not answer";
    refused(&with(&["node", "remove", "n2"]), dead);
    let mut double = double;
    double.join(&admin);
    double.serve();
    let after = nodes[0].status(|status| {
        let row = row(status, "n2");
        row["state"] == "active" && row["id"] != self::row(&before, "n2")["id"]
    });
    assert_eq!(after["nodes"].as_array().map(Vec::len), Some(3));
    assert_eq!(after["under_replicated"], 0, "{after}");

    // A dead one is removed where the others have what it had.
    double.stop();
    let said = nodes[0].status(|status| {
        let promises = status["promises"].as_array().cloned().unwrap_or_default();
        let down = |entry: &Value| entry["until"] == "n2 answers or is removed";
        promises.iter().any(down)
    });
    assert_eq!(row(&said, "n2")["state"], "down");
    let removed = succeeds(&with(&["node", "remove", "--dead", "n2"]));
    assert!(removed.contains("n2 was removed"), "{removed}");
    let status = nodes[0].status(|status| row(status, "n2").is_null());
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(2));
    assert_ne!(
        status["weaker"],
        json!([]),
        "two nodes are not three copies"
    );
    nodes[0].stop();
    nodes[2].stop();
}

/// One GET over HTTP/1.1; head and body.
fn http_get(url: &str, path: &str) -> String {
    let address = url.trim_start_matches("http://");
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}
