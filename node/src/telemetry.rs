//! Logs: structured events and spans by `tracing`, written to standard error.
//!
//! ERROR means that a human must look. What tells of nothing but the end of
//! this process, because it was asked for, is no error.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use tracing::{Level, Metadata, Subscriber, subscriber::Interest};
use tracing_subscriber::{
    EnvFilter, Layer, filter::dynamic_filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::config::{LogConfig, LogFormat};

/// Whether Raft was told to end.
static RAFT_ENDS: AtomicBool = AtomicBool::new(false);

/// Begins logging for the whole process. The variable `WEIR_LOG` replaces the
/// configured filter. A second call changes nothing.
pub fn start(config: &LogConfig) {
    let filter = EnvFilter::try_from_env("WEIR_LOG")
        .or_else(|_| EnvFilter::try_new(&config.filter))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(but_the_end_of_raft(&RAFT_ENDS));
    let layer = fmt::layer().with_writer(io::stderr);
    // An error means that the process logs already, as in tests.
    let _ = match config.format {
        LogFormat::Text => registry.with(layer.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    };
}

/// Says that Raft is told to end now, as this process stops: errors of openraft
/// are not written from here on. Its tasks do not wait for each other, and those
/// that last longest report as an error that the others are gone.
pub fn raft_ends() {
    RAFT_ENDS.store(true, Ordering::Relaxed);
}

/// All events but the errors of openraft after its end.
fn but_the_end_of_raft<S: Subscriber>(ended: &'static AtomicBool) -> impl Layer<S> {
    let is_its_error = |event: &Metadata<'_>| {
        *event.level() == Level::ERROR && event.target().starts_with("openraft")
    };
    dynamic_filter_fn(move |event, _| !(is_its_error(event) && ended.load(Ordering::Relaxed)))
        // All others are decided once, not at each event.
        .with_callsite_filter(move |event| match is_its_error(event) {
            true => Interest::sometimes(),
            false => Interest::always(),
        })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps the lines of a log.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_end_of_raft_is_no_error() {
        static ENDED: AtomicBool = AtomicBool::new(false);
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::registry()
            .with(EnvFilter::new("info,openraft=error"))
            .with(but_the_end_of_raft(&ENDED))
            .with(fmt::layer().with_writer(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let tell = |when| {
                tracing::error!(target: "openraft::core", "core {when}");
                tracing::warn!(target: "openraft::core", "unasked {when}");
                tracing::error!("ours {when}");
                tracing::info!("news {when}");
            };
            tell("before");
            ENDED.store(true, Ordering::Relaxed);
            tell("after");
        });
        let bytes = lines.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        let told = |what: &str| text.contains(what);
        for wanted in [
            "core before",
            "ours before",
            "ours after",
            "news before",
            "news after",
        ] {
            assert!(told(wanted), "{wanted}: {text}");
        }
        assert!(!told("core after") && !told("unasked"), "{text}");
    }
}
