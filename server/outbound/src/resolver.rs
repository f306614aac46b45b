//! From names to addresses, and the wall before a connection: [`GuardedDns`] hands the HTTP client only the addresses
//! that the policy allows. The client connects to what it is handed and asks nobody else, so that a name which
//! changes its address between a check and a connection gains nothing.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::Policy;

type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// What turns a host's name into addresses. Clones share it.
#[derive(Clone)]
pub struct Resolver(Arc<dyn Fn(String) -> Lookup + Send + Sync>);

impl Resolver {
    /// The machine's own.
    pub fn system() -> Self {
        Self::new(|host| async move {
            Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
        })
    }

    /// One that calls this function for each name.
    pub fn new<F, L>(lookup: F) -> Self
    where
        F: Fn(String) -> L + Send + Sync + 'static,
        L: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        Self(Arc::new(move |host| Box::pin(lookup(host))))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver(..)")
    }
}

/// A resolver behind a policy.
pub(crate) struct GuardedDns {
    pub(crate) resolver: Resolver,
    pub(crate) policy: Arc<Policy>,
}

impl Resolve for GuardedDns {
    fn resolve(&self, name: Name) -> Resolving {
        let (lookup, policy) = ((self.resolver.0)(name.as_str().to_owned()), Arc::clone(&self.policy));
        Box::pin(async move {
            let mut allowed = Vec::new();
            let mut refusal = None;
            for address in lookup.await? {
                match policy.check_address(name.as_str(), address) {
                    // The client puts the URL's port in the place of 0.
                    Ok(()) => allowed.push(SocketAddr::new(address, 0)),
                    Err(error) => refusal = Some(error),
                }
            }
            match refusal {
                Some(error) if allowed.is_empty() => Err(error.into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}
