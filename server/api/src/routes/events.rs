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
use queue::{Progress, Status, Subscription, VideoId};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::error::{Code, Result};
use crate::openapi::LookupErrors;
use crate::query::{VideoPath, VideoPathParams};
use crate::state::{AppState, Health};
use crate::video::{Video, VideoStage, eta_seconds, show};

const KEEP_ALIVE: Duration = Duration::from_secs(15);
const RECONNECT_AFTER: Duration = Duration::from_secs(3);

/// One event of the stream: its name in `event`, its data, as JSON, in `data`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "event", content = "data")]
pub(crate) enum VideoEvent {
    /// The video as it is: first of all, and again after events were lost to a slow reader.
    #[serde(rename = "video.snapshot")]
    Snapshot(Box<Video>),
    /// The worker began it.
    #[serde(rename = "video.started")]
    Started(Box<Video>),
    /// The worker gave it back; it waits again.
    #[serde(rename = "video.queued")]
    Queued(Box<Video>),
    /// It is to be stopped.
    #[serde(rename = "video.cancelling")]
    Cancelling(Box<Video>),
    /// The worker does something else now.
    #[serde(rename = "video.stage")]
    Stage(StageEvent),
    /// A denoising step is done, or a part of another stage.
    #[serde(rename = "video.progress")]
    Progress(ProgressEvent),
    /// The file can be downloaded; the stream ends.
    #[serde(rename = "video.completed")]
    Completed(Box<Video>),
    /// It could not be made; the stream ends.
    #[serde(rename = "video.failed")]
    Failed(Box<Video>),
    /// It was stopped; the stream ends.
    #[serde(rename = "video.cancelled")]
    Cancelled(Box<Video>),
    /// The stream ends before the video does; connect again.
    #[serde(rename = "error")]
    Error(StreamError),
}

/// The data of `video.stage`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct StageEvent {
    /// What is being done.
    stage: VideoStage,
}

/// The data of `video.progress`.
#[derive(Debug, Clone, Serialize, ToSchema)]
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
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct StreamError {
    /// For programs.
    code: String,
    /// For people.
    message: String,
}

impl From<VideoEvent> for Event {
    fn from(event: VideoEvent) -> Self {
        let (name, data) = match &event {
            VideoEvent::Snapshot(video) => ("video.snapshot", json(video)),
            VideoEvent::Started(video) => ("video.started", json(video)),
            VideoEvent::Queued(video) => ("video.queued", json(video)),
            VideoEvent::Cancelling(video) => ("video.cancelling", json(video)),
            VideoEvent::Stage(stage) => ("video.stage", json(stage)),
            VideoEvent::Progress(progress) => ("video.progress", json(progress)),
            VideoEvent::Completed(video) => ("video.completed", json(video)),
            VideoEvent::Failed(video) => ("video.failed", json(video)),
            VideoEvent::Cancelled(video) => ("video.cancelled", json(video)),
            VideoEvent::Error(error) => ("error", json(error)),
        };
        Self::default().event(name).data(data)
    }
}

fn json(data: &impl Serialize) -> String {
    serde_json::to_string(data).expect("plain structs with string keys become JSON")
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
    let mut news = state.queue.subscribe(id);
    let row = state.queue.get(id).await?;
    news.seen(&row);
    let mut follower = Follower {
        id,
        news,
        health: state.health.clone(),
        pending: VecDeque::new(),
        ended: false,
        started_at_ms: None,
        stage: None,
        last_step: None,
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
    started_at_ms: Option<i64>,
    stage: Option<queue::Stage>,
    /// The last denoising step heard of, and when.
    last_step: Option<(u32, Instant)>,
}

impl Follower {
    /// Waits for something to happen and queues what is to be said about it.
    async fn advance(&mut self) {
        let news = tokio::select! {
            // What has happened goes before the shutdown.
            biased;
            news = self.news.recv() => news,
            () = draining(&mut self.health) => {
                return self.end(VideoEvent::Error(stream_error(Code::ServerDraining, "the server is shutting down")));
            }
        };
        let said = match news {
            None => {
                self.ended = true;
                return;
            }
            Some(queue::Event::Progress { progress, .. }) => {
                self.progress(progress);
                return;
            }
            Some(queue::Event::Lagged) => match self.state.queue.get(self.id).await {
                Ok(row) => {
                    self.news.seen(&row);
                    self.snapshot(row).await
                }
                Err(error) => Err(error.into()),
            },
            Some(queue::Event::Started(row)) => self.say(&row, VideoEvent::Started).await,
            Some(queue::Event::Requeued(row)) => self.say(&row, VideoEvent::Queued).await,
            Some(queue::Event::Cancelling(row)) => self.say(&row, VideoEvent::Cancelling).await,
            Some(queue::Event::Settled(row)) => self.settled(&row).await,
        };
        if let Err(error) = said {
            tracing::warn!(job.id = %self.id, %error, "event stream broke off");
            self.end(VideoEvent::Error(stream_error(Code::Internal, "the server could not read the video")));
        }
    }

    async fn snapshot(&mut self, row: queue::Video) -> Result<()> {
        self.stage = row.stage;
        self.say(&row, VideoEvent::Snapshot).await?;
        if row.status.is_terminal() { self.settled(&row).await } else { Ok(()) }
    }

    async fn settled(&mut self, row: &queue::Video) -> Result<()> {
        self.ended = true;
        let event = match row.status {
            Status::Failed => VideoEvent::Failed,
            Status::Cancelled => VideoEvent::Cancelled,
            _ => VideoEvent::Completed,
        };
        self.say(row, event).await
    }

    async fn say(&mut self, row: &queue::Video, event: fn(Box<Video>) -> VideoEvent) -> Result<()> {
        self.started_at_ms = row.started_at_ms;
        if row.status != Status::InProgress {
            // The next attempt begins at the beginning.
            self.stage = None;
            self.last_step = None;
        }
        let video = show(&self.state, row.clone()).await?;
        self.pending.push_back(event(Box::new(video)).into());
        Ok(())
    }

    fn end(&mut self, event: VideoEvent) {
        self.ended = true;
        self.pending.push_back(event.into());
    }

    fn progress(&mut self, progress: Progress) {
        if self.stage != Some(progress.stage) {
            self.stage = Some(progress.stage);
            self.pending.push_back(VideoEvent::Stage(StageEvent { stage: progress.stage.into() }).into());
        }
        let now_ms = self.state.clock.now_ms();
        let event = ProgressEvent {
            step: progress.step,
            total_steps: progress.total_steps,
            percent: progress.percent,
            step_seconds: self.step_seconds(progress),
            eta_seconds: eta_seconds(self.started_at_ms, now_ms, progress.percent),
        };
        self.pending.push_back(VideoEvent::Progress(event).into());
    }

    /// How long the last step took, by when this reader heard of it and of the one before.
    fn step_seconds(&mut self, progress: Progress) -> Option<f64> {
        let (step, now) = (progress.step, Instant::now());
        if progress.stage != queue::Stage::Denoise {
            self.last_step = None;
            return None;
        }
        let before = self.last_step.replace((step, now));
        let (last, at) = before.filter(|&(last, _)| last < step)?;
        let seconds = now.duration_since(at).as_secs_f64() / f64::from(step - last);
        Some((seconds * 1000.0).round() / 1000.0)
    }
}

fn stream_error(code: Code, message: &str) -> StreamError {
    StreamError { code: code.as_str().to_owned(), message: message.to_owned() }
}

/// Returns when the server shuts down.
async fn draining(health: &mut watch::Receiver<Health>) {
    if health.wait_for(|health| *health == Health::Draining).await.is_err() {
        // Nobody is left who could say so.
        std::future::pending::<()>().await;
    }
}
