//! Progress on standard error: one line that is written over on a terminal, a
//! line from time to time elsewhere.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// Between two lines where they stay: a log is read by people too.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The progress of one long command.
#[derive(Default)]
pub(super) struct Line {
    /// Characters that the next text has to cover.
    shown: usize,
    last: Option<(Instant, String)>,
}

impl Line {
    pub(super) fn show(&mut self, text: &str) {
        let mut out = std::io::stderr();
        // A reader that went away is no reason to fail.
        if out.is_terminal() {
            let width = text.chars().count();
            let _ = write!(
                out,
                "\r{text}{}",
                " ".repeat(self.shown.saturating_sub(width))
            );
            let _ = out.flush();
            self.shown = width;
            return;
        }
        let due = match &self.last {
            Some((at, before)) => at.elapsed() >= LINE_INTERVAL && before != text,
            None => true,
        };
        if due {
            let _ = writeln!(out, "{text}");
            self.last = Some((Instant::now(), text.to_owned()));
        }
    }

    /// Leaves the line as it is and goes to the next.
    pub(super) fn end(&mut self) {
        if self.shown > 0 {
            let _ = writeln!(std::io::stderr());
            self.shown = 0;
        }
    }
}

/// A line for people beside what was asked for.
pub(super) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
