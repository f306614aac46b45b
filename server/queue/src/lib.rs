//! The job table: a durable SQLite queue of videos, and the news about them.
//!
//! A video is enqueued at the door, claimed by a worker under a lease, and settled exactly once. The status moves
//! only along these lines:
//!
//! ```text
//! queued ──claim──> in_progress ──complete──> completed
//!   │  ^                │ ├──────fail───────> failed
//!   │  └─requeue/rescue─┘ └────cancelled────> cancelled
//!   └──────────────request_cancel───────────────^
//! ```
//!
//! This is the only crate that speaks SQL. It knows nothing of HTTP, of models or of the files that a worker writes:
//! an [`Output`] is a key, a length and a digest, whatever lies behind them.
//!
//! One process owns a database (see [`Queue::open`]), so the news travels in memory, and every change is published
//! after its commit and in the order of the commits.

mod claims;
mod clock;
mod database;
mod door;
mod enqueue;
mod error;
mod estimate;
mod events;
mod hub;
mod keys;
mod lease;
mod line;
mod metrics;
mod next;
mod outbox;
mod pace;
mod previews;
mod queue;
mod rescue;
mod retention;
mod row;
mod settle;
mod subscription;
mod upkeep;
mod video;

pub use clock::{Clock, SystemClock};
pub use error::{Error, Result, Unwritable};
pub use events::{DurableEvent, EventKind, Topic};
pub use hub::{Heard, News, NewsItem};
pub use keys::{ApiKey, ApiKeys, KeyId, KeyLimits, NewKey, Scope};
pub use lease::{Claim, Estimate, Heartbeat, Lease, Owner, Progress, Rescued};
pub use outbox::{Delivery, DeliveryOutcome, Outbox};
pub use previews::PreviewWish;
pub use queue::{Counts, ListQuery, Order, Page, Queue, QueueOptions};
pub use subscription::Subscription;
pub use tokio_util::sync::CancellationToken;
pub use upkeep::{DatabaseFile, Schema};
pub use video::{
    Enqueued, Finished, JobError, Lora, NewVideo, Output, OutputFile, Stage, State, Status, Submission,
    Timings, Video, VideoId, VideoParams,
};
