//! Some of the planted bugs, each under the scenario that has to catch it.

use std::{
    io::{self, Write},
    process::Command,
};

use weir_chaos_tests::rig;

/// Those that are caught soonest; `chaos planted` does all.
const QUICK: &str = "UrisOneByOne,DigestUnchecked";

/// A check that finds nothing may not be looking: with a bug in the nodes the
/// judge that is named for it finds something.
#[test]
fn planted_bugs_are_caught_by_their_scenarios() {
    if let Err(why) = rig::available() {
        let _ = writeln!(io::stderr(), "planted: skipped: {why}");
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_chaos"))
        .args(["planted", "--at-once", "2", "--only", QUICK])
        .output()
        .expect("chaos can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    assert!(said.contains("2 of 2 planted bugs were caught"), "{said}");
}
