//! What reaches the log, and in which shape.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use cogvideox_server::{
    config::{Log, LogFormat},
    telemetry,
};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log_of(format: LogFormat, filter: &str, events: impl FnOnce()) -> String {
    let written = Written::default();
    let writer = written.clone();
    let log = Log { format, filter: filter.to_owned() };
    let subscriber = telemetry::subscriber(&log, move || writer.clone(), false).unwrap();
    tracing::subscriber::with_default(subscriber, events);
    let bytes = written.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_filter_picks_targets_and_levels() {
    let log = log_of(LogFormat::Plain, "info,queue=debug", || {
        tracing::info!("shown");
        tracing::debug!("too fine");
        tracing::debug!(target: "queue", "asked for");
    });
    assert_eq!(log.lines().count(), 2, "{log}");
    assert!(log.contains("shown") && log.contains("asked for"), "{log}");
}

#[test]
fn json_lines_carry_fields_that_can_be_queried() {
    let log = log_of(LogFormat::Json, "info", || tracing::info!(job.id = "video_1", step = 3, "step done"));
    let event: serde_json::Value = serde_json::from_str(log.trim_end()).unwrap();
    assert_eq!(event["level"], "INFO");
    assert_eq!(event["message"], "step done");
    assert_eq!(event["job.id"], "video_1");
    assert_eq!(event["step"], 3);
}
