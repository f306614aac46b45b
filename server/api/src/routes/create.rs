//! Making videos: of a request, of another video with another prompt, and of another video once more.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use queue::{Enqueued, Scope, Status, Topic};
use tokio::time::timeout;
use utoipa::ToSchema;

use super::videos::poll_headers;
use crate::auth::Caller;
use crate::create::{CreateVideoRequest, Draft, check_prompt, model_not_found};
use crate::error::{Code, Error, Result, ascii, status_response};
use crate::fields::{Fields, quoted};
use crate::openapi::{CreateErrors, RemixErrors, RetryErrors};
use crate::prefer::{self, PREFERENCE_APPLIED};
use crate::query::{VideoPath, VideoPathParams};
use crate::state::AppState;
use crate::submission::{IdempotencyHeader, submission};
use crate::submit::submit;
use crate::video::{Video, path, show};

const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const IGNORE_UNKNOWN: HeaderName = HeaderName::from_static("x-cogvideox-ignore-unknown");

/// Documents the headers of a request for a video.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "the headers are read by the handler")]
pub(crate) struct CreateHeaders {
    /// `wait=N` to get the answer when the video has ended, or after N seconds.
    #[param(example = "wait=120")]
    prefer: Option<String>,
    /// `true` to have unknown fields ignored, each with a warning, instead of refused.
    #[param(rename = "x-cogvideox-ignore-unknown")]
    ignore_unknown: Option<bool>,
}

/// Make a video.
///
/// Answers at once with the queued video; follow it at `urls.events` or poll it. Every field may also come as a
/// form field; objects then have bracketed names, as in `metadata[key]`.
#[utoipa::path(
    post,
    path = "/v1/videos",
    tag = "videos",
    operation_id = "create_video",
    params(IdempotencyHeader, CreateHeaders),
    request_body(content(
        (CreateVideoRequest = "multipart/form-data"),
        (CreateVideoRequest = "application/json"),
        (CreateVideoRequest = "application/x-www-form-urlencoded"),
    )),
    responses(
        (status = OK, description = "The video waits in the queue, or is the one that the same request made before.",
            body = Video, headers(
            ("location" = String, description = "Path of the video."),
            ("openai-poll-after-ms" = Option<u64>, description = "How often to poll, in milliseconds, while it is not settled."),
            ("idempotent-replayed" = Option<bool>, description = "`true` if an earlier request made the video."),
            ("preference-applied" = Option<String>, description = "The wait that was granted."),
        )),
        CreateErrors,
    ),
)]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    request: Request,
) -> Result<Response> {
    caller.require(Scope::Submit)?;
    let wait = prefer::wait(request.headers(), state.limits.max_wait);
    // This route has no timeout around it, since it may wait on purpose; up to there it has one as any other.
    let made = timeout(state.limits.request_timeout, make(&state, &caller, request)).await;
    let Ok(made) = made else { return Ok(status_response(StatusCode::REQUEST_TIMEOUT)) };
    let mut enqueued = counted(made)?;
    let Some(wait) = wait else { return Ok(made_response(&state, enqueued)) };
    let id = enqueued.video.id;
    let news = state.queue.subscribe(Topic::Video(id));
    let ended = state.queue.get(id).await?.status.is_terminal();
    if !ended {
        prefer::ended(&state, news, id, wait).await?;
    }
    enqueued.video = state.queue.get(id).await?;
    let mut response = made_response(&state, enqueued);
    response.headers_mut().insert(PREFERENCE_APPLIED, ascii(format!("wait={}", wait.as_secs())));
    Ok(response)
}

async fn make(state: &AppState, caller: &Caller, request: Request) -> Result<Enqueued> {
    let headers = request.headers().clone();
    let mut fields = Fields::with_image(request, &state.limits).await?;
    let request = CreateVideoRequest::take(&mut fields)?;
    let ignored = unknown_fields(&headers, fields)?;
    let submission = submission(&headers, "create", &request)?;
    let mut draft = request.draft(state)?;
    draft.job.warnings.extend(ignored);
    submit(state, caller, draft, submission).await
}

/// Refuses fields that were not taken, or says of each that it was ignored.
fn unknown_fields(headers: &HeaderMap, fields: Fields) -> Result<Vec<String>> {
    let ignore = match headers.get(IGNORE_UNKNOWN).map(HeaderValue::as_bytes) {
        None | Some(b"false") => false,
        Some(b"true") => true,
        Some(_) => {
            let message = format!("'{IGNORE_UNKNOWN}' must be true or false");
            return Err(Error::param(Code::InvalidType, IGNORE_UNKNOWN.as_str(), message));
        }
    };
    if !ignore {
        return fields.finish().map(|()| Vec::new());
    }
    let ignored =
        fields.into_names().map(|name| format!("the field {} is unknown and was ignored", quoted(&name)));
    Ok(ignored.collect())
}

/// What a remix takes.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "documents the body, whose fields are refused in their own words")]
pub(crate) struct RemixVideoRequest {
    /// What the new video shows.
    #[schema(min_length = 1, max_length = 10000)]
    prompt: String,
    /// Cut a prompt that is too long instead of refusing it.
    truncate_prompt: Option<bool>,
}

/// Make a video like another, of another prompt.
///
/// With the parameters and the seed of the other, which must be completed.
#[utoipa::path(
    post,
    path = "/v1/videos/{video_id}/remix",
    tag = "videos",
    operation_id = "remix_video",
    params(VideoPathParams, IdempotencyHeader),
    request_body(content(
        (RemixVideoRequest = "application/json"),
        (RemixVideoRequest = "application/x-www-form-urlencoded"),
        (RemixVideoRequest = "multipart/form-data"),
    )),
    responses(
        (status = OK, description = "The new video.", body = Video, headers(
            ("location" = String, description = "Path of the video."),
            ("openai-poll-after-ms" = Option<u64>, description = "How often to poll, in milliseconds, while it is not settled."),
            ("idempotent-replayed" = Option<bool>, description = "`true` if an earlier request made the video."),
        )),
        RemixErrors,
    ),
)]
pub(crate) async fn remix(
    State(state): State<AppState>,
    caller: Caller,
    VideoPath(id): VideoPath,
    headers: HeaderMap,
    mut fields: Fields,
) -> Result<Response> {
    caller.require(Scope::Submit)?;
    let source = caller.find(&state, id).await?;
    let remixed = async {
        let prompt = fields.string("prompt")?.ok_or_else(|| {
            Error::param(Code::MissingRequiredParameter, "prompt", "'prompt' must be given")
        })?;
        let truncate = fields.boolean("truncate_prompt")?.unwrap_or(false);
        fields.finish()?;
        if source.status != Status::Completed {
            let message = format!("the video is {}; only a completed one can be remixed", source.status);
            return Err(Error::refused(Code::VideoNotReady, message));
        }
        check_prompt("prompt", &prompt, state.limits.max_prompt_chars)?;
        let submission = submission(&headers, "remix", &(id, &prompt, truncate))?;
        let mut draft = Draft::new(card(&state, &source)?, source.params);
        draft.job.params.prompt = prompt;
        draft.truncate = truncate;
        draft.job.remixed_from = Some(id);
        submit(&state, &caller, draft, submission).await
    };
    Ok(made_response(&state, counted(remixed.await)?))
}

/// Make a video once more.
///
/// As the first time, with the same seed and under a new id. The other must have ended, however it did.
#[utoipa::path(
    post,
    path = "/v1/videos/{video_id}/retry",
    tag = "videos",
    operation_id = "retry_video",
    params(VideoPathParams, IdempotencyHeader),
    responses(
        (status = OK, description = "The new video.", body = Video, headers(
            ("location" = String, description = "Path of the video."),
            ("openai-poll-after-ms" = Option<u64>, description = "How often to poll, in milliseconds, while it is not settled."),
            ("idempotent-replayed" = Option<bool>, description = "`true` if an earlier request made the video."),
        )),
        RetryErrors,
    ),
)]
pub(crate) async fn retry(
    State(state): State<AppState>,
    caller: Caller,
    VideoPath(id): VideoPath,
    headers: HeaderMap,
) -> Result<Response> {
    caller.require(Scope::Submit)?;
    let source = caller.find(&state, id).await?;
    let retried = async {
        if !source.status.is_terminal() {
            let message =
                format!("the video is {}; only one that has ended can be made once more", source.status);
            return Err(Error::refused(Code::VideoNotReady, message));
        }
        let submission = submission(&headers, "retry", &id)?;
        let mut draft = Draft::new(card(&state, &source)?, source.params);
        // Cut then, cut now.
        draft.truncate = source.prompt_truncated;
        draft.job.priority = source.priority;
        draft.job.metadata = source.metadata;
        draft.job.webhook_url = source.webhook_url;
        draft.job.sent_prompt = source.sent_prompt;
        draft.job.retry_of = Some(id);
        submit(&state, &caller, draft, submission).await
    };
    Ok(made_response(&state, counted(retried.await)?))
}

/// The model of an earlier video, which this server may have no more.
fn card<'a>(state: &'a AppState, source: &queue::Video) -> Result<&'a crate::model::ModelCard> {
    state.catalog.get(&source.model).ok_or_else(|| model_not_found(&source.model, &state.catalog))
}

/// Counts a refusal by its code.
fn counted(made: Result<Enqueued>) -> Result<Enqueued> {
    made.inspect_err(|error| {
        metrics::counter!("cogvideox_jobs_rejected_total", "reason" => error.code().as_str()).increment(1);
    })
}

fn made_response(state: &AppState, enqueued: Enqueued) -> Response {
    let Enqueued { video: row, replayed } = enqueued;
    let mut headers = poll_headers(state, &row);
    headers.insert(header::LOCATION, ascii(path(row.id)));
    if replayed {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    (headers, Json(show(state, row))).into_response()
}
