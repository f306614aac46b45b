//! The guard of a server without API keys against the browsers of its own machine.
//!
//! A page of any site can send requests to `localhost`, and its name can be made to resolve to this machine. So a
//! change is refused when a browser says that it comes from elsewhere, and every request when its `Host` is no name
//! of this server. A program sends neither `Origin` nor `Sec-Fetch-Site` and is not affected. With API keys none of
//! this is needed: a browser adds no key by itself.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Method, Uri, header};

use crate::error::{Code, Error, Result};
use crate::fields::quoted;
use crate::state::Access;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses what a page of another site had its browser send.
pub(crate) fn check(method: &Method, headers: &HeaderMap, access: &Access) -> Result<()> {
    let host = text(headers, &header::HOST);
    if let Some(host) = host
        && !is_ours(host, access)
    {
        let message = format!(
            "the host {} is no name of this server: it takes loopback names, IP addresses and the names in its \
             configuration",
            quoted(host)
        );
        return Err(Error::refused(Code::HostNotAllowed, message));
    }
    if method.is_safe() {
        return Ok(());
    }
    let origin = text(headers, &header::ORIGIN);
    if origin.is_some_and(|origin| access.cors_origins.iter().any(|allowed| allowed == origin)) {
        return Ok(());
    }
    let elsewhere = text(headers, &SEC_FETCH_SITE) == Some("cross-site")
        || origin.is_some_and(|origin| !is_same(origin, host));
    if elsewhere {
        let message =
            "a page of another origin asked for a change, which this server, having no API keys, refuses";
        return Err(Error::refused(Code::CrossSiteRequest, message));
    }
    Ok(())
}

/// A header as text; one that is not text reads as empty, which is no one's name.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

fn is_ours(host: &str, access: &Access) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&name);
    address.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || access.allowed_hosts.contains(&name)
}

/// Whether the page was this server's own. `Origin: null` is nobody's.
fn is_same(origin: &str, host: Option<&str>) -> bool {
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    let (Some(authority), Some(host)) = (uri.authority(), host) else { return false };
    authority.as_str().eq_ignore_ascii_case(host)
}
