//! A video's progress as server-sent events.
//!
//! The queue's news are subscribed to before the row is read, so nothing falls between; a reader too slow for the
//! news is brought up to date from the row, which has the end if there is one. Leaving the stream cancels nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use queue::{EventKind, Heard, News, Progress, Status, Subscription, Topic, VideoId};
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};

use crate::error::{Code, Result};
use crate::openapi::LookupErrors;
use crate::query::{VideoPath, VideoPathParams};
use crate::state::{AppState, Health};
use crate::video::{VideoStage, show};

const KEEP_ALIVE: Duration = Duration::from_secs(15);
const RECONNECT_AFTER: Duration = Duration::from_secs(3);

/// One sort of event: its name, what it means and the schema of its data.
struct Kind {
    name: &'static str,
    meaning: &'static str,
    data: &'static str,
}

const fn kind(name: &'static str, meaning: &'static str, data: &'static str) -> Kind {
    Kind { name, meaning, data }
}

const SNAPSHOT: Kind =
    kind("video.snapshot", "The video as it is: first of all, and again after events were lost.", "Video");
const STARTED: Kind = kind("video.started", "The worker began it.", "Video");
const QUEUED: Kind = kind("video.queued", "The worker gave it back; it waits again.", "Video");
const CANCELLING: Kind = kind("video.cancelling", "It is to be stopped.", "Video");
const STAGE: Kind = kind("video.stage", "The worker does something else now.", "StageEvent");
const PROGRESS: Kind =
    kind("video.progress", "A denoising step is done, or a part of another stage.", "ProgressEvent");
const COMPLETED: Kind = kind("video.completed", "The file can be downloaded; the stream ends.", "Video");
const FAILED: Kind = kind("video.failed", "It could not be made; the stream ends.", "Video");
const CANCELLED: Kind = kind("video.cancelled", "It was stopped; the stream ends.", "Video");
const ERROR: Kind = kind("error", "The stream ends before the video does; connect again.", "StreamError");

impl Kind {
    fn event(&self, data: &impl Serialize) -> Event {
        let data = serde_json::to_string(data).expect("plain structs with string keys become JSON");
        Event::default().event(self.name).data(data)
    }

    fn schema(&self) -> Object {
        let data = ObjectBuilder::new()
            .schema_type(Type::String)
            .content_media_type("application/json")
            .content_schema(Some(Ref::from_schema_name(self.data)));
        let name = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([self.name]));
        let retry = ObjectBuilder::new().schema_type(Type::Integer);
        ObjectBuilder::new()
            .description(Some(self.meaning))
            .property("event", name)
            .property("data", data)
            .property("retry", retry)
            .required("event")
            .required("data")
            .build()
    }
}

/// Documents one event of the stream.
pub(crate) struct VideoEvent;

impl utoipa::PartialSchema for VideoEvent {
    fn schema() -> RefOr<Schema> {
        let kinds =
            [SNAPSHOT, STARTED, QUEUED, CANCELLING, STAGE, PROGRESS, COMPLETED, FAILED, CANCELLED, ERROR];
        let one_of = kinds.iter().fold(OneOfBuilder::new(), |one_of, kind| one_of.item(kind.schema()));
        Schema::from(one_of).into()
    }
}

impl ToSchema for VideoEvent {}

/// The data of `video.stage`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StageEvent {
    /// What is being done.
    stage: VideoStage,
}

/// The data of `video.progress`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProgressEvent {
    /// Denoising steps done.
    step: u32,
    /// Denoising steps in all.
    total_steps: u32,
    /// Percent of the whole video.
    #[schema(maximum = 99)]
    percent: u8,
    /// Seconds the last step took, once two were seen.
    #[schema(required)]
    step_seconds: Option<f64>,
    /// Seconds until the video is done, as far as its progress so far tells.
    #[schema(required)]
    eta_seconds: Option<f64>,
}

/// The data of `error`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamError {
    /// For programs.
    code: String,
    /// For people.
    message: String,
}

/// Follow a video.
///
/// Server-sent events: `video.snapshot` with the video first, then what happens to it, and at its end
/// `video.completed`, `video.failed` or `video.cancelled` with the video, whereupon the stream ends. A comment
/// every 15 s keeps the connection open. Closing the stream does not stop the video.
#[utoipa::path(
    get,
    path = "/v1/videos/{video_id}/events",
    tag = "videos",
    operation_id = "follow_video",
    params(VideoPathParams),
    responses(
        (status = OK, description = "The events; each is one `VideoEvent`, its name in `event:` and its data in `data:`.",
            content_type = "text/event-stream", body = VideoEvent),
        LookupErrors,
    ),
)]
pub(crate) async fn follow(State(state): State<AppState>, VideoPath(id): VideoPath) -> Result<Response> {
    let mut news = state.queue.subscribe(Topic::Video(id));
    let (row, seq) = state.queue.snapshot(id).await?;
    news.seen(seq, Some(&row));
    let mut follower = Follower {
        id,
        news,
        health: state.health.clone(),
        pending: VecDeque::new(),
        ended: false,
        row: row.clone(),
        stage: None,
        state,
    };
    follower.snapshot(row).await?;
    if let Some(first) = follower.pending.front_mut() {
        *first = std::mem::take(first).retry(RECONNECT_AFTER);
    }
    let stream = Sse::new(events(follower)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("ping"));
    let headers = [(header::CACHE_CONTROL, "no-store"), (HeaderName::from_static("x-accel-buffering"), "no")];
    Ok((headers, stream).into_response())
}

fn events(follower: Follower) -> impl Stream<Item = std::result::Result<Event, Infallible>> {
    futures_util::stream::unfold(follower, async |mut follower| {
        loop {
            if let Some(event) = follower.pending.pop_front() {
                return Some((Ok(event), follower));
            }
            if follower.ended {
                return None;
            }
            follower.advance().await;
        }
    })
}

/// One reader of one video's news.
struct Follower {
    state: AppState,
    id: VideoId,
    news: Subscription,
    health: watch::Receiver<Health>,
    /// What is to be sent next.
    pending: VecDeque<Event>,
    /// Whether nothing follows what is pending.
    ended: bool,
    /// The video as last said.
    row: queue::Video,
    stage: Option<queue::Stage>,
}

impl Follower {
    /// Waits for something to happen and queues what is to be said about it.
    async fn advance(&mut self) {
        let news = tokio::select! {
            // What has happened goes before the shutdown.
            biased;
            news = self.news.recv() => news,
            () = draining(&mut self.health) => {
                return self.break_off(Code::ServerDraining, "the server is shutting down");
            }
        };
        let said = match news {
            None => {
                self.ended = true;
                return;
            }
            Some(Heard::Lagged) => match self.state.queue.snapshot(self.id).await {
                Ok((row, seq)) => {
                    self.news.seen(seq, Some(&row));
                    self.snapshot(row).await
                }
                Err(error) => Err(error.into()),
            },
            Some(Heard::News(item)) => self.hear(&item.news).await,
        };
        if let Err(error) = said {
            tracing::warn!(job.id = %self.id, %error, "event stream broke off");
            self.break_off(Code::Internal, "the server could not read the video");
        }
    }

    async fn hear(&mut self, news: &News) -> Result<()> {
        match news {
            News::Progress { progress, step_ms, .. } => self.progress(*progress, *step_ms).await,
            News::Preview { .. } => Ok(()),
            News::Event { event, video } => match event.kind {
                EventKind::Started => self.say(video, &STARTED).await,
                EventKind::Queued | EventKind::Moved => self.say(video, &QUEUED).await,
                EventKind::Cancelling => self.say(video, &CANCELLING).await,
                _ => self.settled(video).await,
            },
        }
    }

    async fn snapshot(&mut self, row: queue::Video) -> Result<()> {
        self.stage = row.stage;
        self.say(&row, &SNAPSHOT).await?;
        if row.status.is_terminal() { self.settled(&row).await } else { Ok(()) }
    }

    async fn settled(&mut self, row: &queue::Video) -> Result<()> {
        self.ended = true;
        let end = match row.status {
            Status::Failed => &FAILED,
            Status::Cancelled => &CANCELLED,
            _ => &COMPLETED,
        };
        self.say(row, end).await
    }

    async fn say(&mut self, row: &queue::Video, kind: &Kind) -> Result<()> {
        self.row = row.clone();
        if row.status != Status::InProgress {
            // The next attempt begins at the beginning.
            self.stage = None;
        }
        let video = show(&self.state, row.clone()).await?;
        self.pending.push_back(kind.event(&video));
        Ok(())
    }

    fn break_off(&mut self, code: Code, message: &str) {
        self.ended = true;
        let error = StreamError { code: code.as_str().to_owned(), message: message.to_owned() };
        self.pending.push_back(ERROR.event(&error));
    }

    async fn progress(&mut self, progress: Progress, step_ms: Option<f64>) -> Result<()> {
        if self.stage != Some(progress.stage) {
            self.stage = Some(progress.stage);
            self.pending.push_back(STAGE.event(&StageEvent { stage: progress.stage.into() }));
        }
        let eta_ms = self.state.queue.estimate(&self.row).await?.eta_ms;
        let event = ProgressEvent {
            step: progress.step,
            total_steps: progress.total_steps,
            percent: progress.percent,
            step_seconds: step_ms.map(|ms| ms / 1000.0),
            eta_seconds: eta_ms.map(|ms| ms as f64 / 1000.0),
        };
        self.pending.push_back(PROGRESS.event(&event));
        Ok(())
    }
}

/// Returns when the server shuts down.
async fn draining(health: &mut watch::Receiver<Health>) {
    if health.wait_for(|health| *health == Health::Draining).await.is_err() {
        // Nobody is left who could say so.
        std::future::pending::<()>().await;
    }
}
