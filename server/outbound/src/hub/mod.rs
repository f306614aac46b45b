//! Models from a hub that speaks Hugging Face's protocol, into the cache folder that all of its tools share.
//!
//! The order is: which commit a revision is and what it holds ([`Hub::listing`]), then some of its files at a time
//! ([`Hub::fetch`]), then the promise that the commit is whole here ([`Hub::keep`]). Each file is written under another
//! name, gone on with where an earlier attempt ended, and checked by size and checksum before it has its own. Nothing
//! is asked for that the cache holds already. Dropping a future stops its transfers; what they have stays.
//!
//! The hub and what it redirects to are the operator's choice, so they may be anywhere, and a proxy of the environment is
//! used; the token goes to the hub alone. Which files of a repository are of use is not known here.

mod blob;
mod cache;
mod listing;
mod patience;
mod repo;
mod request;
mod settings;
mod transfer;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};

use self::{cache::RepoCache, listing::RemoteFile, request::Caller};
pub use self::{listing::Listing, repo::RepoId, settings::HubSettings};
use crate::{Error, Result};

/// How many files come at a time. One connection rarely fills a line; more than a few make a hub count them.
const PARALLEL: usize = 4;

/// How far a download is.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// What is to come.
    Planned {
        /// Files that are not whole here.
        files: usize,
        /// All bytes of these.
        total_bytes: u64,
        /// Those of them that are here from an earlier attempt.
        present_bytes: u64,
    },
    /// A file stands at so many bytes; also backwards, where it has to start over.
    File {
        /// In the repository.
        path: &'a str,
        /// Here.
        present_bytes: u64,
        /// Of the whole file.
        total_bytes: u64,
    },
    /// Something went wrong and is tried again.
    Retry {
        /// What went wrong.
        error: &'a Error,
        /// The time until then.
        delay: Duration,
    },
}

/// Hears how far a download is, from several tasks at once.
pub type OnProgress = Arc<dyn Fn(Progress<'_>) + Send + Sync>;

/// Lets time pass. Tests bring one that does not.
pub type Wait = Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>;

/// A hub, and the cache on this machine.
#[derive(Clone)]
pub struct Hub(Arc<Parts>);

struct Parts {
    caller: Caller,
    cache_dir: PathBuf,
    on_progress: OnProgress,
    wait: Wait,
}

impl Hub {
    /// Calls nobody yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an endpoint that is no URL, a token that no header can hold, or without a place for the
    /// cache; [`Error::Tls`] and [`Error::Client`].
    pub fn new(settings: &HubSettings, on_progress: OnProgress) -> Result<Self> {
        Self::with_wait(settings, on_progress, Arc::new(|delay| Box::pin(tokio::time::sleep(delay))))
    }

    /// The same, with time of one's own between attempts.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn with_wait(settings: &HubSettings, on_progress: OnProgress, wait: Wait) -> Result<Self> {
        let caller = Caller::new(settings)?;
        Ok(Self(Arc::new(Parts { caller, cache_dir: settings.cache_dir()?.to_owned(), on_progress, wait })))
    }

    /// Asks which commit the repository's revision is, and which files it has.
    ///
    /// # Errors
    /// [`Error::Offline`], [`Error::NotOnHub`], [`Error::HubRefused`]; after some attempts [`Error::Unreachable`],
    /// [`Error::Answered`] and [`Error::RateLimited`].
    pub async fn listing(&self, repo: &RepoId) -> Result<Listing> {
        let mut patience = self.patience();
        loop {
            match listing::ask(&self.0.caller, repo).await {
                Ok(listing) => return Ok(listing),
                Err(failure) => patience.wait_after(failure).await?,
            }
        }
    }

    /// Brings files of the repository into the cache, and answers with the folder that they lie in.
    ///
    /// # Errors
    /// Those of [`Self::listing`]; [`Error::NoRoom`] before anything is fetched; [`Error::Damaged`] for a file that is
    /// damaged twice; [`Error::Busy`], [`Error::File`].
    pub async fn fetch(&self, listing: &Listing, paths: &[String]) -> Result<PathBuf> {
        let looks = paths.iter().cloned().map(|path| {
            let (hub, listing) = (self.clone(), listing.clone());
            async move { hub.look(&listing, path).await }
        });
        let files: Vec<RemoteFile> =
            stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(PARALLEL).try_collect().await?;
        let cache = Arc::new(RepoCache::new(&self.0.cache_dir, &listing.repo));
        let absent = files.iter().filter(|file| !cache.holds(&listing.commit, file));
        // By their names in the cache: files with the same content come once.
        let absent: BTreeMap<String, RemoteFile> =
            absent.map(|file| (file.blob.clone(), file.clone())).collect();
        self.plan(&cache, absent.values())?;
        let transfers = absent.into_values().map(|file| {
            let (hub, cache, listing) = (self.clone(), Arc::clone(&cache), listing.clone());
            async move { transfer::fetch(&hub, &cache, &listing, &file).await }
        });
        stream::iter(transfers.collect::<Vec<_>>())
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<()>>()
            .await?;
        for file in &files {
            cache.link(&listing.commit, file)?;
        }
        Ok(cache.snapshot(&listing.commit))
    }

    /// Says in the cache that the repository's revision is this commit, once all that is wanted of it is there.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn keep(&self, listing: &Listing) -> Result<()> {
        RepoCache::new(&self.0.cache_dir, &listing.repo).keep(&listing.commit)
    }

    async fn look(&self, listing: &Listing, path: String) -> Result<RemoteFile> {
        let mut patience = self.patience();
        loop {
            match listing::look(&self.0.caller, listing, &path).await {
                Ok(file) => return Ok(file),
                Err(failure) => patience.wait_after(failure).await?,
            }
        }
    }

    fn patience(&self) -> patience::Patience<'_> {
        patience::Patience::new(&self.0.wait, &self.0.on_progress)
    }

    /// Tells what will be fetched, unless the disk has no room for it.
    fn plan<'a>(&self, cache: &RepoCache, absent: impl Iterator<Item = &'a RemoteFile>) -> Result<()> {
        let (mut files, mut total_bytes, mut present_bytes) = (0, 0_u64, 0);
        for file in absent {
            files += 1;
            total_bytes = total_bytes.saturating_add(file.size_bytes);
            present_bytes += cache.partial_bytes(file).min(file.size_bytes);
        }
        if files > 0 {
            cache.check_room(total_bytes - present_bytes)?;
        }
        (self.0.on_progress)(Progress::Planned { files, total_bytes, present_bytes });
        Ok(())
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("cache_dir", &self.0.cache_dir).finish_non_exhaustive()
    }
}

impl HubSettings {
    /// The folder of the commit that the cache has for the repository's revision, if there is one. Whether all of its
    /// files are there is not said. Calls nobody.
    pub fn cached(&self, repo: &RepoId) -> Option<PathBuf> {
        RepoCache::new(self.cache_dir().ok()?, repo).current()
    }
}

impl Listing {
    /// The paths of all files.
    pub fn paths(&self) -> &BTreeSet<String> {
        &self.paths
    }

    /// The commit that the revision was when it was asked for.
    pub fn commit(&self) -> &str {
        &self.commit
    }
}
