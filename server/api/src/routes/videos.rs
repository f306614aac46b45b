//! Listing, looking at, moving, stopping and deleting videos.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use axum::response::IntoResponse;
use queue::{ListQuery, Order, Scope, Topic, VideoId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::create::PRIORITIES;
use crate::error::{Code, Error, Result, ascii};
use crate::fields::{Fields, quoted};
use crate::openapi::{CancelErrors, ChangeErrors, DeleteErrors, ListErrors, LookupErrors};
use crate::prefer;
use crate::query::{Query, VideoPath, VideoPathParams};
use crate::state::AppState;
use crate::video::{Video, show, show_all};

const POLL_AFTER_MS: HeaderName = HeaderName::from_static("openai-poll-after-ms");

pub(crate) fn poll_headers(state: &AppState, row: &queue::Video) -> HeaderMap {
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
        ("state" = Option<String>, Query, description = "Only videos in these states, with commas between them.",
            example = "queued,in_progress"),
    ),
    responses((status = OK, description = "A page of videos.", body = VideoList), ListErrors),
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(mut fields): Query,
) -> Result<Json<VideoList>> {
    caller.require(Scope::Read)?;
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
    let states = match fields.string("state")? {
        None => Vec::new(),
        Some(words) => words.split(',').map(state_of_word).collect::<Result<_>>()?,
    };
    fields.finish()?;
    let after = match after {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| unknown_cursor(&text))?),
    };
    let query = ListQuery { after, limit, order, owner: caller.sees_only(), states };
    let page = state.queue.list(query).await.map_err(|error| match error {
        queue::Error::NotFound(id) => unknown_cursor(&id.to_string()),
        error => error.into(),
    })?;
    let data = show_all(&state, page.videos);
    Ok(Json(VideoList {
        object: ListTag::List,
        first_id: data.first().map(|video| video.id.clone()),
        last_id: data.last().map(|video| video.id.clone()),
        has_more: page.has_more,
        data,
    }))
}

fn state_of_word(word: &str) -> Result<queue::State> {
    queue::State::from_word(word).ok_or_else(|| {
        let message =
            format!("'state' must hold states of videos, such as queued,in_progress, found {}", quoted(word));
        Error::param(Code::InvalidState, "state", message)
    })
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
    caller: Caller,
    VideoPath(id): VideoPath,
) -> Result<impl IntoResponse> {
    caller.require(Scope::Read)?;
    let row = caller.find(&state, id).await?;
    Ok((poll_headers(&state, &row), Json(show(&state, row))))
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
pub(crate) async fn cancel(
    State(state): State<AppState>,
    caller: Caller,
    VideoPath(id): VideoPath,
) -> Result<Json<Video>> {
    caller.require(Scope::Submit)?;
    caller.find(&state, id).await?;
    let row = state.queue.request_cancel(id, caller.name()).await?;
    Ok(Json(show(&state, row)))
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

impl From<VideoId> for DeletedVideo {
    fn from(id: VideoId) -> Self {
        Self { id: id.to_string(), object: DeletedTag::VideoDeleted, deleted: true }
    }
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
    caller: Caller,
    VideoPath(id): VideoPath,
) -> Result<Json<DeletedVideo>> {
    caller.require(Scope::Submit)?;
    caller.find(&state, id).await?;
    settle(&state, &caller, id).await?;
    let row = state.queue.delete(id, caller.name()).await?;
    // The row first: a file without a row is swept at the next start, a row without a file would be a lie.
    for file in row.files() {
        match state.store.delete(&file.key).await {
            Ok(()) | Err(store::Error::NotFound(_)) => {}
            Err(error) => {
                tracing::warn!(job.id = %id, key = file.key, %error, "file of a deleted video is left behind");
            }
        }
    }
    Ok(Json(id.into()))
}

/// Cancels the video and waits until it is settled.
async fn settle(state: &AppState, caller: &Caller, id: VideoId) -> Result<()> {
    // Before the request: a worker that settles at once must be heard.
    let news = state.queue.subscribe(Topic::Video(id));
    let settled = state.queue.request_cancel(id, caller.name()).await?.status.is_terminal();
    if settled || prefer::ended(state, news, id, state.limits.delete_wait).await? {
        return Ok(());
    }
    Err(Error::TryLater {
        code: Code::CancellationInProgress,
        message: format!("the video '{id}' is being cancelled; delete it again when it is"),
        after: state.limits.poll_after,
    })
}

/// What may be changed of a video.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "documents the body, whose fields are refused in their own words")]
pub(crate) struct ChangeVideoRequest {
    /// Videos of higher priority are made first.
    #[schema(minimum = -100, maximum = 100)]
    priority: i32,
}

/// Change a waiting video's priority.
///
/// It goes to the end of those of its new priority.
#[utoipa::path(
    patch,
    path = "/v1/videos/{video_id}",
    tag = "videos",
    operation_id = "change_video",
    params(VideoPathParams),
    request_body(content(
        (ChangeVideoRequest = "application/json"),
        (ChangeVideoRequest = "application/x-www-form-urlencoded"),
        (ChangeVideoRequest = "multipart/form-data"),
    )),
    responses((status = OK, description = "The video.", body = Video), ChangeErrors),
)]
pub(crate) async fn change(
    State(state): State<AppState>,
    caller: Caller,
    VideoPath(id): VideoPath,
    mut fields: Fields,
) -> Result<Json<Video>> {
    caller.require(Scope::Submit)?;
    caller.find(&state, id).await?;
    let priority = fields.integer("priority", &PRIORITIES, Code::InvalidPriority)?;
    fields.finish()?;
    let priority = priority.ok_or_else(|| {
        Error::param(Code::MissingRequiredParameter, "priority", "'priority' must be given")
    })?;
    let row = match state.queue.set_priority(id, priority, caller.name()).await {
        Err(queue::Error::NotQueued { status, .. }) => {
            let message = format!("the video is {status}; only a waiting one has a priority to change");
            return Err(Error::refused(Code::VideoNotQueued, message));
        }
        row => row?,
    };
    Ok(Json(show(&state, row)))
}
