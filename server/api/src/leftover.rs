//! Reads what is left of a request's body when its answer is known before the end of it, as with every refusal at the
//! door.
//!
//! A connection that is closed with bytes unread is reset, and a client that is still sending then loses the answer
//! that it was about to get. Bounded in bytes and in time: who sends for ever is cut off all the same.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};

/// How much of a body nobody asked for is read, and for how long.
const MAX_BYTES: usize = 32 << 20;
const MAX_TIME: Duration = Duration::from_secs(2);

/// Hands the body on and takes back what was not read of it.
pub(crate) async fn read_leftover(request: Request, next: Next) -> Response {
    // Who asks before it sends has sent nothing, and is not told to.
    if request.body().is_end_stream() || request.headers().contains_key(header::EXPECT) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let body = Shared(Arc::new(Mutex::new(body)));
    let response = next.run(Request::from_parts(parts, Body::new(body.clone()))).await;
    // Who was waited for has had its time.
    if response.status() == StatusCode::REQUEST_TIMEOUT {
        return response;
    }
    let read = async {
        let mut bytes = 0;
        while bytes < MAX_BYTES {
            match poll_fn(|context| body.poll(context)).await {
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) | None => break,
            }
        }
    };
    // Too slow is as good as too much: the answer goes out.
    let _ = tokio::time::timeout(MAX_TIME, read).await;
    response
}

/// A body that outlives its reader.
#[derive(Clone)]
struct Shared(Arc<Mutex<Body>>);

impl Shared {
    fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut body = self.lock();
        if body.is_end_stream() { Poll::Ready(None) } else { Pin::new(&mut *body).poll_frame(context) }
    }

    fn lock(&self) -> MutexGuard<'_, Body> {
        // One reader at a time, and what a panic left is read on.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.poll(context)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}
