//! Bugs planted on purpose, to see that the tests catch them.
//!
//! A check that finds nothing either shows that there is nothing to find, or
//! that it does not look. So where a promise is kept, one line can break it:
//! `if planted::is(Bug::AckBelowQuorum) { … }`. Each bug of the `list` names
//! the test that catches it, and `run` runs that test once more with the bug
//! on, in a process of its own: the run counts only if the bug was reached and
//! the test failed.
//!
//! Nothing of this is in a release: where debug assertions are off, [`is`] is
//! `false` at compile time and bugs have no names. In builds for tests the
//! environment variable `WEIR_PLANTED` names the bug for the whole process, so
//! that scenarios with real processes can plant one as well: `chaos planted`
//! insists that those of the list catch theirs.
//!
//! Each crate that has bugs compiles this file for itself, since `cfg(test)` is
//! set only for the crate whose tests are run.

mod list;
#[cfg(any(test, debug_assertions))]
pub mod run;
#[cfg(test)]
mod tests;

pub use list::{BUGS, Bug, Chaos, Planted, Suite};

/// Names the bug that is planted in a process; none without it. Without effect
/// in a release.
pub const VARIABLE: &str = "WEIR_PLANTED";

/// What a process says when its planted bug is reached; its name follows.
pub const REACHED: &str = "planted bug reached: ";

/// Whether a bug is planted in this process.
#[cfg(not(any(test, debug_assertions)))]
#[inline(always)]
#[must_use]
pub const fn is(_: Bug) -> bool {
    false
}

/// Whether a bug is planted in this process. Says so the first time, so that
/// whoever planted it sees that it was reached.
#[cfg(any(test, debug_assertions))]
#[must_use]
#[expect(clippy::print_stderr, reason = "told to whoever planted it")]
pub fn is(bug: Bug) -> bool {
    use std::sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    };
    static CHOSEN: LazyLock<Option<Bug>> = LazyLock::new(chosen);
    static REACHED: AtomicBool = AtomicBool::new(false);
    let planted = *CHOSEN == Some(bug);
    if planted && !REACHED.swap(true, Relaxed) {
        eprintln!("{}", reached(bug));
    }
    planted
}

#[cfg(any(test, debug_assertions))]
fn reached(bug: Bug) -> String {
    let named = BUGS.iter().find(|planted| planted.bug == bug);
    format!("{REACHED}{}", named.map_or("", |named| named.name))
}

#[cfg(any(test, debug_assertions))]
fn chosen() -> Option<Bug> {
    let name = std::env::var(VARIABLE)
        .ok()
        .filter(|name| !name.is_empty())?;
    let planted = BUGS.iter().find(|planted| planted.name == name);
    let planted = planted.unwrap_or_else(|| panic!("{VARIABLE}: no bug is named {name}"));
    Some(planted.bug)
}
