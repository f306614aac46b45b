//! Signed webhooks by the Standard Webhooks specification, in the form that OpenAI's clients unwrap.
//!
//! One call is one attempt; the caller keeps the outbox and asks [`retry_delay`] when to try again. It sends an event
//! under the same id each time, so that a receiver can drop what it has seen.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, Response, StatusCode, header};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::{
    Error, Policy, Resolver, Result, WebhookSecret, check_webhook_url, client, resolver::GuardedDns, text,
};

const PARTY: &str = "the webhook receiver";
const MAX_REDIRECTS: usize = 3;
/// How much of a refusal is read, for [`EXCERPT_CHARS`] of it to be told.
const EXCERPT_BYTES: usize = 1024;
const EXCERPT_CHARS: usize = 200;

/// The pauses after the first, second, .. failure, in seconds: 5 s to a day, and almost 32 hours in all.
const RETRY_DELAYS_S: [u64; 7] = [5, 30, 120, 600, 3600, 6 * 3600, 24 * 3600];

/// How long an attempt may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For each connection.
    pub connect: Duration,
    /// For all of it, redirects included.
    pub total: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), total: Duration::from_secs(15) }
    }
}

/// Something that happened to a video.
#[derive(Debug, Clone)]
pub struct Event {
    /// `evt_..`, the same at each attempt.
    pub id: String,
    /// Such as `video.completed`.
    pub kind: String,
    /// When it happened, in seconds since 1970.
    pub created_at_s: i64,
    /// The video that it happened to.
    pub video_id: String,
}

/// One attempt to tell of an event.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// Where to.
    pub url: &'a str,
    /// What signs it.
    pub secret: &'a WebhookSecret,
    /// What is told.
    pub event: &'a Event,
    /// The time of this attempt, in seconds since 1970. Receivers refuse what is minutes off.
    pub sent_at_s: i64,
}

/// Sends webhooks, only to where its policy allows.
#[derive(Debug, Clone)]
pub struct WebhookSender {
    client: Client,
    policy: Arc<Policy>,
    limits: Limits,
}

impl WebhookSender {
    /// A sender with the machine's name resolution, or the one given.
    ///
    /// # Errors
    /// [`Error::Tls`], such as for a machine without root certificates; [`Error::Client`].
    pub fn new(policy: Policy, limits: Limits, resolver: Resolver) -> Result<Self> {
        let policy = Arc::new(policy);
        let guard = GuardedDns { resolver, policy: Arc::clone(&policy) };
        let client = client::builder(limits.connect)?
            .dns_resolver(guard)
            // A kept connection would outlive the check of its address.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(Error::Client)?;
        Ok(Self { client, policy, limits })
    }

    /// Makes one attempt. Any status of 200 to 299 is success, and the body is not read then.
    ///
    /// # Errors
    /// [`Error::Gone`]: do not try again. [`Error::Invalid`] and [`Error::Forbidden`]: the URL is not one to call.
    /// [`Error::Answered`], [`Error::TooManyRedirects`], [`Error::Unreachable`], [`Error::TimedOut`]: worth another
    /// attempt.
    pub async fn deliver(&self, delivery: &Delivery<'_>) -> Result<()> {
        let url = check_webhook_url(delivery.url, &self.policy)?;
        let host = client::host(&url);
        let attempt = self.exchange(url, delivery);
        tokio::time::timeout(self.limits.total, attempt).await.unwrap_or_else(|_| {
            Err(Error::TimedOut { party: PARTY, host, limit_ms: self.limits.total.as_millis() })
        })
    }

    async fn exchange(&self, mut url: Url, delivery: &Delivery<'_>) -> Result<()> {
        let body = body(delivery.event);
        let signature = delivery.secret.sign(&delivery.event.id, delivery.sent_at_s, &body);
        for _ in 0..=MAX_REDIRECTS {
            let response = self
                .client
                .post(url.clone())
                .header(header::CONTENT_TYPE, "application/json")
                .header("webhook-id", &delivery.event.id)
                .header("webhook-timestamp", delivery.sent_at_s)
                .header("webhook-signature", &signature)
                .body(body.clone())
                .send()
                .await
                .map_err(|error| client::failed(PARTY, client::host(&url), error))?;
            match self.redirected(&url, &response)? {
                Some(next) => url = next,
                None => return settle(&url, response).await,
            }
        }
        Err(Error::TooManyRedirects { host: client::host(&url), limit: MAX_REDIRECTS })
    }

    /// Where a redirect leads, if that may be called. Only the two that keep the method are redirects of a webhook:
    /// after the others a client sends a GET, which tells the receiver nothing.
    fn redirected(&self, from: &Url, response: &Response) -> Result<Option<Url>> {
        if !matches!(response.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
            return Ok(None);
        }
        let unusable =
            |why: &str| Error::Unusable { party: PARTY, host: client::host(from), why: why.to_owned() };
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| unusable("a redirect without a location"))?;
        let next = from.join(location).map_err(|_| unusable("a redirect to something that is no URL"))?;
        check_webhook_url(next.as_str(), &self.policy).map(Some)
    }
}

/// How long to wait after so many failures in a row, the first counted as 1; `None` means to give up. Up to a fifth is
/// added by the event's id, so that what failed together is not all tried again together.
pub fn retry_delay(failures: u32, event_id: &str) -> Option<Duration> {
    let index = usize::try_from(failures.checked_sub(1)?).ok()?;
    let delay = Duration::from_secs(*RETRY_DELAYS_S.get(index)?);
    let digest = Sha256::new().chain_update(event_id).chain_update(failures.to_le_bytes()).finalize();
    Some(delay + delay / 5 * u32::from(digest[0]) / 255)
}

async fn settle(url: &Url, mut response: Response) -> Result<()> {
    let status = response.status();
    let host = client::host(url);
    if status.is_success() {
        return Ok(());
    }
    if status == StatusCode::GONE {
        return Err(Error::Gone { host });
    }
    // The status is what counts: a body that breaks off is no other failure.
    let body = client::read(&mut response, EXCERPT_BYTES).await.unwrap_or_default();
    let excerpt = match text::excerpt(&body, EXCERPT_CHARS) {
        empty if empty.is_empty() => empty,
        text => format!(": {text}"),
    };
    Err(Error::Answered { party: PARTY, host, status: status.as_u16(), excerpt })
}

fn body(event: &Event) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        id: &'a str,
        object: &'static str,
        #[serde(rename = "type")]
        kind: &'a str,
        created_at: i64,
        data: Data<'a>,
    }
    #[derive(Serialize)]
    struct Data<'a> {
        id: &'a str,
    }
    let Event { id, kind, created_at_s, video_id } = event;
    let body = Body { id, object: "event", kind, created_at: *created_at_s, data: Data { id: video_id } };
    serde_json::to_vec(&body).expect("strings and numbers are always JSON")
}
