//! `chaos smoke`, and the command line of `chaos`.

use std::{
    io::{self, Write},
    path::Path,
    process::Command,
};

use weir_chaos_tests::{rig, run::Tally, scenario::SMOKE};

fn chaos(words: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_chaos"))
        .args(words)
        .output()
        .expect("chaos can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    (output.status.success(), format!("{said}{complaint}"))
}

/// No promise is broken by any scenario of the selection, nor by one with a
/// fresh seed. Where networks and volumes cannot be had, only those run that
/// kill and pause.
#[test]
fn promises_hold_under_the_selection() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.json");
    let (passed, said) = chaos(&[
        "smoke",
        "--at-once",
        "3",
        "--minutes",
        "30",
        "--fetches-times",
        "40",
        "--ledger",
        &ledger.display().to_string(),
    ]);
    assert!(passed, "{said}");
    let tally = Tally::load(Path::new(&ledger)).unwrap();
    let _ = writeln!(io::stderr(), "{tally}");
    assert_eq!((tally.failed_runs, tally.violations), (0, 0), "{said}");
    assert!(tally.ref_operations > 0 && tally.reads > 0, "{said}");
    if rig::available().is_ok() {
        assert_eq!(tally.runs as usize, SMOKE.len() + 1, "{said}");
    }
}

#[test]
fn a_mistake_is_told_from_a_failed_run() {
    let (passed, said) = chaos(&["run", "--scenario", "happiness"]);
    assert!(!passed && said.contains("chaos list"), "{said}");
    let (passed, said) = chaos(&["list"]);
    assert!(passed && said.contains("kill-leader"), "{said}");
    let (passed, said) = chaos(&["replay", "/nowhere"]);
    assert!(!passed && said.contains("cannot read"), "{said}");
}
