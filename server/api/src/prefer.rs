//! Waiting for a video to end: because the client prefers to (`Prefer: wait=N`, RFC 7240), or to delete it.
//!
//! Nobody who waits here waits for the model: a subscription to the queue's news, made before the row was read,
//! tells of the end.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use queue::{EventKind, Heard, News, Subscription, VideoId};
use tokio::time::timeout;

use crate::error::Result;
use crate::state::{AppState, Health};

const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Tells what became of a preference.
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// How long the client prefers to wait for the video, in whole seconds and at most `most`; none if it does not. A
/// preference that cannot be read is none, as the RFC has it.
pub(crate) fn wait(headers: &HeaderMap, most: Duration) -> Option<Duration> {
    let preferences = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let seconds = preferences.flat_map(|value| value.split(',')).find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        let value = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("wait").then(|| value.parse::<u64>().ok())
    });
    let seconds = seconds.flatten()?.min(most.as_secs());
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Waits until the video has ended, and says whether it has: not if the time is up, and not if the server shuts down.
/// `news` must be older than what the caller knows of the video.
pub(crate) async fn ended(
    state: &AppState,
    mut news: Subscription,
    id: VideoId,
    within: Duration,
) -> Result<bool> {
    let mut health = state.health.clone();
    let ended = async {
        loop {
            match news.recv().await {
                None => return Ok(true),
                Some(Heard::Lagged) if state.queue.get(id).await?.status.is_terminal() => return Ok(true),
                Some(Heard::News(item)) if is_end(&item.news) => return Ok(true),
                Some(_) => {}
            }
        }
    };
    let stopping = async {
        if health.wait_for(|health| *health == Health::Draining).await.is_err() {
            // Nobody is left who could say so.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = timeout(within, ended) => ended.unwrap_or(Ok(false)),
        () = stopping => Ok(false),
    }
}

fn is_end(news: &News) -> bool {
    matches!(news, News::Event { event, .. } if event.kind.is_end() || event.kind == EventKind::Deleted)
}
