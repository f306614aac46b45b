//! What the worker tells an operator's instruments.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

use crate::{
    bench::{Bench, KEEPING},
    fake::PEAK_BYTES,
};

type Values = Arc<Mutex<BTreeMap<String, f64>>>;

/// Sums of counters and histograms, last values of gauges; one process-wide, so other tests count too.
#[derive(Default)]
struct Notebook(Values);

struct Line(Values, String);

impl Notebook {
    fn line(&self, key: &Key) -> Arc<Line> {
        let labels: Vec<_> = key.labels().map(|label| label.value().to_owned()).collect();
        Arc::new(Line(Arc::clone(&self.0), [&[key.name().to_owned()], labels.as_slice()].concat().join(" ")))
    }
}

impl Line {
    fn note(&self, change: impl FnOnce(f64) -> f64) {
        let mut values = self.0.lock().unwrap();
        let value = values.entry(self.1.clone()).or_default();
        *value = change(*value);
    }
}

impl CounterFn for Line {
    fn increment(&self, by: u64) {
        self.note(|value| value + by as f64);
    }
    fn absolute(&self, to: u64) {
        self.note(|_| to as f64);
    }
}

impl GaugeFn for Line {
    fn increment(&self, by: f64) {
        self.note(|value| value + by);
    }
    fn decrement(&self, by: f64) {
        self.note(|value| value - by);
    }
    fn set(&self, to: f64) {
        self.note(|_| to);
    }
}

impl HistogramFn for Line {
    fn record(&self, sample: f64) {
        self.note(|value| value + sample);
    }
}

impl Recorder for Notebook {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.line(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.line(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.line(key))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_happens_is_measured() {
    let notebook = Notebook::default();
    let values = Arc::clone(&notebook.0);
    metrics::set_global_recorder(notebook).ok().unwrap();
    let mut bench = Bench::new().await;
    let worker = bench.start(KEEPING);
    for prompt in ["large", "panic"] {
        let id = bench.enqueue(prompt).await;
        bench.settled(id).await;
    }
    let id = bench.enqueue("hold").await;
    let _held = bench.held().await;
    bench.queue.request_cancel(id, None).await.unwrap();
    bench.settled(id).await;
    bench.assert_goes_on().await;
    assert!(worker.each[0].pulse.age() < Duration::from_hours(1));
    worker.shutdown(Duration::from_hours(1)).await;

    let values = values.lock().unwrap().clone();
    let at_least = |name: &str, least: f64| {
        assert!(values.get(name).is_some_and(|value| *value >= least), "{name}: {values:?}");
    };
    for stage in ["text_encode", "denoise", "vae_decode", "encode_mp4", "store"] {
        at_least(&format!("cogvideox_stage_seconds {stage}"), 0.0);
    }
    at_least("cogvideox_denoise_step_seconds", 0.0);
    at_least("cogvideox_checkpoint_seconds", 0.0);
    at_least("cogvideox_cancel_latency_seconds", 0.0);
    at_least("cogvideox_oom_total", 1.0);
    at_least("cogvideox_job_retries_total out_of_memory", 1.0);
    at_least("cogvideox_worker_restarts_total", 1.0);
    at_least("cogvideox_frames_generated_total", 18.0);
    // Two videos of 9/8 seconds.
    at_least("cogvideox_video_seconds_generated_total", 2.0);
    at_least("cogvideox_gpu_memory_bytes peak 0 fake:0", PEAK_BYTES as f64);
}
