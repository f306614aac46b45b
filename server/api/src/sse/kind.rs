//! The sorts of events of a stream: their names, what they mean, and their data.

use queue::EventKind;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};

use crate::video::VideoStage;

/// One sort of event: its name, what it means and the schema of its data.
pub(crate) struct Kind {
    name: &'static str,
    meaning: &'static str,
    data: &'static str,
}

const fn kind(name: &'static str, meaning: &'static str, data: &'static str) -> Kind {
    Kind { name, meaning, data }
}

pub(crate) const SNAPSHOT: Kind = kind(
    "video.snapshot",
    "The video as it is: first of all, and again for a reader that was too slow. Only when one video is followed.",
    "Video",
);
const QUEUED: Kind = kind("video.queued", "It waits: it is new, or the worker gave it back.", "Video");
const STARTED: Kind = kind("video.started", "The worker began it.", "Video");
const MOVED: Kind = kind("video.moved", "It has another priority.", "Video");
const CANCELLING: Kind = kind("video.cancelling", "It is to be stopped.", "Video");
pub(crate) const STAGE: Kind = kind("video.stage", "The worker does something else now.", "StageEvent");
pub(crate) const PROGRESS: Kind =
    kind("video.progress", "A denoising step is done, or a part of another stage.", "ProgressEvent");
pub(crate) const PREVIEW: Kind =
    kind("video.preview", "What it looks like so far; only with `preview=1`.", "PreviewEvent");
const COMPLETED: Kind = kind("video.completed", "The file can be downloaded. An end.", "Video");
const FAILED: Kind = kind("video.failed", "It could not be made. An end.", "Video");
const CANCELLED: Kind = kind("video.cancelled", "It was stopped. An end.", "Video");
const EXPIRED: Kind = kind("video.expired", "Its files were removed to make room. An end.", "Video");
const DELETED: Kind = kind("video.deleted", "It is gone. An end.", "DeletedVideo");
pub(crate) const ERROR: Kind =
    kind("error", "The stream ends, the video does not; connect again.", "StreamError");

impl Kind {
    /// How a durable event is told.
    pub(crate) fn of(kind: EventKind) -> &'static Self {
        match kind {
            EventKind::Queued => &QUEUED,
            EventKind::Started => &STARTED,
            EventKind::Cancelling => &CANCELLING,
            EventKind::Moved => &MOVED,
            EventKind::Completed => &COMPLETED,
            EventKind::Failed => &FAILED,
            EventKind::Cancelled => &CANCELLED,
            EventKind::Expired => &EXPIRED,
            EventKind::Deleted => &DELETED,
        }
    }

    /// The lines of an event, its id excepted.
    pub(crate) fn lines(&self, data: &str) -> String {
        format!("event: {}\ndata: {data}\n\n", self.name)
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
            .property("id", ObjectBuilder::new().schema_type(Type::String))
            .property("event", name)
            .property("data", data)
            .property("retry", retry)
            .required("event")
            .required("data")
            .build()
    }
}

/// Documents one event of a stream.
pub(crate) struct VideoEvent;

impl utoipa::PartialSchema for VideoEvent {
    fn schema() -> RefOr<Schema> {
        let kinds = [
            SNAPSHOT, QUEUED, STARTED, MOVED, STAGE, PROGRESS, PREVIEW, CANCELLING, COMPLETED, FAILED,
            CANCELLED, EXPIRED, DELETED, ERROR,
        ];
        let one_of = kinds.iter().fold(OneOfBuilder::new(), |one_of, kind| one_of.item(kind.schema()));
        Schema::from(one_of).into()
    }
}

impl ToSchema for VideoEvent {}

/// The data of `video.stage`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StageEvent {
    /// Whose.
    pub(crate) video_id: String,
    /// What is being done.
    pub(crate) stage: VideoStage,
}

/// The data of `video.progress`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProgressEvent {
    /// Whose.
    pub(crate) video_id: String,
    /// Denoising steps done.
    pub(crate) step: u32,
    /// Denoising steps in all.
    pub(crate) total_steps: u32,
    /// Percent of the whole video.
    #[schema(maximum = 99)]
    pub(crate) percent: u8,
    /// Seconds the last step took, once two were seen.
    #[schema(required)]
    pub(crate) step_seconds: Option<f64>,
    /// Seconds until the video is done, as far as measured.
    #[schema(required)]
    pub(crate) eta_seconds: Option<f64>,
}

/// The data of `video.preview`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PreviewEvent {
    /// Whose.
    pub(crate) video_id: String,
    /// Denoising steps done.
    pub(crate) step: u32,
    /// Always `image/jpeg`.
    pub(crate) content_type: &'static str,
    /// The picture, in base64.
    pub(crate) b64: String,
}

/// The data of `error`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamError {
    /// For programs.
    pub(crate) code: &'static str,
    /// For people.
    pub(crate) message: String,
}
