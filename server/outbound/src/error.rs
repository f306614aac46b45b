//! What can go wrong with a call to others. Every message is one line that a user may read: it names the host and
//! never a path, a query or a key.

use std::{io, net::IpAddr, path::PathBuf};

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a call to others, or of what such a call is configured with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A URL or a setting that cannot be used.
    #[error("{field}: {why}")]
    Invalid {
        /// The setting or the request field.
        field: &'static str,
        /// What was expected, and what was found where that is no secret.
        why: String,
    },
    /// The policy forbids connecting to this address.
    #[error("{host} is at {address}, a {kind} address, which is not called from here")]
    Forbidden {
        /// The host as the URL or the redirect names it.
        host: String,
        /// What it stands for, or resolved to.
        address: IpAddr,
        /// Which range that is.
        kind: &'static str,
    },
    /// More redirects than are followed.
    #[error("the webhook receiver at {host} redirects more than {limit} times")]
    TooManyRedirects {
        /// The host that gave the last one.
        host: String,
        /// How many are followed.
        limit: usize,
    },
    /// The receiver is gone for good: stop calling it.
    #[error("the webhook receiver at {host} answered 410 Gone")]
    Gone {
        /// The receiver.
        host: String,
    },
    /// An answer with a status that means failure.
    #[error("{party} at {host} answered {status}{excerpt}")]
    Answered {
        /// Who was called.
        party: &'static str,
        /// Where.
        host: String,
        /// The HTTP status.
        status: u16,
        /// Empty, or ": " and the beginning of the body, in one line.
        excerpt: String,
    },
    /// An answer that is not what this party should give.
    #[error("{party} at {host} gave an answer that cannot be used: {why}")]
    Unusable {
        /// Who was called.
        party: &'static str,
        /// Where.
        host: String,
        /// What was expected and found.
        why: String,
    },
    /// No connection, or one that broke.
    #[error("{party} at {host} could not be reached: {why}")]
    Unreachable {
        /// Who was called.
        party: &'static str,
        /// Where.
        host: String,
        /// The cause at the bottom.
        why: String,
    },
    /// No whole answer in time.
    #[error("{party} at {host} did not answer within {limit_ms} ms")]
    TimedOut {
        /// Who was called.
        party: &'static str,
        /// Where.
        host: String,
        /// The time allowed for all of it, in milliseconds.
        limit_ms: u128,
    },
    /// The machine's TLS cannot be set up.
    #[error("outgoing TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(reqwest::Error),
    /// The blocklist's file cannot be read.
    #[error("blocklist {path} cannot be read: {source}")]
    BlocklistFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of the blocklist that means nothing.
    #[error("blocklist {path}, line {line}: {why}")]
    BlocklistLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The blocklist's terms make no automaton.
    #[error("blocklist {path}: its terms cannot be compiled: {why}")]
    BlocklistTerms {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The hub has no such repository, revision or file.
    #[error("{host} has no {what} (404): check the spelling, and the revision if one is named")]
    NotOnHub {
        /// The hub.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// The hub does not let it be read.
    #[error("{host} does not let {what} be read ({status}): {advice}")]
    HubRefused {
        /// The hub.
        host: String,
        /// What was asked for.
        what: String,
        /// 401 or 403.
        status: u16,
        /// What to do.
        advice: String,
    },
    /// The hub has had enough of us for now.
    #[error(
        "{host} is asked too often (429): try again in {seconds} seconds, or set HF_TOKEN, which may ask more"
    )]
    RateLimited {
        /// The hub, or where its files lie.
        host: String,
        /// As it says itself, or "some".
        seconds: String,
    },
    /// No call may be made.
    #[error(
        "{what} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it: unset that, or copy the model here"
    )]
    Offline {
        /// What was asked for.
        what: String,
    },
    /// The disk cannot take what is to be fetched.
    #[error("{}: {needed_mib} MiB are needed, {free_mib} are free: make room, or set HF_HOME to another disk", dir.display())]
    NoRoom {
        /// Where it would lie.
        dir: PathBuf,
        /// What is still to be fetched.
        needed_mib: u64,
        /// What the disk has.
        free_mib: u64,
    },
    /// A file is not what the hub says that it is, twice.
    #[error(
        "{path}: damaged on its way, also when fetched again: expected checksum {expected}, found {found}; try another endpoint or later"
    )]
    Damaged {
        /// In the repository.
        path: String,
        /// In hexadecimal digits.
        expected: String,
        /// The same.
        found: String,
    },
    /// A file is another one than it was at the beginning.
    #[error("{path}: changed on the hub meanwhile; start the download again")]
    Changed {
        /// In the repository.
        path: String,
    },
    /// Somebody else fetches the same file.
    #[error("{path}: another process is fetching it; wait for that one, or end it")]
    Busy {
        /// In the repository.
        path: String,
    },
    /// A file of the cache cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// On this machine.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process ends.
    #[error("stopped: {0}")]
    Stopped(String),
}
