//! Tickets: how a browser opens a stream without showing its API key in an address.
//!
//! A browser's `EventSource` sends no headers, and addresses end up in logs and histories. So it first asks for a
//! ticket, with its key, and opens the stream with that: once, and soon. Kept in memory only; a restarted server knows
//! none, and the page asks for another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use queue::KeyId;
use rand::TryRngCore as _;
use rand::rngs::OsRng;

use crate::auth::Caller;
use crate::error::{Code, Error, Result};
use crate::hex::hex;
use crate::state::AppState;

const SECRET_BYTES: usize = 32;
/// How long a ticket is good for.
pub(crate) const LIFETIME_MS: i64 = 60_000;
/// So many tickets of one key may wait to be used, and so many of all keys.
const MOST_OF_A_KEY: usize = 1024;
const MOST: usize = 65_536;

/// The tickets that were given out and not used yet. Clones share them; one for a server.
#[derive(Debug, Clone, Default)]
pub struct Tickets(Arc<Mutex<HashMap<String, Ticket>>>);

struct Ticket {
    key: Option<KeyId>,
    expires_at_ms: i64,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("expires_at_ms", &self.expires_at_ms).finish_non_exhaustive()
    }
}

impl Tickets {
    /// A new ticket for this key, or for somebody without.
    ///
    /// # Errors
    /// Refused with `too_many_tickets` while as many wait to be used as may.
    pub(crate) fn issue(&self, key: Option<KeyId>, now_ms: i64) -> Result<String> {
        let mut secret = [0; SECRET_BYTES];
        OsRng.try_fill_bytes(&mut secret).map_err(|error| Error::Read(std::io::Error::other(error)))?;
        let text = hex(&secret);
        let mut tickets = self.lock();
        tickets.retain(|_, ticket| ticket.expires_at_ms > now_ms);
        let own = tickets.values().filter(|ticket| ticket.key == key).count();
        if own >= MOST_OF_A_KEY || tickets.len() >= MOST {
            return Err(Error::TryLater {
                code: Code::TooManyTickets,
                message: format!("{own} tickets wait to be used already"),
                after: std::time::Duration::from_millis(LIFETIME_MS as u64),
            });
        }
        tickets.insert(text.clone(), Ticket { key, expires_at_ms: now_ms + LIFETIME_MS });
        Ok(text)
    }

    /// Uses a ticket up, whatever comes of it; none if there is none, or it is no longer good.
    fn redeem(&self, text: &str, now_ms: i64) -> Option<Ticket> {
        self.lock().remove(text).filter(|ticket| ticket.expires_at_ms > now_ms)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Ticket>> {
        // Nothing panics while holding it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever opens a stream: known by a ticket if there is one, else as everywhere.
pub(crate) struct Listener(pub(crate) Caller);

impl FromRequestParts<AppState> for Listener {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self> {
        let query = parts.uri.query().unwrap_or_default();
        let mut tickets = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "ticket");
        let Some((_, text)) = tickets.next() else {
            return Caller::from_request_parts(parts, state).await.map(Self);
        };
        let refused = || Error::refused(Code::InvalidTicket, "this ticket was used, is too old or never was");
        let ticket = state.tickets.redeem(&text, state.clock.now_ms()).ok_or_else(refused)?;
        match ticket.key {
            Some(key) => {
                let key = state.api_keys.active(&key).await?.ok_or_else(refused)?;
                Ok(Self(Caller::of_key(key)))
            }
            // From when there were no keys: good for what everybody may do.
            None => Caller::from_request_parts(parts, state).await.map(Self),
        }
    }
}
