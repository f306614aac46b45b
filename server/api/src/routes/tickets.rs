//! Giving out tickets for event streams.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use queue::Scope;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::error::Result;
use crate::openapi::TicketErrors;
use crate::state::AppState;
use crate::tickets::LIFETIME_MS;

/// A ticket for one event stream.
#[derive(Serialize, ToSchema)]
pub(crate) struct Ticket {
    /// For `?ticket=`, once.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    ticket: String,
    /// Unix seconds until which it is good.
    expires_at: i64,
}

/// Get a ticket for an event stream.
///
/// Good for opening one stream within 60 s with the rights of the key that asked: for browsers, whose `EventSource`
/// can send no key. A request that shows it uses it up, also one that is refused.
#[utoipa::path(
    post,
    path = "/v1/tickets",
    tag = "videos",
    operation_id = "create_ticket",
    responses((status = OK, description = "The ticket.", body = Ticket), TicketErrors),
)]
pub(crate) async fn create(State(state): State<AppState>, caller: Caller) -> Result<impl IntoResponse> {
    caller.require(Scope::Read)?;
    let now_ms = state.clock.now_ms();
    let ticket = state.tickets.issue(caller.owner(), now_ms)?;
    let expires_at = (now_ms + LIFETIME_MS).div_euclid(1000);
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(Ticket { ticket, expires_at })))
}
