//! Bounded waiting for conditions that no handle can be awaited on: files and
//! ports of other processes.

use std::{
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Rest between two probes: short against everything that is waited for here,
/// long enough that a probe that starts no process costs next to nothing.
const REST: Duration = Duration::from_millis(20);

/// Probes until `probe` gives a value, and returns it.
///
/// An error of the probe ends the wait at once: it means that the condition
/// cannot come true any more. When `limit` has passed, the error names `what`.
pub fn until<T>(
    what: impl Display,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() >= limit {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        thread::sleep(REST);
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_value_ends_the_wait() {
        let mut left = 3;
        let got = until("three probes", Duration::from_secs(60), || {
            left -= 1;
            Ok((left == 0).then_some("there"))
        });
        assert_eq!(got.unwrap(), "there");
    }

    #[test]
    fn a_wait_that_runs_out_names_what_it_waited_for() {
        let got = until("a port that never opens", Duration::ZERO, || Ok(None::<()>));
        let text = got.unwrap_err().to_string();
        assert!(text.contains("a port that never opens"), "{text}");
    }

    #[test]
    fn an_error_ends_the_wait_at_once() {
        let mut probes = 0;
        let got = until("nothing", Duration::from_secs(3600), || {
            probes += 1;
            Err::<Option<()>, _>(anyhow!("the process is gone"))
        });
        assert_eq!(got.unwrap_err().to_string(), "the process is gone");
        assert_eq!(probes, 1);
    }
}
