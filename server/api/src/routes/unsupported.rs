//! What OpenAI's API has and this server does not do: refused in words, and as the client's fault, since the openai
//! client would try a 501 again.

use crate::error::{Code, Error};
use crate::openapi::UnsupportedErrors;

/// Edit a video (unsupported).
///
/// Part of OpenAI's API that this server does not do.
#[utoipa::path(
    post,
    path = "/v1/videos/edits",
    tag = "videos",
    operation_id = "edit_video",
    responses(UnsupportedErrors)
)]
pub(crate) async fn edits() -> Error {
    unsupported("editing a video")
}

/// Extend a video (unsupported).
///
/// Part of OpenAI's API that this server does not do.
#[utoipa::path(
    post,
    path = "/v1/videos/extensions",
    tag = "videos",
    operation_id = "extend_video",
    responses(UnsupportedErrors)
)]
pub(crate) async fn extensions() -> Error {
    unsupported("extending a video")
}

/// Make a character (unsupported).
///
/// Part of OpenAI's API that this server does not do.
#[utoipa::path(
    post,
    path = "/v1/videos/characters",
    tag = "videos",
    operation_id = "create_character",
    responses(UnsupportedErrors)
)]
pub(crate) async fn characters() -> Error {
    unsupported("making a character")
}

fn unsupported(what: &str) -> Error {
    Error::refused(Code::UnsupportedOperation, format!("{what} is not something this server does"))
}
