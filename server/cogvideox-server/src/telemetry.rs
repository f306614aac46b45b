//! Logging: `tracing` events to stderr, as lines for people or as JSON. Stdout stays free for what a command prints.
//! With the cargo feature `otel`, spans also go where the environment says.

use std::io::IsTerminal;

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::ParseError,
    fmt::{self, MakeWriter, writer::BoxMakeWriter},
    layer::SubscriberExt as _,
};

use crate::config::{Log, LogFormat};

/// One of those that hear of spans and events.
pub(crate) type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// To be kept until the process has done its work, and dropped outside of a runtime: what is sent to others is flushed
/// then.
#[must_use]
pub struct Telemetry {
    #[cfg(feature = "otel")]
    _traces: Option<crate::traces::Traces>,
}

/// Starts logging for the whole process; to be called once, and outside of a runtime.
///
/// # Errors
/// A filter that cannot be read, or logging that is already started; an export of traces that cannot be.
pub fn init(log: &Log) -> anyhow::Result<Telemetry> {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = lines(log, BoxMakeWriter::new(std::io::stderr), colour)?;
    #[cfg(not(feature = "otel"))]
    {
        tracing::subscriber::set_global_default(Registry::default().with(lines))?;
        Ok(Telemetry {})
    }
    #[cfg(feature = "otel")]
    {
        let traces = crate::traces::Traces::from_environment()?;
        let mut layers = vec![lines];
        layers.extend(traces.as_ref().map(crate::traces::Traces::layer));
        tracing::subscriber::set_global_default(Registry::default().with(layers))?;
        if let Some(traces) = &traces {
            tracing::info!(endpoint = %traces.endpoint(), "traces are exported");
        }
        Ok(Telemetry { _traces: traces })
    }
}

/// The log that [`init`] installs, on a writer of one's own.
///
/// # Errors
/// A filter that cannot be read.
pub fn subscriber(
    log: &Log,
    writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
    colour: bool,
) -> Result<Box<dyn Subscriber + Send + Sync>, ParseError> {
    Ok(Box::new(Registry::default().with(lines(log, writer, colour)?)))
}

fn lines(
    log: &Log,
    writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
    colour: bool,
) -> Result<BoxedLayer, ParseError> {
    let filter = event_filter(&log.filter)?;
    let lines = fmt::layer().with_writer(writer);
    Ok(match log.format {
        LogFormat::Plain => lines.with_ansi(colour).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    })
}

/// Reads a filter as in `RUST_LOG`: a level, or a list of `target=level`. What the list leaves out is logged from
/// `error` on.
pub(crate) fn event_filter(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().with_default_directive(LevelFilter::ERROR.into()).parse(directives)
}
