//! Warnings of the native half, for Python's `logging`.

use std::fmt::Write;

use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// From now on, events go to the logger `datafusion_ches`. Leaves it to the first subscriber, if
/// somebody in this process listens already.
pub(crate) fn start() {
    let _ = tracing_subscriber::registry().with(ToLogging).try_init();
}

struct ToLogging;

/// Python's number for a level.
fn level(metadata: &Metadata) -> u8 {
    match *metadata.level() {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

impl<S: Subscriber> Layer<S> for ToLogging {
    fn enabled(&self, metadata: &Metadata, _context: Context<S>) -> bool {
        metadata.is_event()
            && ["datafusion_ches", "ches_udfs"]
                .iter()
                .any(|of| metadata.target().starts_with(of))
            && *metadata.level() <= Level::INFO
    }

    fn on_event(&self, event: &Event, _context: Context<S>) {
        let mut message = Message::default();
        event.record(&mut message);
        // None while the interpreter ends.
        let _ = Python::try_attach(|py| log(py, level(event.metadata()), &message.0));
    }
}

fn log(py: Python<'_>, level: u8, message: &str) -> PyResult<()> {
    let logger = py
        .import("logging")?
        .call_method1("getLogger", ("datafusion_ches",))?;
    logger.call_method1("log", (level, "%s", message)).map(drop)
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let separator = if self.0.is_empty() { "" } else { " " };
        let name = match field.name() {
            "message" => String::new(),
            name => format!("{name}="),
        };
        let _ = write!(self.0, "{separator}{name}{value:?}");
    }
}
