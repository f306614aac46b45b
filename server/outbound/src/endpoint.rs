//! A JSON endpoint that the operator configured: trusted as to where it is, and not as to how long or how much it
//! answers. It is called with one POST, without redirects.

use std::{fmt, time::Duration};

use reqwest::{
    Client,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde::{Serialize, de::DeserializeOwned};
use url::Url;

use crate::{Error, Result, Secret, client};

/// Far more than any answer that is of use.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// What to call, and how to name it.
pub(crate) struct EndpointConfig<'a> {
    /// In messages about calls.
    pub(crate) party: &'static str,
    /// In messages about the URL.
    pub(crate) field: &'static str,
    pub(crate) url: &'a str,
    pub(crate) api_key: Option<&'a Secret>,
    /// For a whole call.
    pub(crate) timeout: Duration,
}

/// One endpoint, with its connections.
pub(crate) struct Endpoint {
    party: &'static str,
    host: String,
    url: Url,
    client: Client,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

impl Endpoint {
    pub(crate) fn new(config: &EndpointConfig<'_>) -> Result<Self> {
        let url = parse(config)?;
        let authorization = config.api_key.map(authorization).transpose()?;
        let client = client::builder(config.timeout)?.build().map_err(Error::Client)?;
        let (party, timeout) = (config.party, config.timeout);
        Ok(Self { party, host: client::host(&url), url, client, authorization, timeout })
    }

    /// The same endpoint at a path below its URL's; a query stays.
    pub(crate) fn below(mut self, path: &str) -> Self {
        let path = format!("{}/{path}", self.url.path().trim_end_matches('/'));
        self.url.set_path(&path);
        self
    }

    /// Asks, and reads the answer of a status 200.
    pub(crate) async fn ask<Q: Serialize, A: DeserializeOwned>(&self, question: &Q) -> Result<A> {
        let body =
            serde_json::to_vec(question).map_err(|e| self.unusable(format!("no question to it: {e}")))?;
        let answer = tokio::time::timeout(self.timeout, self.exchange(body)).await.unwrap_or_else(|_| {
            let (party, host) = (self.party, self.host.clone());
            Err(Error::TimedOut { party, host, limit_ms: self.timeout.as_millis() })
        })?;
        // Serde's own text repeats values of the answer, and those may be of the prompt.
        serde_json::from_slice(&answer).map_err(|e| {
            let what = if e.is_data() { "JSON of another form than expected" } else { "no JSON" };
            self.unusable(format!("{what} (line {}, column {})", e.line(), e.column()))
        })
    }

    pub(crate) fn unusable(&self, why: String) -> Error {
        Error::Unusable { party: self.party, host: self.host.clone(), why }
    }

    async fn exchange(&self, body: Vec<u8>) -> Result<Vec<u8>> {
        let failed = |error| client::failed(self.party, self.host.clone(), error);
        let mut request =
            self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(body);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        if status != 200 {
            // Without the body: an endpoint that refuses a key may repeat it.
            let (party, host) = (self.party, self.host.clone());
            return Err(Error::Answered { party, host, status, excerpt: String::new() });
        }
        let answer = client::read(&mut response, MAX_ANSWER_BYTES).await.map_err(failed)?;
        if answer.len() > MAX_ANSWER_BYTES {
            return Err(self.unusable(format!("it is longer than {MAX_ANSWER_BYTES} bytes")));
        }
        Ok(answer)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("host", &self.host).finish_non_exhaustive()
    }
}

fn parse(config: &EndpointConfig<'_>) -> Result<Url> {
    let invalid = |why: String| Error::Invalid { field: config.field, why };
    let url = Url::parse(config.url).map_err(|e| invalid(format!("it is not an absolute URL: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(format!("expected http or https, found {}", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("a user name and a password do not belong here".to_owned()));
    }
    Ok(url)
}

pub(crate) fn authorization(key: &Secret) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose())).map_err(|_| {
        Error::Invalid { field: "API key", why: "it holds characters that no HTTP header can".to_owned() }
    })?;
    value.set_sensitive(true);
    Ok(value)
}
