//! Who asks, and what they may: every handler of `/v1` that tells or changes something takes a [`Caller`].
//!
//! While no API key was ever made the server is open: everybody may do everything, whatever `Authorization` says
//! (the openai client insists on sending one), and only browsers are looked at. From the first key on a request needs
//! one. A video of another key does not exist for whoever is no admin.

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use queue::{ApiKey, KeyId, Scope, Topic, Video, VideoId};

use crate::browser;
use crate::error::{Code, Error, Result, video_not_found};
use crate::state::AppState;

/// Who asks: the owner of an API key, or anybody where there are none.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    key: Option<ApiKey>,
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self> {
        let caller = Self { key: authenticate(parts, state).await? };
        match &caller.key {
            None => browser::check(&parts.method, &parts.headers, &state.access)?,
            Some(key) => {
                tracing::Span::current().record("api_key.name", key.name.as_str());
                count_request(key, state)?;
            }
        }
        Ok(caller)
    }
}

impl Caller {
    /// The owner of a key that was shown before.
    pub(crate) fn of_key(key: ApiKey) -> Self {
        tracing::Span::current().record("api_key.name", key.name.as_str());
        Self { key: Some(key) }
    }

    /// Refuses whoever has no key for this.
    pub(crate) fn require(&self, scope: Scope) -> Result<()> {
        let Some(key) = self.key.as_ref().filter(|key| !key.allows(scope)) else { return Ok(()) };
        let word = match scope {
            Scope::Submit => "submit",
            Scope::Read => "read",
            Scope::Admin => "admin",
        };
        let message = format!("the API key '{}' lacks the scope '{word}'", key.name);
        Err(Error::refused(Code::PermissionDenied, message))
    }

    /// The key that a video made now belongs to.
    pub(crate) fn owner(&self) -> Option<KeyId> {
        self.key.as_ref().map(|key| key.id.clone())
    }

    /// The key whose videos are all that is seen; none for whoever sees everything.
    pub(crate) fn sees_only(&self) -> Option<KeyId> {
        self.key.as_ref().filter(|key| !key.allows(Scope::Admin)).map(|key| key.id.clone())
    }

    /// The news of everything that is seen.
    pub(crate) fn topic(&self) -> Topic {
        self.sees_only().map_or(Topic::All, Topic::Key)
    }

    /// Whether the video exists for this caller.
    pub(crate) fn may_see(&self, video: &Video) -> bool {
        self.sees_only().is_none_or(|key| video.owner.as_ref() == Some(&key))
    }

    /// The key's name, for the log and the audit trail.
    pub(crate) fn name(&self) -> Option<&str> {
        self.key.as_ref().map(|key| key.name.as_str())
    }

    /// The video, if it exists for this caller.
    pub(crate) async fn find(&self, state: &AppState, id: VideoId) -> Result<Video> {
        let video = state.queue.get(id).await?;
        if self.may_see(&video) { Ok(video) } else { Err(video_not_found(&id.to_string())) }
    }
}

/// The key of the request; none where none is needed.
async fn authenticate(parts: &Parts, state: &AppState) -> Result<Option<ApiKey>> {
    let sent = parts.headers.get(header::AUTHORIZATION);
    let bearer = sent.and_then(|value| value.to_str().ok()).and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    if let Some(token) = bearer
        && let Some(key) = state.api_keys.authenticate(token).await?
    {
        return Ok(Some(key));
    }
    if !state.api_keys.any().await? {
        return Ok(None);
    }
    Err(match sent {
        None => Error::refused(
            Code::MissingApiKey,
            "this server asks for an API key, as in 'Authorization: Bearer cvx_...'",
        ),
        Some(_) => {
            Error::refused(Code::InvalidApiKey, "this is not an API key of this server, or a revoked one")
        }
    })
}

fn count_request(key: &ApiKey, state: &AppState) -> Result<()> {
    let own = key.limits.requests_per_minute;
    let Some(most) = own.or(state.queue.options().key_limits.requests_per_minute) else { return Ok(()) };
    state.rates.count(&key.id, most, state.clock.now_ms()).map_err(|after| Error::TryLater {
        code: Code::RateLimitExceeded,
        message: format!("the API key '{}' may make {most} requests a minute", key.name),
        after,
    })
}
