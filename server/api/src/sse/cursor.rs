//! Where a reader comes back to a stream: the last id that it was given.

use axum::http::HeaderMap;

use crate::error::Result;
use crate::fields::Fields;
use crate::state::AppState;

/// The number of the last durable event that the reader has, if it names one that there was. Anything else is
/// somebody who comes for the first time: a stream is never refused for its cursor.
pub(crate) async fn cursor(
    state: &AppState,
    headers: &HeaderMap,
    fields: &mut Fields,
) -> Result<Option<i64>> {
    let (older, oldest) = (fields.string("last_event_id")?, fields.string("after_seq")?);
    // A browser that comes back repeats the address that it first came to: its header is newer.
    let header = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
    let Some(seq) = header.or(older).or(oldest).as_deref().and_then(seq) else { return Ok(None) };
    Ok((seq <= state.queue.last_event().await?).then_some(seq))
}

/// The durable part of an id.
fn seq(id: &str) -> Option<i64> {
    let durable = id.split_once('.').map_or(id, |(durable, _step)| durable).trim();
    durable.parse().ok().filter(|seq| *seq >= 0)
}
