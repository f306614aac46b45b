//! The two things a URL carries: a video's id in the path and parameters after the question mark.
//!
//! Query parameters are [`Fields`] like a form's, so that they are refused in the same words.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use queue::VideoId;

use crate::error::{Code, Error, Result, video_not_found};
use crate::fields::Fields;

/// Documents [`VideoPath`].
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "the path is read by VideoPath, which refuses in its own words")]
pub(crate) struct VideoPathParams {
    /// Id of the video.
    #[param(pattern = "^video_[0-9a-f]{32}$")]
    video_id: String,
}

/// The `{video_id}` of the path. What cannot be an id names no video: 404.
pub(crate) struct VideoPath(pub(crate) VideoId);

impl<S: Send + Sync> FromRequestParts<S> for VideoPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Error::refused(Code::InvalidRequest, rejection.body_text()))?;
        text.parse().map(Self).map_err(|_| video_not_found(&text))
    }
}

/// The parameters after the question mark.
pub(crate) struct Query(pub(crate) Fields);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self> {
        Fields::from_urlencoded(parts.uri.query().unwrap_or_default().as_bytes()).map(Self)
    }
}
