//! How many requests come, where to, and how long they take.
//!
//! Labels are the router's own paths, never a client's: their number is that of the routes.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use metrics::{counter, gauge, histogram};

/// Measures a request until its answer begins; a download or stream then goes on.
pub(crate) async fn measure(request: Request, next: Next) -> Response {
    let method = word(request.method());
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let _in_flight = InFlight::begin();
    let begin = Instant::now();
    let response = next.run(request).await;
    let seconds = begin.elapsed().as_secs_f64();
    histogram!("http_request_duration_seconds", "method" => method, "route" => route.clone()).record(seconds);
    let labels =
        [("method", method.into()), ("route", route), ("status", response.status().as_u16().to_string())];
    counter!("http_requests_total", &labels).increment(1);
    response
}

/// A method that somebody made up is no label.
fn word(method: &Method) -> &'static str {
    const KNOWN: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::PUT,
    ];
    const WORDS: [&str; 7] = ["GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS", "PUT"];
    KNOWN.iter().position(|known| known == method).map_or("other", |place| WORDS[place])
}

/// Counts down also when the client hangs up before the answer.
struct InFlight;

impl InFlight {
    fn begin() -> Self {
        gauge!("http_requests_in_flight").increment(1.0);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!("http_requests_in_flight").decrement(1.0);
    }
}
