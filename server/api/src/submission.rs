//! By what a repeated request is known for the same: the client's `Idempotency-Key`, or, since the openai client
//! sends none, its count of retries; and in either case a digest of the request.
//!
//! The digest is of the fields as they were read, not of the bytes: the openai client draws another multipart boundary
//! for every try.

use axum::http::{HeaderMap, HeaderName};
use queue::Submission;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::error::{Code, Error, Result};
use crate::hex::hex;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");
const MAX_KEY_CHARS: usize = 255;

/// Documents the header.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "the header is read by `submission`, which refuses in its own words")]
pub(crate) struct IdempotencyHeader {
    /// The same key and the same request again: the video of the first time, instead of another one.
    #[param(rename = "idempotency-key", min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
}

/// What a request is known by. `operation` tells apart requests with equal fields, such as remixes of two videos.
pub(crate) fn submission(
    headers: &HeaderMap,
    operation: &str,
    fields: &impl Serialize,
) -> Result<Submission> {
    let mut digest = Sha256::new();
    digest.update(operation);
    digest.update([0]);
    digest.update(serde_json::to_vec(fields).expect("plain structs with string keys become JSON"));
    let fingerprint = hex(&digest.finalize());
    let retry_count = headers.get(RETRY_COUNT).and_then(|count| count.to_str().ok()?.parse().ok());
    Ok(Submission {
        fingerprint,
        idempotency_key: idempotency_key(headers)?,
        retry_count: retry_count.unwrap_or(0),
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (first, second) = (keys.next(), keys.next());
    let Some(first) = first else { return Ok(None) };
    let plain = second.is_none()
        && (1..=MAX_KEY_CHARS).contains(&first.len())
        && first.as_bytes().iter().all(u8::is_ascii_graphic);
    if !plain {
        let message =
            format!("'Idempotency-Key' must be one value of 1 to {MAX_KEY_CHARS} visible ASCII characters");
        return Err(Error::param(Code::InvalidIdempotencyKey, "idempotency-key", message));
    }
    Ok(first.to_str().ok().map(ToOwned::to_owned))
}
