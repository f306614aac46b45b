//! Following one video, or all that the caller sees, as server-sent events.
//!
//! Each subscribes before it reads anything, so nothing falls between; what is told then is `sse`'s business.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use queue::{Scope, Topic, VideoId};

use crate::auth::Caller;
use crate::error::{Code, Result, video_not_found};
use crate::fields::Fields;
use crate::openapi::{FollowAllErrors, FollowErrors};
use crate::query::{Query, VideoPath, VideoPathParams};
use crate::sse::cursor::cursor;
use crate::sse::kind::VideoEvent;
use crate::sse::reader::{Opening, Reader};
use crate::state::AppState;
use crate::tickets::Listener;

/// How a stream was asked for.
struct Wish {
    cursor: Option<i64>,
    previews: bool,
}

impl Wish {
    async fn of(state: &AppState, headers: &HeaderMap, mut fields: Fields) -> Result<Self> {
        // The caller was known by it.
        fields.string("ticket")?;
        let asked = fields.integer("preview", &(0..=1), Code::InvalidType)?.unwrap_or(0) == 1;
        let cursor = cursor(state, headers, &mut fields).await?;
        fields.finish()?;
        // Also where they are asked for, the operator may not want them made.
        Ok(Self { cursor, previews: asked && state.previews })
    }
}

/// Follow a video.
///
/// Server-sent events: `video.snapshot` with the video first, then, for whoever comes back with an id, what it has
/// missed, then what happens; the stream ends after `video.completed`, `video.failed` or `video.cancelled`. A finished
/// video is told with its end at once, and answered with 204 to whoever has that already, so that browsers stop coming
/// back. Ids rise; a cursor that is no id of this server is as good as none. A comment every 15 s keeps the
/// connection open. A slow reader is not told every step, but everything else. Closing the stream does not stop the
/// video.
#[utoipa::path(
    get,
    path = "/v1/videos/{video_id}/events",
    tag = "videos",
    operation_id = "follow_video",
    params(
        VideoPathParams,
        ("last-event-id" = Option<String>, Header, description = "The id of the last event that was received."),
        ("last_event_id" = Option<String>, Query, description = "The same, for those who cannot send the header."),
        ("after_seq" = Option<String>, Query, description = "The same."),
        ("preview" = Option<u8>, Query, description = "1 for `video.preview` events as well."),
        ("ticket" = Option<String>, Query, description = "A ticket, in place of an API key."),
    ),
    responses(
        (status = OK, description = "The events; each is one `VideoEvent`, its name in `event:` and its data in `data:`.",
            content_type = "text/event-stream", body = VideoEvent),
        (status = NO_CONTENT, description = "The video is finished, and the reader knows."),
        FollowErrors,
    ),
)]
pub(crate) async fn follow(
    State(state): State<AppState>,
    Listener(caller): Listener,
    VideoPath(id): VideoPath,
    Query(fields): Query,
    headers: HeaderMap,
) -> Result<Response> {
    caller.require(Scope::Read)?;
    let wish = Wish::of(&state, &headers, fields).await?;
    let place = state.streams.open(caller.owner(), &state.limits)?;
    let topic = Topic::Video(id);
    let news = state.queue.subscribe(topic.clone());
    let (snapshot, newest) = find(&state, &caller, id, wish.cursor).await?;
    let finished = snapshot.as_ref().is_none_or(|video| video.status.is_terminal());
    let cursor = match wish.cursor {
        Some(cursor) if finished && cursor >= newest => {
            return Ok((StatusCode::NO_CONTENT, [(header::CACHE_CONTROL, "no-store")]).into_response());
        }
        Some(cursor) => cursor,
        // Before the end, so that a reader who is cut off before it was told comes back for it.
        None if finished => (newest - 1).max(0),
        None => newest,
    };
    let previews = wish.previews.then(|| state.queue.wish_previews(topic.clone()));
    let behind = finished || cursor < newest;
    let opening = Opening { topic, news, place, previews, cursor, behind, finished, snapshot };
    Ok(respond(state, opening))
}

/// The video and the number of its newest event. Of a video that was deleted while a reader was away there is no
/// more than its events.
async fn find(
    state: &AppState,
    caller: &Caller,
    id: VideoId,
    cursor: Option<i64>,
) -> Result<(Option<queue::Video>, i64)> {
    match (state.queue.snapshot(id).await, cursor) {
        (Ok((video, newest)), _) if caller.may_see(&video) => Ok((Some(video), newest)),
        (Err(queue::Error::NotFound(_)), Some(cursor)) => {
            let missed = state.queue.events_after(&Topic::Video(id), cursor, 1).await?;
            let seen =
                |owner: Option<&queue::KeyId>| caller.sees_only().is_none_or(|key| owner == Some(&key));
            match missed.first() {
                Some(event) if seen(event.owner.as_ref()) => Ok((None, i64::MAX)),
                _ => Err(video_not_found(&id.to_string())),
            }
        }
        (Ok(_), _) => Err(video_not_found(&id.to_string())),
        (Err(error), _) => Err(error.into()),
    }
}

/// Follow all videos.
///
/// What happens to every video that the caller sees, from now on or, for whoever comes back with an id, from there
/// on. The same events as of one video, but no snapshots; and the stream does not end by itself.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "videos",
    operation_id = "follow_videos",
    params(
        ("last-event-id" = Option<String>, Header, description = "The id of the last event that was received."),
        ("last_event_id" = Option<String>, Query, description = "The same, for those who cannot send the header."),
        ("after_seq" = Option<String>, Query, description = "The same."),
        ("preview" = Option<u8>, Query, description = "1 for `video.preview` events as well."),
        ("ticket" = Option<String>, Query, description = "A ticket, in place of an API key."),
    ),
    responses(
        (status = OK, description = "The events; each is one `VideoEvent`, its name in `event:` and its data in `data:`.",
            content_type = "text/event-stream", body = VideoEvent),
        FollowAllErrors,
    ),
)]
pub(crate) async fn follow_all(
    State(state): State<AppState>,
    Listener(caller): Listener,
    Query(fields): Query,
    headers: HeaderMap,
) -> Result<Response> {
    caller.require(Scope::Read)?;
    let wish = Wish::of(&state, &headers, fields).await?;
    let place = state.streams.open(caller.owner(), &state.limits)?;
    let topic = caller.topic();
    let news = state.queue.subscribe(topic.clone());
    let (cursor, behind) = match wish.cursor {
        Some(cursor) => (cursor, true),
        None => (state.queue.last_event().await?, false),
    };
    let previews = wish.previews.then(|| state.queue.wish_previews(topic.clone()));
    let opening = Opening { topic, news, place, previews, cursor, behind, finished: false, snapshot: None };
    Ok(respond(state, opening))
}

fn respond(state: AppState, opening: Opening) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Reader::body(state, opening)).into_response()
}
