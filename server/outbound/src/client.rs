//! What every call has in common: the HTTP client's settings, the cap on what is read, and how a failure is told.

use std::{sync::Arc, time::Duration};

use reqwest::{ClientBuilder, Response, redirect};
use rustls::{ClientConfig, crypto::ring};
use rustls_platform_verifier::BuilderVerifierExt as _;
use url::Url;

use crate::{Error, Result};

/// How this server names itself to others.
const USER_AGENT: &str = concat!("cogvideox-server/", env!("CARGO_PKG_VERSION"));

/// A client that goes only where its caller sends it: it follows no redirect, asks no proxy, and adds no header of
/// its own but its name.
pub(crate) fn builder(connect_timeout: Duration) -> Result<ClientBuilder> {
    Ok(proxied(connect_timeout)?.no_proxy())
}

/// The same but for a proxy, which is asked if the environment names one.
pub(crate) fn proxied(connect_timeout: Duration) -> Result<ClientBuilder> {
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls()?)
        .connect_timeout(connect_timeout)
        .redirect(redirect::Policy::none())
        .referer(false)
        .user_agent(USER_AGENT))
}

/// Such a client for a thread without a runtime, which must not be made or dropped in one. For an endpoint of the
/// operator's: what it reads has no limit of size, only one of time for all of it.
///
/// # Errors
/// [`crate::Error::Tls`] and [`crate::Error::Client`].
#[cfg(feature = "blocking")]
pub fn blocking_client(timeout: Duration) -> Result<reqwest::blocking::Client> {
    let client = reqwest::blocking::Client::builder()
        .tls_backend_preconfigured(tls()?)
        .timeout(timeout)
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .user_agent(USER_AGENT);
    client.build().map_err(Error::Client)
}

fn tls() -> Result<ClientConfig> {
    // Handed over explicitly, because a provider for the whole process is not a library's to choose.
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth())
}

/// Host and port of a URL, which is all of it that is fit for a message.
pub(crate) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Reads a body, and stops once it is longer than the limit: the result is then longer than it too.
pub(crate) async fn read(response: &mut Response, limit_bytes: usize) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while body.len() <= limit_bytes {
        let Some(chunk) = response.chunk().await? else { break };
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Tells a failed exchange: the resolver's refusal if that is what it was, else the cause at the bottom.
pub(crate) fn failed(party: &'static str, host: String, error: reqwest::Error) -> Error {
    let connect_timed_out = error.is_timeout();
    // Its own text would repeat the whole URL.
    let error = error.without_url();
    let mut cause: &(dyn std::error::Error + 'static) = &error;
    loop {
        if let Some(Error::Forbidden { host, address, kind }) = cause.downcast_ref() {
            return Error::Forbidden { host: host.clone(), address: *address, kind };
        }
        match cause.source() {
            Some(source) => cause = source,
            None => break,
        }
    }
    let why = if connect_timed_out { "the connection timed out".to_owned() } else { cause.to_string() };
    Error::Unreachable { party, host, why }
}
