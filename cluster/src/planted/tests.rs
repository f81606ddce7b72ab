use std::{collections::BTreeSet, fs, path::Path};

use super::{BUGS, Suite, run};

const DOCUMENT: &str = "docs/testing.md";
const BEGIN: &str = "<!-- planted bugs: begin -->\n";
const END: &str = "<!-- planted bugs: end -->";

/// Writes the table instead of comparing it.
const WRITE_VARIABLE: &str = "WEIR_WRITE_DOCS";

#[test]
fn each_bug_is_caught_by_its_test() {
    run::each_is_caught(match env!("CARGO_PKG_NAME") {
        "weir-cluster" => Suite::Cluster,
        _ => Suite::Node,
    });
}

#[test]
fn names_are_given_once() {
    let names: BTreeSet<_> = BUGS.iter().map(|planted| planted.name).collect();
    assert_eq!(names.len(), BUGS.len());
}

#[test]
fn the_table_in_the_documentation_is_the_list() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(DOCUMENT);
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("where the table begins");
    let (written, after) = rest.split_once(END).expect("where the table ends");
    let table = table();
    if written == table {
        return;
    }
    if std::env::var_os(WRITE_VARIABLE).is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    panic!(
        "{DOCUMENT} does not say what is planted; to write it: {WRITE_VARIABLE}=1 \
         cargo test -p weir-cluster --lib planted"
    );
}

fn table() -> String {
    let mut table = String::from(
        "| bug | breaks | promise | caught by | by the simulation | by the scenario |\n|---|---|---|---|---|---|\n",
    );
    for planted in BUGS {
        let suite = match planted.suite {
            Suite::Cluster => "cluster",
            Suite::Node => "node",
            Suite::Raft => "cluster/tests/raft_cluster.rs",
            Suite::Api => "node/tests/api",
        };
        let chaos = planted.chaos.map_or_else(String::new, |chaos| {
            format!("`{}` ({})", chaos.scenario, chaos.judge)
        });
        let seeds = planted.seeds;
        let simulated = seeds.map_or_else(String::new, |seeds| format!("within {seeds} seeds"));
        table += &format!(
            "| `{}` | {} | P{} | {suite}: `{}` | {simulated} | {chaos} |\n",
            planted.name, planted.breaks, planted.promise, planted.test
        );
    }
    table
}
