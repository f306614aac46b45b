//! One file from the hub into the cache: attempt after attempt, each from where the last one ended, until it is whole,
//! and once more from the beginning if it is then found damaged.

use reqwest::{
    Method, StatusCode,
    header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderValue},
};

use super::{
    Hub, Listing, Progress,
    blob::Partial,
    cache::RepoCache,
    listing::{RemoteFile, file_url},
    patience::{Attempt, Failure},
    request::{Answer, Call, PARTY},
};
use crate::{Error, Result, client};

/// Written, and counted in the checksum, at a time. A kill loses no more than this.
const PIECE_BYTES: usize = 1 << 20;

/// # Errors
/// As [`Hub::fetch`].
pub(super) async fn fetch(hub: &Hub, cache: &RepoCache, listing: &Listing, file: &RemoteFile) -> Result<()> {
    let lock = cache.lock(file)?;
    let blob = cache.blob(file);
    let mut damaged_before = false;
    loop {
        let (path, remote) = (cache.partial(file), file.clone());
        let partial = off_thread(move || Partial::open(path, &remote)).await?;
        let partial = Transfer { hub, listing, file }.fill(partial).await?;
        let to = blob.clone();
        match off_thread(move || partial.finish(&to)).await {
            Err(error @ Error::Damaged { .. }) if !damaged_before => {
                damaged_before = true;
                let delay = std::time::Duration::ZERO;
                (hub.0.on_progress)(Progress::Retry { error: &error, delay });
            }
            result => {
                drop(lock);
                return result;
            }
        }
    }
}

/// Disks are slow, and checksums of gigabytes too.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Stopped(error.to_string())),
    }
}

struct Transfer<'a> {
    hub: &'a Hub,
    listing: &'a Listing,
    file: &'a RemoteFile,
}

impl Transfer<'_> {
    /// Attempts until the file has its size.
    async fn fill(&self, mut partial: Partial) -> Result<Partial> {
        let mut patience = self.hub.patience();
        // Where the file is served; known for as long as this runs, and of use for as long as that.
        let mut tag = None;
        self.tell(&partial);
        while !partial.is_whole() {
            let before = partial.size_bytes();
            let outcome;
            (partial, outcome) = self.attempt(partial, &mut tag).await?;
            if partial.is_whole() {
                break;
            }
            if partial.size_bytes() >= before + PIECE_BYTES as u64 {
                patience.renew();
            }
            let ended = || self.unusable("it ended early");
            patience.wait_after(outcome.err().unwrap_or_else(ended)).await?;
        }
        Ok(partial)
    }

    /// One request; what it brought is in the partial file, however it ended.
    async fn attempt(
        &self,
        mut partial: Partial,
        tag: &mut Option<HeaderValue>,
    ) -> Result<(Partial, Attempt<()>)> {
        let what = format!("{} of {}", self.file.path, self.listing.repo);
        let caller = &self.hub.0.caller;
        let call = Call {
            method: Method::GET,
            url: file_url(caller, self.listing, &self.file.path),
            what: &what,
            from_byte: partial.size_bytes(),
            if_range: tag.as_ref(),
        };
        let answer = match caller.call(&call).await {
            Ok(answer) => answer,
            Err(failure) => return Ok((partial, Err(failure))),
        };
        match self.begin(&answer, partial.size_bytes()) {
            Ok(Start::Beginning) if partial.size_bytes() > 0 => {
                partial = self.restart(partial).await?;
            }
            Ok(_) => {}
            Err((failure, restart)) => {
                if restart {
                    partial = self.restart(partial).await?;
                }
                return Ok((partial, Err(failure)));
            }
        }
        *tag = strong_tag(answer.response.headers());
        self.receive(partial, answer).await
    }

    /// From where on the answer's body is, if it is of use; else why not, and whether what is here is of use.
    fn begin(&self, answer: &Answer, from_byte: u64) -> std::result::Result<Start, (Failure, bool)> {
        let size_bytes = self.file.size_bytes;
        if answer.etag.as_ref().is_some_and(|tag| *tag != self.file.blob && answer.is_of_hub) {
            let path = self.file.path.clone();
            return Err((Failure::Final(Error::Changed { path }), false));
        }
        match answer.response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = content_range(answer.response.headers());
                let expected = (from_byte, Some(size_bytes));
                if range.is_some_and(|(start, total)| (start, total.or(Some(size_bytes))) == expected) {
                    return Ok(Start::Rest);
                }
                Err((self.unusable(&format!("another range than that from byte {from_byte}")), true))
            }
            StatusCode::OK => match answer.response.content_length() {
                Some(length) if length != size_bytes => Err((
                    self.unusable(&format!("expected {size_bytes} bytes, announced are {length}")),
                    false,
                )),
                _ => Ok(Start::Beginning),
            },
            status => Err((self.unusable(&format!("status {}", status.as_u16())), true)),
        }
    }

    async fn receive(&self, mut partial: Partial, mut answer: Answer) -> Result<(Partial, Attempt<()>)> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        loop {
            let chunk = answer.response.chunk().await;
            if let Ok(Some(bytes)) = &chunk {
                piece.extend_from_slice(bytes);
                let room = self.file.size_bytes - partial.size_bytes();
                if piece.len() as u64 > room {
                    partial = self.restart(partial).await?;
                    let size_bytes = self.file.size_bytes;
                    let failure = self.unusable(&format!("expected {size_bytes} bytes, more come"));
                    return Ok((partial, Err(failure)));
                }
                if piece.len() < PIECE_BYTES {
                    continue;
                }
            }
            let bytes = std::mem::take(&mut piece);
            partial = off_thread(move || partial.append(&bytes).map(|()| partial)).await?;
            self.tell(&partial);
            match chunk {
                Ok(Some(_)) => {}
                Ok(None) => return Ok((partial, Ok(()))),
                Err(error) => {
                    let host = answer.response.url().host_str().unwrap_or_default().to_owned();
                    let failure = Failure::passing(client::failed(PARTY, host, error));
                    return Ok((partial, Err(failure)));
                }
            }
        }
    }

    async fn restart(&self, mut partial: Partial) -> Result<Partial> {
        let partial = off_thread(move || partial.restart().map(|()| partial)).await?;
        self.tell(&partial);
        Ok(partial)
    }

    fn tell(&self, partial: &Partial) {
        (self.hub.0.on_progress)(Progress::File {
            path: &self.file.path,
            present_bytes: partial.size_bytes(),
            total_bytes: self.file.size_bytes,
        });
    }

    fn unusable(&self, why: &str) -> Failure {
        let why = format!("{}: {why}", self.file.path);
        Failure::passing(Error::Unusable { party: PARTY, host: self.hub.0.caller.host(), why })
    }
}

/// Where a body begins.
enum Start {
    /// With the file.
    Beginning,
    /// With what is not here yet.
    Rest,
}

/// A tag that means the same bytes (RFC 9110, 8.8.3): only such a one may hold a range to a file.
fn strong_tag(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")).cloned()
}

/// `bytes START-END/TOTAL`: the first byte, and the file's size where it is told.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (span, total) = range.split_once('/')?;
    let (start, _) = span.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}
