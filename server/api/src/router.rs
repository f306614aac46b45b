//! Every URL on one page, and what happens around each request.
//!
//! From the outside in: the measuring of traffic, a request id, headers kept out of the log, the log, the id on the answer, CORS, `nosniff`,
//! the error envelope, panics, the body limit; then, except for streams and downloads, the timeout.

use std::any::Any;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath};
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::middleware::from_fn;
use axum::response::Response;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowMethods, CorsLayer, ExposeHeaders};
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::{DefaultOnResponse, OnResponse as _, TraceLayer};
use tracing::{Span, field::Empty};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::envelope::envelope;
use crate::error::{X_REQUEST_ID, ascii, status_response};
use crate::leftover::read_leftover;
use crate::page;
use crate::routes::{
    capabilities, content, create, events, health, line, metrics, models, tickets, unsupported, videos,
};
use crate::state::AppState;
use crate::traffic::measure;

/// The routes with a timeout, and those that may last.
pub(crate) fn routes() -> (OpenApiRouter<AppState>, OpenApiRouter<AppState>) {
    let quick = OpenApiRouter::default()
        .routes(routes!(videos::list))
        .routes(routes!(videos::get, videos::delete, videos::change))
        .routes(routes!(videos::cancel))
        .routes(routes!(create::remix))
        .routes(routes!(create::retry))
        .routes(routes!(unsupported::edits))
        .routes(routes!(unsupported::extensions))
        .routes(routes!(unsupported::characters))
        .routes(routes!(line::get))
        .routes(routes!(line::pause))
        .routes(routes!(line::resume))
        .routes(routes!(capabilities::get))
        .routes(routes!(tickets::create))
        .routes(routes!(metrics::metrics))
        .routes(routes!(models::list))
        .routes(routes!(models::get))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::healthz));
    let streams = OpenApiRouter::default()
        // Waits as long as the client prefers, and keeps the timeout until then itself.
        .routes(routes!(create::create))
        .routes(routes!(content::download, content::head))
        .routes(routes!(events::follow))
        .routes(routes!(events::follow_all));
    (quick, streams)
}

/// The whole API as one service.
pub fn router(state: AppState) -> Router {
    let (quick, streams) = routes();
    let timeout = TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, state.limits.request_timeout);
    let around = ServiceBuilder::new()
        .layer(from_fn(measure))
        .map_request(drop_odd_request_id)
        .layer(SetRequestIdLayer::new(X_REQUEST_ID, FreshRequestId))
        .layer(SetSensitiveRequestHeadersLayer::new([header::AUTHORIZATION, header::COOKIE]))
        // A failure is logged where it is handled, with its cause.
        .layer(TraceLayer::new_for_http().make_span_with(span).on_response(note_status).on_failure(()))
        .layer(PropagateRequestIdLayer::new(X_REQUEST_ID))
        .option_layer(cors(&state.access.cors_origins))
        .layer(SetResponseHeaderLayer::if_not_present(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
        .layer(from_fn(envelope))
        .layer(from_fn(read_leftover))
        .layer(CatchPanicLayer::custom(panicked))
        // axum's own limit of 2 MB would come before ours.
        .layer(DefaultBodyLimit::disable())
        .layer(RequestBodyLimitLayer::new(state.limits.max_body_bytes));
    let (quick, _) = quick.layer(timeout).split_for_parts();
    let (streams, _) = streams.split_for_parts();
    quick.merge(streams).merge(page::routes()).layer(around).with_state(state)
}

/// Lets pages of the listed origins ask and read; without origins no answer says anything about CORS, and browsers
/// keep it to the server's own page. Never with credentials: an API key is sent by the page itself.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    let cors = CorsLayer::new()
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::any())
        .max_age(Duration::from_mins(10));
    (!origins.is_empty()).then(|| cors.allow_origin(origins))
}

/// A caller's request id is kept if it is one line of plain characters: it goes into the log.
fn drop_odd_request_id<B>(mut request: Request<B>) -> Request<B> {
    let sane = |id: &HeaderValue| {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        (1..=128).contains(&id.len()) && id.as_bytes().iter().all(plain)
    };
    let mut ids = request.headers().get_all(X_REQUEST_ID).iter();
    let kept = matches!((ids.next(), ids.next()), (Some(id), None) if sane(id));
    if !kept {
        request.headers_mut().remove(X_REQUEST_ID);
    }
    request
}

#[derive(Clone, Copy)]
struct FreshRequestId;

impl MakeRequestId for FreshRequestId {
    fn make_request_id<B>(&mut self, _request: &Request<B>) -> Option<RequestId> {
        Some(RequestId::new(ascii(format!("req_{}", Uuid::now_v7().simple()))))
    }
}

fn span<B>(request: &Request<B>) -> Span {
    let id = request.headers().get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    tracing::info_span!(
        "request",
        http.request.method = %request.method(),
        url.path = request.uri().path(),
        http.route = route,
        request.id = id,
        api_key.name = Empty,
        http.response.status_code = Empty
    )
}

/// Notes how the request was answered, for whoever records its span.
fn note_status<B>(response: &Response<B>, latency: Duration, span: &Span) {
    // Signed, because OpenTelemetry's numbers are: others would be exported as text.
    span.record("http.response.status_code", i64::from(response.status().as_u16()));
    DefaultOnResponse::default().on_response(response, latency, span);
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is tower-http's")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("without words"), "handler panicked");
    status_response(StatusCode::INTERNAL_SERVER_ERROR)
}
