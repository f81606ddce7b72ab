//! The floors of the house, checked by reading the sources.
//!
//! A text scan and no compiler: `use` trees are flattened, comments and test
//! modules are left out, and what remains is searched for names. It can be
//! fooled by whoever wants to; it is for whoever forgot.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A source file: its path from the root of the repository, and its text.
struct Source {
    path: String,
    text: String,
}

/// Names that files may not have.
struct Rule {
    why: &'static str,
    /// Files it is for: a file, or a folder with `/` at the end.
    files: &'static [&'static str],
    except: &'static [&'static str],
    /// A path (`std::fs`) or a word. A path is also found where `use` groups it.
    names: &'static [&'static str],
    /// Whether test modules and files are read too.
    tests_too: bool,
}

/// Files of the policy floor.
const POLICY: &[&str] = &[
    "cluster/src/words/",
    "cluster/src/state/",
    "cluster/src/membership/",
    "cluster/src/ring.rs",
    "cluster/src/placement/loss.rs",
    "cluster/src/placement/mod.rs",
    "cluster/src/placement/preview.rs",
    "cluster/src/placement/shares.rs",
    "cluster/src/placement/view.rs",
    "cluster/src/placement/weaker.rs",
    "cluster/src/replication/candidates.rs",
    "cluster/src/replication/quorum.rs",
    "cluster/src/replication/read_order.rs",
    "cluster/src/replication/shortfall.rs",
    "cluster/src/repair/plan.rs",
    "cluster/src/repair/account.rs",
    "cluster/src/repair/ballot.rs",
    "cluster/src/repair/budget.rs",
];

const EVERYWHERE: &[&str] = &[
    "proto/src/",
    "cluster/src/",
    "node/src/",
    "chaos-tests/src/",
];

const RULES: &[Rule] = &[
    Rule {
        why: "policy is synchronous: loops and waiting live in the shell around it",
        files: POLICY,
        except: &[],
        names: &["tokio", "async", "await", "async_trait", "futures"],
        tests_too: false,
    },
    Rule {
        why: "policy takes the time as a parameter",
        files: POLICY,
        except: &[],
        names: &["Instant", "SystemTime", "std::thread"],
        tests_too: false,
    },
    Rule {
        why: "policy takes a seeded generator as a parameter",
        files: POLICY,
        except: &[],
        names: &[
            "rand::rng",
            "rand::random",
            "thread_rng",
            "ThreadRng",
            "OsRng",
            "from_os_rng",
        ],
        tests_too: false,
    },
    Rule {
        why: "chance and threads are taken from outside.rs, or a simulation's seed decides nothing",
        files: &["cluster/src/"],
        except: &["cluster/src/outside.rs", "cluster/src/planted/run.rs"],
        names: &[
            "rand::rng",
            "rand::random",
            "spawn_blocking",
            "std::time::Instant",
            "SystemTime",
        ],
        tests_too: false,
    },
    Rule {
        why: "policy does no IO",
        files: POLICY,
        except: &[],
        names: &["std::fs", "std::net", "std::process", "std::env", "rustix"],
        tests_too: false,
    },
    Rule {
        why: "openraft is pinned to an alpha: a bump may change one folder only",
        files: EVERYWHERE,
        except: &["cluster/src/raft/"],
        names: &["openraft"],
        tests_too: true,
    },
    Rule {
        why: "sled holds what can be rebuilt, and only Raft's state machine knows of it",
        files: EVERYWHERE,
        except: &["cluster/src/raft/"],
        names: &["sled"],
        tests_too: true,
    },
    Rule {
        why: "the ring's points are pinned in one place",
        files: EVERYWHERE,
        except: &["cluster/src/ring.rs"],
        names: &["hashring", "HashRing", "get_with_replicas"],
        tests_too: true,
    },
    Rule {
        why: "gRPC is spoken at the edges: peers, Raft's network, services, commands",
        files: &["cluster/src/", "node/src/"],
        except: &[
            "cluster/src/peer/",
            "cluster/src/raft/network",
            "cluster/src/raft/server",
            // Stands in for the wire, in tests alone.
            "cluster/src/simulation/",
            "node/src/api/",
            "node/src/cli/",
            "node/src/serve",
            "node/src/admin",
            // Writes the whole stack out, routes included.
            "node/src/assemble.rs",
        ],
        names: &["tonic"],
        tests_too: false,
    },
    Rule {
        why: "no blob byte goes through Raft",
        files: &["cluster/src/raft/", "cluster/src/state/"],
        except: &[],
        names: &["BlobStore", "BlobStream", "Verified", "Upload", "put_bytes"],
        tests_too: true,
    },
    Rule {
        why: "a service never chooses a node",
        files: &["node/src/api/"],
        // Shows operators what there is.
        except: &["node/src/api/admin"],
        names: &[
            "weir_cluster::placement",
            "weir_cluster::ring",
            "weir_cluster::peer",
            "weir_cluster::replication",
            "Placement",
        ],
        tests_too: false,
    },
    Rule {
        why: "a peer answers from its own store and never asks a third node",
        files: &["cluster/src/peer/"],
        except: &[],
        names: &["crate::replication", "Replicated"],
        tests_too: false,
    },
    Rule {
        why: "stores do not look at the cluster",
        files: &["node/src/store/"],
        except: &[],
        names: &[
            "weir_cluster::placement",
            "weir_cluster::replication",
            "weir_cluster::raft",
            "weir_cluster::state",
            "Peers",
        ],
        tests_too: false,
    },
];

/// Crates from the bottom up, and what each may be built on.
const CRATES: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("cluster", &["weir-proto"]),
    ("node", &["weir-proto", "weir-cluster"]),
    ("chaos-tests", &["weir-proto", "weir-cluster", "weir-node"]),
];

#[test]
fn each_floor_keeps_to_its_names() {
    let sources = sources();
    let violations: Vec<_> = RULES
        .iter()
        .flat_map(|rule| check(rule, &sources))
        .collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn the_policy_floor_is_where_it_is_said_to_be() {
    let sources = sources();
    let exists = |file: &&&str| sources.iter().any(|source| source.path.starts_with(**file));
    // A rule for a file that moved would check nothing.
    let gone: Vec<_> = POLICY.iter().filter(|file| !exists(file)).collect();
    assert!(gone.is_empty(), "no such files: {gone:?}");
}

#[test]
fn arrows_between_crates_point_downward() {
    for (name, below) in CRATES {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let upward = upward(&manifest, below);
        assert!(upward.is_empty(), "{name} may not be built on {upward:?}");
    }
}

#[test]
fn a_planted_violation_is_caught() {
    let policy = "cluster/src/replication/quorum.rs";
    let caught = [
        (policy, "use tokio::sync::watch;"),
        (
            policy,
            "use std::{\n    collections::BTreeMap,\n    fs::{self, File},\n};",
        ),
        (policy, "pub async fn wait() {}"),
        (policy, "let url = \"http://host\"; std::fs::read(url)"),
        (policy, "fn now() -> u64 { std::time::Instant::now(); 0 }"),
        (policy, "use std::time::{Duration, Instant};"),
        (policy, "let mut rng = rand::rng();"),
        ("cluster/src/state/apply.rs", "use std::time::SystemTime;"),
        ("cluster/src/replication/put.rs", "use openraft::Raft;"),
        (
            "cluster/src/repair/worker.rs",
            "tokio::task::spawn_blocking(move || hash())",
        ),
        (
            "cluster/src/raft/leader.rs",
            "use std::time::{Duration, Instant};",
        ),
        ("node/src/store/index.rs", "let db = sled::open(path)?;"),
        ("cluster/src/placement/mod.rs", "use hashring::HashRing;"),
        (
            "cluster/src/replication/put.rs",
            "Err(tonic::Status::internal(\"\"))",
        ),
        (
            "cluster/src/raft/state_machine.rs",
            "use crate::{Error, blob::{BlobStore, Put}};",
        ),
        (
            "node/src/api/cas.rs",
            "use weir_cluster::{Digest, placement::view::View};",
        ),
        (
            "node/src/store/mod.rs",
            "use weir_cluster::state::Settings;",
        ),
        (
            "cluster/src/peer/server.rs",
            "use crate::replication::Replicated;",
        ),
    ];
    for (path, text) in caught {
        assert_eq!(violations(path, text).len().min(1), 1, "{path}: {text}");
    }
    let clean = [
        (policy, "// tokio would be the tempting choice\nfn f() {}"),
        (policy, "use std::time::Duration;"),
        (policy, "let filter = \"tokio=warn \\\" // async\";"),
        (policy, "fn asynchronous() {}\nlet tokio_like = 1;"),
        (
            policy,
            "fn f() {}\n#[cfg(test)]\nmod tests {\n    use tokio::sync::watch;\n}",
        ),
        ("cluster/src/replication/put.rs", "use tokio::sync::watch;"),
        ("cluster/src/raft/log_store.rs", "use openraft::Raft;"),
        ("cluster/src/peer/client.rs", "use tonic::Status;"),
        (
            "node/src/api/cas.rs",
            "use weir_cluster::{Digest, blob::{BlobStore, Put}};",
        ),
    ];
    for (path, text) in clean {
        let found = violations(path, text);
        assert!(found.is_empty(), "{path}: {text}: {found:?}");
    }
    let upward_arrow = "[dependencies]\nweir-proto.workspace = true\n\n[dev-dependencies]\nweir-node = { path = \"../node\" }\n";
    assert_eq!(upward(upward_arrow, &["weir-proto"]), ["weir-node"]);
}

fn violations(path: &str, text: &str) -> Vec<String> {
    let source = Source {
        path: path.into(),
        text: text.into(),
    };
    RULES
        .iter()
        .flat_map(|rule| check(rule, std::slice::from_ref(&source)))
        .collect()
}

fn check(rule: &Rule, sources: &[Source]) -> Vec<String> {
    let within = |list: &[&str], path: &str| list.iter().any(|place| path.starts_with(place));
    let mut found = Vec::new();
    for Source { path, text } in sources {
        let is_test = path.contains("tests/") || path.ends_with("tests.rs");
        let read = within(rule.files, path) && !within(rule.except, path);
        if !read || (is_test && !rule.tests_too) {
            continue;
        }
        let code = without_comments(text);
        let code = if rule.tests_too {
            &code
        } else {
            without_tests(&code)
        };
        let paths = use_paths(code);
        for name in rule.names {
            let used = paths.iter().any(|path| names(path, name));
            if used || names(code, name) {
                found.push(format!("{path} names {name}: {}", rule.why));
            }
        }
    }
    found
}

/// Whether a name stands in a text by itself, not as a part of another word.
fn names(text: &str, name: &str) -> bool {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(start, _)| {
        let before = text[..start].chars().next_back();
        let after = text[start + name.len()..].chars().next();
        !before.is_some_and(in_word) && !after.is_some_and(in_word)
    })
}

/// What the compiler reads as code: no line comments (the house has no others)
/// and nothing between quotes, line by line.
fn without_comments(text: &str) -> String {
    text.lines()
        .map(code_of_line)
        .collect::<Vec<_>>()
        .join("\n")
}

fn code_of_line(line: &str) -> String {
    let mut code = String::with_capacity(line.len());
    let mut characters = line.chars().peekable();
    let mut quoted = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted => {
                characters.next();
            }
            '"' => quoted = !quoted,
            '/' if !quoted && characters.peek() == Some(&'/') => break,
            _ if !quoted => code.push(character),
            _ => {}
        }
    }
    code
}

/// Up to the tests, which stand last in a file.
fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(code)
}

/// Every path that `use` brings in, one by one.
fn use_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for part in code.split("use ").skip(1) {
        if let Some((tree, _)) = part.split_once(';') {
            let tree: String = tree.chars().filter(|c| !c.is_whitespace()).collect();
            flatten("", &tree, &mut paths);
        }
    }
    paths
}

fn flatten(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let Some(inner) = tree
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
    else {
        match tree.find("::{") {
            Some(at) => flatten(
                &format!("{prefix}{}::", &tree[..at]),
                &tree[at + 2..],
                paths,
            ),
            None => paths.push(format!("{prefix}{tree}")),
        }
        return;
    };
    let (mut depth, mut start) = (0, 0);
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                flatten(prefix, &inner[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start < inner.len() {
        flatten(prefix, &inner[start..], paths);
    }
}

/// Our own crates that a manifest names, other than those below it.
fn upward(manifest: &str, below: &[&str]) -> Vec<String> {
    let names = manifest.lines().filter_map(|line| {
        let name: String = line
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '-')
            .collect();
        (name.starts_with("weir-") && !below.contains(&&*name)).then_some(name)
    });
    names.collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources() -> Vec<Source> {
    let root = root();
    let mut sources = Vec::new();
    for (name, _) in CRATES {
        read_folder(&root, &PathBuf::from(name).join("src"), &mut sources);
    }
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

fn read_folder(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            read_folder(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(Source {
                text: fs::read_to_string(root.join(&path)).unwrap(),
                path: path.to_string_lossy().replace('\\', "/"),
            });
        }
    }
}
