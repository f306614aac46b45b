//! What a repository holds: its commit and paths in one answer, then each wanted file's size and checksum from the head
//! of its own. These are the calls that every mirror knows, because all of Hugging Face's tools make them.

use std::collections::BTreeSet;

use reqwest::Method;
use serde::Deserialize;

use super::{
    RepoId,
    blob::Checksum,
    patience::{Attempt, Failure},
    repo::is_name,
    request::{Call, Caller, PARTY},
};
use crate::{Error, client};

/// Far more than the list of any pipeline's files.
const MAX_LISTING_BYTES: usize = 16 << 20;

/// A revision of a repository as it was when it was asked for.
#[derive(Debug, Clone)]
pub struct Listing {
    pub(super) repo: RepoId,
    pub(super) commit: String,
    pub(super) paths: BTreeSet<String>,
}

/// A file on the hub.
#[derive(Debug, Clone)]
pub(super) struct RemoteFile {
    pub(super) path: String,
    pub(super) size_bytes: u64,
    /// Its name in the cache, which is the hub's tag.
    pub(super) blob: String,
    /// What the tag says of the content.
    pub(super) checksum: Checksum,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

pub(super) async fn ask(caller: &Caller, repo: &RepoId) -> Attempt<Listing> {
    let segments =
        ["api", "models"].into_iter().chain(repo.id().split('/')).chain(["revision", repo.revision()]);
    let what = repo.to_string();
    let url = caller.url(segments);
    let call = Call { method: Method::GET, url, what: &what, from_byte: 0, if_range: None };
    let mut response = caller.call(&call).await?.response;
    let body = client::read(&mut response, MAX_LISTING_BYTES)
        .await
        .map_err(|error| Failure::passing(client::failed(PARTY, caller.host(), error)))?;
    let info: Info = serde_json::from_slice(&body)
        .map_err(|error| unusable(caller, format!("no description of {repo}: {error}")))?;
    if !is_name(&info.sha) {
        return Err(unusable(caller, format!("the commit of {repo} is called {:?}", info.sha)));
    }
    let paths = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    Ok(Listing { repo: repo.clone(), commit: info.sha, paths })
}

/// How large a file is, and what is in it.
pub(super) async fn look(caller: &Caller, listing: &Listing, path: &str) -> Attempt<RemoteFile> {
    let what = format!("{path} of {}", listing.repo);
    if !path.split('/').all(is_name) {
        return Err(unusable(caller, format!("{what} is no plain path")));
    }
    let url = file_url(caller, listing, path);
    let call = Call { method: Method::HEAD, url, what: &what, from_byte: 0, if_range: None };
    let answer = caller.call(&call).await?;
    let (Some(blob), Some(size_bytes)) = (answer.etag, answer.size_bytes) else {
        return Err(unusable(caller, format!("neither tag nor size of {what}")));
    };
    if !is_name(&blob) {
        return Err(unusable(caller, format!("the tag of {what} is {blob:?}")));
    }
    let checksum = Checksum::of_tag(&blob);
    if checksum == Checksum::Unknown {
        tracing::warn!(path, "the hub tells no checksum of this file: it is checked by its size alone");
    }
    Ok(RemoteFile { path: path.to_owned(), size_bytes, blob, checksum })
}

/// By the commit, so that all files are of the same.
pub(super) fn file_url(caller: &Caller, listing: &Listing, path: &str) -> url::Url {
    let repo = listing.repo.id().split('/');
    caller.url(repo.chain(["resolve", &listing.commit]).chain(path.split('/')))
}

fn unusable(caller: &Caller, why: String) -> Failure {
    Failure::Final(Error::Unusable { party: PARTY, host: caller.host(), why })
}
