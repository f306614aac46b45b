//! Traces: this server's `tracing` spans, sent to an OpenTelemetry collector over OTLP/HTTP. Only with the cargo feature
//! `otel`, and only if the environment names a collector; the variables are OpenTelemetry's own, most of them read by
//! its SDK.
//!
//! The crates below name their spans and fields in their own words; `Conventional` puts them into OpenTelemetry's.
//! Spans wait in a bounded queue for a thread of the SDK's own, and are dropped when it is full: a slow collector, or
//! one that is not there, holds up nobody.

use std::borrow::Cow;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{SpanKind, Status, TracerProvider as _};
use opentelemetry::{Context, Key, KeyValue, Value};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter as Export};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{FilterExt as _, Targets, filter_fn};

use crate::telemetry::BoxedLayer;

/// The service's name, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` gives another.
const SERVICE_NAME: &str = env!("CARGO_PKG_NAME");
/// Whose spans, and events in them, are exported: this workspace's, not those of the crates that do the exporting.
const TARGETS: [&str; 7] = ["api", "cogvideox", "cogvideox_server", "outbound", "queue", "store", "worker"];
/// Around all that a worker does as long as it lives: with it, all its videos would be one trace without an end.
const LOG_ONLY_SPAN: &str = "worker";
/// How long one export may take, unless the environment says otherwise: OpenTelemetry's default.
const EXPORT_TIMEOUT_MS: u64 = 10_000;
/// How long the end of the process may be held up by a collector that does not answer.
const FLUSH_WAIT: Duration = Duration::from_secs(3);

/// The export of traces. Dropping it sends what is still to be sent, and waits a moment for that; it must not be
/// dropped in a runtime.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    endpoint: String,
}

impl Traces {
    /// Starts the export; none if the environment names no collector. Not to be called in a runtime.
    ///
    /// # Errors
    /// An endpoint that is no URL, or TLS that cannot be set up.
    pub(crate) fn from_environment() -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = endpoint() else { return Ok(None) };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(outbound::blocking_client(export_timeout()?)?)
            .build()
            .context("the export of traces cannot be set up")?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Conventional(exporter))
            .with_resource(resource())
            .build();
        Ok(Some(Self { provider, endpoint }))
    }

    /// Where they go, without a name and password that the URL may hold.
    pub(crate) fn endpoint(&self) -> Cow<'_, str> {
        match (self.endpoint.split_once("://"), self.endpoint.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => Cow::Owned(format!("{scheme}://{host}")),
            _ => Cow::Borrowed(&self.endpoint),
        }
    }

    /// What hears of the spans. Its own filter: the log's says what people want to read.
    pub(crate) fn layer(&self) -> BoxedLayer {
        let targets = Targets::new().with_targets(TARGETS.map(|target| (target, LevelFilter::INFO)));
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(SERVICE_NAME))
            .with_context_activation(false)
            .with_tracked_inactivity(false)
            .with_location(false)
            .with_threads(false)
            .with_filter(targets.and(filter_fn(|metadata| metadata.name() != LOG_ONLY_SPAN)))
            .boxed()
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_WAIT) {
            tracing::warn!(%error, "the last traces may be lost");
        }
    }
}

/// Makes the trace that a caller's `traceparent` names the request's own.
pub(crate) async fn join_callers_trace(request: Request, next: Next) -> Response {
    let headers = HeaderExtractor(request.headers());
    let callers = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
    opentelemetry::context::FutureExt::with_context(next.run(request), callers).await
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The collector, as the SDK will find it too.
fn endpoint() -> Option<String> {
    let off = variable("OTEL_SDK_DISABLED").is_some_and(|disabled| disabled.eq_ignore_ascii_case("true"))
        || variable("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter == "none");
    let named =
        || variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"));
    if off { None } else { named() }
}

/// The SDK would set this on a client of its own making only.
fn export_timeout() -> anyhow::Result<Duration> {
    for name in ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"] {
        if let Some(value) = variable(name) {
            let ms =
                value.parse().with_context(|| format!("{name}: expected milliseconds, found {value:?}"))?;
            return Ok(Duration::from_millis(ms));
        }
    }
    Ok(Duration::from_millis(EXPORT_TIMEOUT_MS))
}

fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let from_environment = Resource::builder().build();
    let name = from_environment.get(&Key::from_static_str("service.name"));
    let is_named = name.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder().with_attribute(version);
    if is_named { builder.build() } else { builder.with_service_name(SERVICE_NAME).build() }
}

/// Puts spans into OpenTelemetry's words on their way out.
#[derive(Debug)]
struct Conventional<E>(E);

impl<E: Export> Export for Conventional<E> {
    fn export(&self, mut batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        batch.iter_mut().for_each(put_conventionally);
        self.0.export(batch)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

/// A request's span is a server's, named by method and route, and failed if its answer is a 5xx. A video's is failed
/// if its attempt was.
fn put_conventionally(span: &mut SpanData) {
    let of = |name: &str| {
        span.attributes
            .iter()
            .find(|attribute| attribute.key.as_str() == name)
            .map(|found| found.value.clone())
    };
    match span.name.as_ref() {
        "request" => {
            let method = of("http.request.method")
                .map_or(Cow::Borrowed("HTTP"), |method| method.as_str().into_owned().into());
            let named =
                of("http.route").map_or_else(|| method.to_string(), |route| format!("{method} {route}"));
            let failed = matches!(of("http.response.status_code"), Some(Value::I64(500..)));
            span.name = named.into();
            span.span_kind = SpanKind::Server;
            span.status = if failed { Status::error("") } else { Status::Unset };
        }
        "video" if of("job.outcome").is_some_and(|outcome| outcome.as_str() == "failed") => {
            let code = of("error.type").map_or_else(String::new, |code| code.to_string());
            span.status = Status::error(code);
        }
        _ => {}
    }
}
