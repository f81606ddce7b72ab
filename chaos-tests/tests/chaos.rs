//! `chaos smoke` on a few scenarios, and its command line.

use std::process::Command;

fn chaos(words: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_chaos"))
        .args(words)
        .output()
        .expect("chaos can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    (output.status.success(), format!("{said}{complaint}"))
}

/// No promise is broken while nodes die, lose power or their disk, and are cut
/// off. Where networks and volumes cannot be had, only the first two run.
#[test]
fn promises_hold_under_a_few_faults() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.json");
    let ledger = ledger.display().to_string();
    let only = "calm,kill-any,kill-leader-available,power-cut,isolate,rot";
    let (passed, said) = chaos(&[
        "smoke",
        "--at-once",
        "2",
        "--only",
        only,
        "--minutes",
        "5",
        "--ledger",
        &ledger,
    ]);
    assert!(passed, "{said}");
    let (told, said) = chaos(&["ledger", &ledger]);
    assert!(told && said.contains("0 violations"), "{said}");
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
