//! One request to the hub, through its redirects, and what its status means.

use std::time::Duration;

use reqwest::{
    Client, Method, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue, IF_RANGE, LOCATION,
        RANGE, RETRY_AFTER,
    },
};
use url::{Host, Url};

use super::{
    HubSettings,
    patience::{Attempt, Failure},
};
use crate::{Error, Result, client, endpoint::authorization};

/// What it is called in messages.
pub(super) const PARTY: &str = "the hub";
/// Of a renamed repository to its new name, and from there to where the files are.
const MAX_REDIRECTS: usize = 5;
/// For a connection, and for each piece of an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// The hub's own words about a file, on the answer that redirects to it.
const LINKED_ETAG: &str = "x-linked-etag";
const LINKED_SIZE: &str = "x-linked-size";

/// A request.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    /// What is asked for, in messages.
    pub(super) what: &'a str,
    /// From this byte on, if it is not the first; where the file is still the one with this tag.
    pub(super) from_byte: u64,
    pub(super) if_range: Option<&'a HeaderValue>,
}

/// An answer that is of use, or says that the range asked for is not.
pub(super) struct Answer {
    pub(super) response: Response,
    /// What the hub says of the file, which may lie elsewhere: its tag without quotes.
    pub(super) etag: Option<String>,
    /// Whether that is the hub's word, not that of where the file lies.
    pub(super) is_of_hub: bool,
    /// Its size.
    pub(super) size_bytes: Option<u64>,
}

/// Makes requests.
pub(super) struct Caller {
    endpoint: Url,
    client: Client,
    authorization: Option<HeaderValue>,
    is_offline: bool,
}

impl Caller {
    pub(super) fn new(settings: &HubSettings) -> Result<Self> {
        let invalid = |why: String| Error::Invalid { field: "hub endpoint", why };
        let endpoint = Url::parse(&settings.endpoint)
            .map_err(|error| invalid(format!("{:?} is not an absolute URL: {error}", settings.endpoint)))?;
        if !matches!(endpoint.scheme(), "http" | "https") {
            return Err(invalid(format!("expected http or https, found {}", endpoint.scheme())));
        }
        if !endpoint.username().is_empty() || endpoint.password().is_some() {
            return Err(invalid("a user name and a password do not belong here".to_owned()));
        }
        let mut builder = client::proxied(CONNECT_TIMEOUT)?.read_timeout(READ_TIMEOUT);
        if is_this_machine(&endpoint) {
            builder = builder.no_proxy();
        }
        Ok(Self {
            endpoint,
            client: builder.build().map_err(Error::Client)?,
            authorization: settings.token.as_ref().map(authorization).transpose()?,
            is_offline: settings.offline,
        })
    }

    /// A URL below the endpoint's.
    pub(super) fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// The hub, in messages.
    pub(super) fn host(&self) -> String {
        client::host(&self.endpoint)
    }

    pub(super) async fn call(&self, call: &Call<'_>) -> Attempt<Answer> {
        if self.is_offline {
            return Err(Failure::Final(Error::Offline { what: call.what.to_owned() }));
        }
        let mut url = call.url.clone();
        let (mut etag, mut size_bytes) = (None, None);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(call, &url).await?;
            let headers = response.headers();
            etag = etag.or_else(|| tag(headers.get(LINKED_ETAG)));
            size_bytes = size_bytes.or_else(|| number(headers, LINKED_SIZE));
            let leads_on = response.status().is_redirection();
            if leads_on && !(call.method == Method::HEAD && etag.is_some()) {
                url = self.next_url(&url, headers)?;
                continue;
            }
            let status = response.status();
            if leads_on || status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
                let is_of_hub = etag.is_some();
                if !leads_on {
                    etag = etag.or_else(|| tag(headers.get(ETAG)));
                    size_bytes = size_bytes.or_else(|| number(headers, CONTENT_LENGTH.as_str()));
                }
                return Ok(Answer { response, etag, is_of_hub, size_bytes });
            }
            return Err(self.refusal(call, &url, &response));
        }
        let why = format!("it redirects more than {MAX_REDIRECTS} times");
        Err(Failure::Final(Error::Unusable { party: PARTY, host: client::host(&url), why }))
    }

    async fn send(&self, call: &Call<'_>, url: &Url) -> Attempt<Response> {
        let mut request = self.client.request(call.method.clone(), url.clone());
        // Compressed, a body would have another length than the file.
        request = request.header(ACCEPT_ENCODING, "identity");
        if call.from_byte > 0 {
            request = request.header(RANGE, format!("bytes={}-", call.from_byte));
            if let Some(tag) = call.if_range {
                request = request.header(IF_RANGE, tag);
            }
        }
        if let Some(authorization) = &self.authorization
            && self.is_own(url)
        {
            request = request.header(AUTHORIZATION, authorization);
        }
        let failed = |error| Failure::passing(client::failed(PARTY, client::host(url), error));
        request.send().await.map_err(failed)
    }

    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    fn next_url(&self, url: &Url, headers: &HeaderMap) -> Attempt<Url> {
        let location = headers.get(LOCATION).and_then(|to| to.to_str().ok());
        let next = location.and_then(|to| url.join(to).ok());
        let secure = |url: &Url| url.scheme() == "https";
        match next {
            Some(next) if secure(&next) || (next.scheme() == "http" && !secure(&self.endpoint)) => Ok(next),
            _ => {
                let why = "it redirects to nowhere, or out of TLS".to_owned();
                Err(Failure::Final(Error::Unusable { party: PARTY, host: client::host(url), why }))
            }
        }
    }

    fn refusal(&self, call: &Call<'_>, url: &Url, response: &Response) -> Failure {
        let (host, status, what) = (client::host(url), response.status(), call.what.to_owned());
        let after = number(response.headers(), RETRY_AFTER.as_str()).map(Duration::from_secs);
        let answered = || Error::Answered {
            party: PARTY,
            host: host.clone(),
            status: status.as_u16(),
            excerpt: String::new(),
        };
        match status.as_u16() {
            429 => {
                let seconds = after.map_or_else(|| "some".to_owned(), |after| after.as_secs().to_string());
                Failure::Passing { error: Error::RateLimited { host, seconds }, after }
            }
            408 | 500.. => Failure::Passing { error: answered(), after },
            // A link to where the files are is good for some time only: the hub gives another.
            400..=404 if !self.is_own(url) => Failure::passing(answered()),
            404 => Failure::Final(Error::NotOnHub { host, what }),
            status @ (401 | 403) => {
                let page = self.endpoint.as_str().trim_end_matches('/');
                let advice = if self.authorization.is_some() {
                    format!("its terms may have to be accepted on its page at {page}, by the token's owner")
                } else {
                    format!(
                        "check the spelling; if it is private or has terms to accept (its page at {page} says), set HF_TOKEN"
                    )
                };
                Failure::Final(Error::HubRefused { host, what, status, advice })
            }
            _ => Failure::Final(answered()),
        }
    }
}

/// Never through a proxy.
fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A tag as the cache has it: without quotes, and without the mark of a weak one.
fn tag(value: Option<&HeaderValue>) -> Option<String> {
    let tag = value?.to_str().ok()?;
    let tag = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"');
    (!tag.is_empty()).then(|| tag.to_owned())
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}
