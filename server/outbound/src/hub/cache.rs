//! The cache on the disk, in the layout of `huggingface_hub`, whose other tools it is shared with: contents in `blobs/`
//! by their tags, `snapshots/COMMIT/` with links to them, `refs/REVISION` with the commit. The names are hf-hub's.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::{RepoId, listing::RemoteFile, repo::is_name};
use crate::{Error, Result};

/// One repository's part of the cache.
pub(super) struct RepoCache {
    entries: CacheRepo,
    /// `models--OWNER--NAME`.
    root: PathBuf,
    /// Where all tools lock the file that they fetch.
    locks: PathBuf,
    revision: String,
}

impl RepoCache {
    pub(super) fn new(cache_dir: &Path, repo: &RepoId) -> Self {
        let revision = repo.revision().to_owned();
        let name = Repo::with_revision(repo.id().to_owned(), RepoType::Model, revision.clone());
        let folder = name.folder_name();
        Self {
            root: cache_dir.join(&folder),
            locks: cache_dir.join(".locks").join(&folder),
            entries: Cache::new(cache_dir.to_owned()).repo(name),
            revision,
        }
    }

    /// The folder of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.entries.pointer_path(commit)
    }

    /// The folder of the commit that the revision is, or was when somebody asked.
    pub(super) fn current(&self) -> Option<PathBuf> {
        let noted = fs::read_to_string(self.root.join("refs").join(&self.revision));
        let commit = noted.map_or_else(|_| self.revision.clone(), |commit| commit.trim().to_owned());
        let folder = self.snapshot(&commit);
        (is_name(&commit) && folder.is_dir()).then_some(folder)
    }

    /// Notes that the revision is this commit.
    pub(super) fn keep(&self, commit: &str) -> Result<()> {
        if commit == self.revision {
            return Ok(());
        }
        let failed = |source| Error::File { path: self.root.join("refs").join(&self.revision), source };
        self.entries.create_ref(commit).map_err(failed)
    }

    /// Whether the file is there, by its size: in the commit's folder, or as a content that another commit had.
    pub(super) fn holds(&self, commit: &str, file: &RemoteFile) -> bool {
        let is_whole = |path: PathBuf| {
            fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == file.size_bytes)
        };
        is_whole(self.snapshot(commit).join(&file.path)) || is_whole(self.blob(file))
    }

    /// Where the file's content lies when it is whole.
    pub(super) fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.root.join("blobs").join(&file.blob)
    }

    /// Where it lies until then. The name tells the content, so a file that was changed on the hub starts over.
    pub(super) fn partial(&self, file: &RemoteFile) -> PathBuf {
        self.root.join("blobs").join(format!("{}.incomplete", file.blob))
    }

    /// What is there of a file that is not whole.
    pub(super) fn partial_bytes(&self, file: &RemoteFile) -> u64 {
        fs::metadata(self.partial(file)).map_or(0, |found| found.len())
    }

    /// Keeps others from fetching the file until what is returned is dropped.
    ///
    /// # Errors
    /// [`Error::Busy`] if one does already.
    pub(super) fn lock(&self, file: &RemoteFile) -> Result<File> {
        let path = self.locks.join(format!("{}.lock", file.blob));
        let failed = |source| Error::File { path: path.clone(), source };
        for dir in [&self.locks, &self.root.join("blobs")] {
            fs::create_dir_all(dir).map_err(|source| Error::File { path: dir.clone(), source })?;
        }
        let lock = File::options().create(true).append(true).open(&path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(Error::Busy { path: file.path.clone() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Makes a file whose content is there a part of the commit's folder.
    pub(super) fn link(&self, commit: &str, file: &RemoteFile) -> Result<()> {
        let path = self.snapshot(commit).join(&file.path);
        let failed = |source| Error::File { path: path.clone(), source };
        if fs::metadata(&path).is_ok_and(|found| found.len() == file.size_bytes) {
            return Ok(());
        }
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        // Relative, so that the cache can be moved: up from the file's folder, the commit's and `snapshots`.
        let up = "../".repeat(2 + file.path.matches('/').count());
        symlink(format!("{up}blobs/{}", file.blob), &path).map_err(failed)
    }

    /// # Errors
    /// [`Error::NoRoom`] if the disk has no room for so much.
    pub(super) fn check_room(&self, needed_bytes: u64) -> Result<()> {
        let dir = &self.root;
        fs::create_dir_all(dir).map_err(|source| Error::File { path: dir.clone(), source })?;
        // A file system that does not tell is found full only when it is.
        let Ok(disk) = rustix::fs::statvfs(dir) else { return Ok(()) };
        let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        if needed_bytes <= free_bytes {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        Err(Error::NoRoom { dir: dir.clone(), needed_mib: mib(needed_bytes), free_mib: free_bytes >> 20 })
    }
}
