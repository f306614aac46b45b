//! What Prometheus is told: the recorder behind the `metrics` macros of every crate, with buckets that suit seconds of
//! steps and of whole videos.
//!
//! To be installed once, before anything is counted.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Seconds, from a request at the door to a long video.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0, 1200.0, 1800.0,
];

/// Installs the recorder; the handle renders what it knows.
///
/// # Errors
/// A recorder that is installed already.
pub(crate) fn install() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

/// What the metrics of the process itself mean; those of the job are described where they are counted.
fn describe() {
    metrics::describe_gauge!("process_resident_memory_bytes", metrics::Unit::Bytes, "Memory in use");
    metrics::describe_gauge!("process_open_fds", "Open file descriptors");
    // Counters of what may never happen: without a first value nobody could tell that from not being counted.
    for name in ["cogvideox_db_busy_total", "cogvideox_oom_total", "cogvideox_worker_restarts_total"] {
        metrics::counter!(name).absolute(0);
    }
    for result in ["delivered", "retried", "given_up"] {
        metrics::counter!("cogvideox_webhook_deliveries_total", "result" => result).absolute(0);
    }
}

/// Says how much the process holds; Linux only, nothing elsewhere.
pub(crate) fn observe_process() {
    if let Some(bytes) = process_bytes("VmRSS:") {
        metrics::gauge!("process_resident_memory_bytes").set(bytes as f64);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(open.count() as f64);
    }
}

/// A figure of this process's memory by its name in proc(5), status; Linux only.
pub(crate) fn process_bytes(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix(name))?;
    kib.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
