//! Making, listing, looking at, stopping and deleting videos.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::IntoResponse;
use queue::{Enqueued, EventKind, Heard, ListQuery, News, Order, Topic, VideoId};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::create::{CreateVideoRequest, Door};
use crate::error::{Code, Error, Result, ascii};
use crate::fields::{Fields, quoted};
use crate::openapi::{CancelErrors, CreateErrors, DeleteErrors, ListErrors, LookupErrors, UnsupportedErrors};
use crate::query::{Query, VideoPath, VideoPathParams};
use crate::state::AppState;
use crate::video::{Video, path, show};

const POLL_AFTER_MS: HeaderName = HeaderName::from_static("openai-poll-after-ms");

/// Make a video.
///
/// Answers at once with the queued video; follow it at `urls.events` or poll it. Every field may also come as a
/// form field; objects then have bracketed names, as in `metadata[key]`.
#[utoipa::path(
    post,
    path = "/v1/videos",
    tag = "videos",
    operation_id = "create_video",
    request_body(content(
        (CreateVideoRequest = "multipart/form-data"),
        (CreateVideoRequest = "application/json"),
        (CreateVideoRequest = "application/x-www-form-urlencoded"),
    )),
    responses(
        (status = OK, description = "The video waits in the queue.", body = Video, headers(
            ("location" = String, description = "Path of the video."),
            ("openai-poll-after-ms" = u64, description = "How often to poll, in milliseconds."),
        )),
        CreateErrors,
    ),
)]
pub(crate) async fn create(State(state): State<AppState>, fields: Fields) -> Result<impl IntoResponse> {
    let (request, input_reference) = CreateVideoRequest::from_fields(fields)?;
    let door = Door {
        catalog: &state.catalog,
        prompt_tokens: &*state.prompt_tokens,
        max_prompt_chars: state.limits.max_prompt_chars,
    };
    let job = request.into_job(input_reference.is_some(), &door)?;
    state.accepts_videos()?;
    let Enqueued { video: row, .. } = state.queue.enqueue(job, None).await.map_err(|error| match error {
        queue::Error::QueueFull { .. } | queue::Error::KeyQueueFull { .. } => Error::TryLater {
            code: Code::QueueFull,
            message: error.to_string(),
            after: state.limits.retry_after,
        },
        error => error.into(),
    })?;
    tracing::info!(job.id = %row.id, model = row.model, "video queued");
    let location = [(header::LOCATION, ascii(path(row.id)))];
    Ok((location, poll_headers(&state, &row), Json(show(&state, row).await?)))
}

fn poll_headers(state: &AppState, row: &queue::Video) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if !row.status.is_terminal() {
        headers.insert(POLL_AFTER_MS, ascii(state.limits.poll_after.as_millis().to_string()));
    }
    headers
}

/// One page of videos.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VideoList {
    /// Always `list`.
    object: ListTag,
    /// The videos.
    data: Vec<Video>,
    /// Id of the first of them.
    #[schema(required)]
    first_id: Option<String>,
    /// Id of the last of them: the next page's `after`.
    #[schema(required)]
    last_id: Option<String>,
    /// Whether there is a next page.
    has_more: bool,
}

/// The `object` of a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ListTag {
    /// A list.
    List,
}

/// List videos.
///
/// In the order of their creation, the newest first unless `order=asc`.
#[utoipa::path(
    get,
    path = "/v1/videos",
    tag = "videos",
    operation_id = "list_videos",
    params(
        ("limit" = Option<u32>, Query, description = "Videos a page; 20 by default.", minimum = 1, maximum = 100),
        ("order" = Option<SortOrder>, Query, description = "`desc` by default."),
        ("after" = Option<String>, Query, description = "The last id of the page before."),
    ),
    responses((status = OK, description = "A page of videos.", body = VideoList), ListErrors),
)]
pub(crate) async fn list(State(state): State<AppState>, Query(mut fields): Query) -> Result<Json<VideoList>> {
    let limit = fields.integer("limit", &(1..=100), Code::InvalidLimit)?.unwrap_or(20);
    let order = match fields.string("order")?.as_deref() {
        None | Some("desc") => Order::Descending,
        Some("asc") => Order::Ascending,
        Some(other) => {
            let message = format!("'order' must be asc or desc, found {}", quoted(other));
            return Err(Error::param(Code::InvalidOrder, "order", message));
        }
    };
    let after = fields.string("after")?;
    fields.finish()?;
    let after = match after {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| unknown_cursor(&text))?),
    };
    let page =
        state.queue.list(ListQuery { after, limit, order, owner: None }).await.map_err(
            |error| match error {
                queue::Error::NotFound(id) => unknown_cursor(&id.to_string()),
                error => error.into(),
            },
        )?;
    let mut data = Vec::with_capacity(page.videos.len());
    for row in page.videos {
        data.push(show(&state, row).await?);
    }
    Ok(Json(VideoList {
        object: ListTag::List,
        first_id: data.first().map(|video| video.id.clone()),
        last_id: data.last().map(|video| video.id.clone()),
        has_more: page.has_more,
        data,
    }))
}

fn unknown_cursor(text: &str) -> Error {
    let message = format!("'after' must be the id of a video, no video has the id {}", quoted(text));
    Error::param(Code::InvalidCursor, "after", message)
}

/// The order of a list.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "documents the parameter, whose refusal has its own words")]
pub(crate) enum SortOrder {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}

/// Look at a video.
///
/// Always 200 for a known video, also when it failed or was cancelled.
#[utoipa::path(
    get,
    path = "/v1/videos/{video_id}",
    tag = "videos",
    operation_id = "get_video",
    params(VideoPathParams),
    responses(
        (status = OK, description = "The video.", body = Video, headers(
            ("openai-poll-after-ms" = Option<u64>, description = "How often to poll, while it is not settled."),
        )),
        LookupErrors,
    ),
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    VideoPath(id): VideoPath,
) -> Result<impl IntoResponse> {
    let row = state.queue.get(id).await?;
    Ok((poll_headers(&state, &row), Json(show(&state, row).await?)))
}

/// Stop a video.
///
/// A waiting video is cancelled at once; a running one shows the state `cancelling` until the worker has
/// stopped. A settled video is left as it is.
#[utoipa::path(
    post,
    path = "/v1/videos/{video_id}/cancel",
    tag = "videos",
    operation_id = "cancel_video",
    params(VideoPathParams),
    responses((status = OK, description = "The video.", body = Video), CancelErrors),
)]
pub(crate) async fn cancel(State(state): State<AppState>, VideoPath(id): VideoPath) -> Result<Json<Video>> {
    let row = state.queue.request_cancel(id, None).await?;
    Ok(Json(show(&state, row).await?))
}

/// What is left of a deleted video.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeletedVideo {
    /// Its id.
    id: String,
    /// Always `video.deleted`.
    object: DeletedTag,
    /// Always true.
    deleted: bool,
}

/// The `object` of a deleted video.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) enum DeletedTag {
    /// A deleted video.
    #[serde(rename = "video.deleted")]
    VideoDeleted,
}

/// Delete a video and its file.
///
/// A video that is not settled is cancelled first; if the worker does not stop in time the answer is 409, and
/// the same request works a little later.
#[utoipa::path(
    delete,
    path = "/v1/videos/{video_id}",
    tag = "videos",
    operation_id = "delete_video",
    params(VideoPathParams),
    responses((status = OK, description = "It is gone.", body = DeletedVideo), DeleteErrors),
)]
pub(crate) async fn delete(
    State(state): State<AppState>,
    VideoPath(id): VideoPath,
) -> Result<Json<DeletedVideo>> {
    settle(&state, id).await?;
    let row = state.queue.delete(id, None).await?;
    // The row first: a file without a row is swept at the next start, a row without a file would be a lie.
    for file in row.output.iter().flat_map(queue::Output::files) {
        match state.store.delete(&file.key).await {
            Ok(()) | Err(store::Error::NotFound(_)) => {}
            Err(error) => {
                tracing::warn!(job.id = %id, key = file.key, %error, "file of a deleted video is left behind");
            }
        }
    }
    Ok(Json(DeletedVideo { id: id.to_string(), object: DeletedTag::VideoDeleted, deleted: true }))
}

/// Cancels the video and waits until it is settled.
async fn settle(state: &AppState, id: VideoId) -> Result<()> {
    // Before the request: a worker that settles at once must be heard.
    let mut news = state.queue.subscribe(Topic::Video(id));
    if state.queue.request_cancel(id, None).await?.status.is_terminal() {
        return Ok(());
    }
    let settled = async {
        loop {
            match news.recv().await {
                None => return Ok(()),
                Some(Heard::Lagged) if state.queue.get(id).await?.status.is_terminal() => return Ok(()),
                Some(Heard::News(item)) if is_end(&item.news) => return Ok(()),
                Some(_) => {}
            }
        }
    };
    timeout(state.limits.delete_wait, settled).await.unwrap_or_else(|_| {
        Err(Error::TryLater {
            code: Code::CancellationInProgress,
            message: format!("the video '{id}' is being cancelled; delete it again when it is"),
            after: state.limits.poll_after,
        })
    })
}

fn is_end(news: &News) -> bool {
    matches!(news, News::Event { event, .. } if event.kind.is_end() || event.kind == EventKind::Deleted)
}

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
