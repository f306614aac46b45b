//! Logging: `tracing` events to stderr, as lines for people or as JSON. Stdout stays free for what a command prints.

use std::io::IsTerminal;

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter,
    filter::ParseError,
    fmt::{MakeWriter, writer::BoxMakeWriter},
};

use crate::config::{Log, LogFormat};

/// Starts logging for the whole process; to be called once.
///
/// # Errors
/// A filter that cannot be read, or logging that is already started.
pub fn init(log: &Log) -> anyhow::Result<()> {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = subscriber(log, BoxMakeWriter::new(std::io::stderr), colour)?;
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(())
}

/// What [`init`] installs, on a writer of one's own.
///
/// # Errors
/// A filter that cannot be read.
pub fn subscriber(
    log: &Log,
    writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
    colour: bool,
) -> Result<Box<dyn Subscriber + Send + Sync>, ParseError> {
    let lines = tracing_subscriber::fmt().with_env_filter(event_filter(&log.filter)?).with_writer(writer);
    Ok(match log.format {
        LogFormat::Plain => Box::new(lines.with_ansi(colour).finish()),
        LogFormat::Json => Box::new(lines.json().flatten_event(true).finish()),
    })
}

/// Reads a filter as in `RUST_LOG`: a level, or a list of `target=level`. What the list leaves out is logged from
/// `error` on.
pub(crate) fn event_filter(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().with_default_directive(LevelFilter::ERROR.into()).parse(directives)
}
