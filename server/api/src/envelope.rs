//! The layer that gives every refusal its JSON body: those that an [`Error`](crate::Error) left an [`ErrorBody`] for,
//! and those of the router, of other layers and of panics, which have a status only.

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::{Code, ErrorBody, ErrorEnvelope, X_REQUEST_ID};

/// Gives every refusal its JSON body.
pub(crate) async fn envelope(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let request_id = request.headers().get(X_REQUEST_ID).cloned();
    let mut response = next.run(request).await;
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let body = match response.extensions_mut().remove::<ErrorBody>() {
        Some(body) => body,
        None if is_json(response.headers()) => return response,
        None => {
            let request_id = request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or("unknown");
            let (code, message) = match status {
                StatusCode::NOT_FOUND => (Code::NotFound, format!("no route has the path '{path}'")),
                StatusCode::METHOD_NOT_ALLOWED => {
                    (Code::MethodNotAllowed, format!("'{path}' does not take the method {method}"))
                }
                StatusCode::REQUEST_TIMEOUT => {
                    (Code::RequestTimeout, "the request was not received or answered in time".to_owned())
                }
                StatusCode::PAYLOAD_TOO_LARGE => {
                    (Code::PayloadTooLarge, "the body is larger than this server accepts".to_owned())
                }
                status if status.is_client_error() => {
                    (Code::InvalidRequest, "the request is not well formed".to_owned())
                }
                _ => (
                    Code::Internal,
                    format!("the server failed; its log has the cause under request id {request_id}"),
                ),
            };
            ErrorBody { message, r#type: status.into(), param: None, code: code.as_str().to_owned() }
        }
    };
    let mut headers = std::mem::take(response.headers_mut());
    // They describe the body that is being replaced.
    headers.remove(header::CONTENT_TYPE);
    headers.remove(header::CONTENT_LENGTH);
    (status, headers, Json(ErrorEnvelope { error: body })).into_response()
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}
