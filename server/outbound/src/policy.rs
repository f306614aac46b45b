//! Where a URL from a user may lead. The rules of this module are asked three times: at the door, for each hop of a
//! redirect, and, by the resolver, for each address before a connection to it. They do no network call themselves.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use url::{Host, Url};

use crate::{Error, Result, address};

/// The longest webhook URL, in bytes.
const MAX_URL_BYTES: usize = 2048;

/// Where webhooks may go. The default is HTTPS to public addresses.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Plain HTTP too.
    pub allow_http: bool,
    /// Any address, also within the operator's network.
    pub allow_private: bool,
    /// Hosts and networks that are allowed although they are not public.
    pub allowed: Vec<Exception>,
}

/// What the operator allows beside public addresses: `hooks.internal`, `10.1.2.3` or `10.1.0.0/16`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exception {
    /// A host name, wherever it resolves to; not its subdomains.
    Host(String),
    /// The addresses of a network.
    Network(IpNet),
}

impl FromStr for Exception {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Network(net));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        match Host::parse(text) {
            // The URL's parser takes "10.1" for 10.0.0.1, which is not what anybody lists.
            Ok(Host::Domain(name)) => Ok(Self::Host(without_dot(&name).to_owned())),
            _ => Err(Error::Invalid {
                field: "webhook exceptions",
                why: format!("{text:?} is not a host name, an address or a network like 10.1.0.0/16"),
            }),
        }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Network(net) => net.fmt(f),
        }
    }
}

impl Policy {
    /// Whether a connection to this address is allowed, when it was reached by this name.
    pub(crate) fn check_address(&self, host: &str, address: IpAddr) -> Result<()> {
        let Some(kind) = address::special(address) else { return Ok(()) };
        if self.allow_private || self.allowed.iter().any(|e| e.covers(host, address)) {
            return Ok(());
        }
        Err(Error::Forbidden { host: host.to_owned(), address, kind })
    }

    /// Whether a URL may be called as far as the URL alone tells; what a name resolves to is the resolver's to ask.
    pub(crate) fn check_url(&self, url: &Url) -> Result<()> {
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            other if self.allow_http => {
                return Err(invalid(format!("expected https or http, found {other}")));
            }
            other => return Err(invalid(format!("expected https, found {other}"))),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("a user name and a password do not belong here".to_owned()));
        }
        let literal = match url.host() {
            None => return Err(invalid("it names no host".to_owned())),
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            // Known without asking anybody (RFC 6761).
            Some(Host::Domain(name)) if is_localhost(name) => IpAddr::from([127, 0, 0, 1]),
            Some(Host::Domain(_)) => return Ok(()),
        };
        self.check_address(url.host_str().unwrap_or_default(), literal)
    }
}

impl Exception {
    fn covers(&self, host: &str, address: IpAddr) -> bool {
        match self {
            Self::Host(name) => name.eq_ignore_ascii_case(without_dot(host)),
            Self::Network(net) => net.contains(&address) || net.contains(&address::destination(address)),
        }
    }
}

/// Checks a webhook's URL at the door: what is wrong with it for certain is told at once. A name that resolves to a
/// forbidden address is found only when it is called.
///
/// # Errors
/// [`Error::Invalid`] for its length, form, scheme, credentials or missing host; [`Error::Forbidden`] for a literal
/// address that the policy forbids.
pub fn check_webhook_url(text: &str, policy: &Policy) -> Result<Url> {
    if text.len() > MAX_URL_BYTES {
        return Err(invalid(format!("it has {} bytes, at most {MAX_URL_BYTES} are taken", text.len())));
    }
    let url = Url::parse(text).map_err(|e| invalid(format!("it is not an absolute URL: {e}")))?;
    policy.check_url(&url)?;
    Ok(url)
}

fn invalid(why: String) -> Error {
    Error::Invalid { field: "webhook URL", why }
}

fn is_localhost(name: &str) -> bool {
    let name = without_dot(name);
    name == "localhost" || name.ends_with(".localhost")
}

fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}
