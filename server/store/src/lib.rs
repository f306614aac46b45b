//! Where finished videos lie: one folder of MP4 files.
//!
//! A file is there whole or not at all: it is written under a temporary name, synced, renamed, and the folder synced,
//! so that once [`VideoStore::put`] returns, not even a power cut takes the file back. This crate relies on a local
//! file system and knows nothing of videos, rows or requests; the keys are made by the server, never by a client.

mod error;

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub use error::{Error, Result};
use sha2::{Digest as _, Sha256};

/// What temporary names end in; no key does.
const TEMPORARY: &str = ".part";

/// A folder of finished videos. Clones share it.
#[derive(Debug, Clone)]
pub struct VideoStore {
    folder: Arc<Path>,
    // Tells apart two writers of one key.
    writes: Arc<AtomicU64>,
}

/// What was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The file's length.
    pub bytes: u64,
    /// SHA-256 of its content, lower-case hexadecimal.
    pub sha256: String,
}

/// A file to read from.
#[derive(Debug)]
pub struct StoredFile {
    /// Open at its beginning. It stays readable even if the key is deleted meanwhile.
    pub file: tokio::fs::File,
    /// Its length.
    pub bytes: u64,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Finished files that nobody knows of.
    pub orphans: u32,
    /// Temporary files of writes that were cut off.
    pub leftovers: u32,
}

impl VideoStore {
    /// Opens the folder, making it if need be.
    pub async fn open(folder: &Path) -> Result<Self> {
        let folder: Arc<Path> = folder.into();
        let made = Arc::clone(&folder);
        blocking(move || fs::create_dir_all(&made).map_err(|e| Error::io("create", &made, e))).await?;
        Ok(Self { folder, writes: Arc::default() })
    }

    /// Writes a file, replacing one of the same key. When this returns it is on the disk under its name.
    ///
    /// # Errors
    /// [`Error::InvalidKey`]; [`Error::Io`], and then nothing is left of it.
    pub async fn put(&self, key: &str, content: Vec<u8>) -> Result<Stored> {
        let path = self.path(key)?;
        let write = self.writes.fetch_add(1, Ordering::Relaxed);
        let temporary = self.folder.join(format!("{key}.{write}{TEMPORARY}"));
        let folder = Arc::clone(&self.folder);
        blocking(move || {
            let written = write_durably(&temporary, &path, &folder, &content);
            if written.is_err() {
                // The write's own error is the one to tell; what cannot be removed now is swept at the next start.
                let _ = fs::remove_file(&temporary);
            }
            written.map(|()| Stored { bytes: content.len() as u64, sha256: sha256(&content) })
        })
        .await
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::InvalidKey`]; [`Error::Io`].
    pub async fn open_file(&self, key: &str) -> Result<StoredFile> {
        let path = self.path(key)?;
        let key = key.to_owned();
        blocking(move || {
            let file = File::open(&path).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => Error::NotFound(key),
                _ => Error::io("open", &path, e),
            })?;
            let bytes = file.metadata().map_err(|e| Error::io("read the length of", &path, e))?.len();
            Ok(StoredFile { file: tokio::fs::File::from_std(file), bytes })
        })
        .await
    }

    /// Removes a file; one that is not there is as good as removed.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        blocking(move || match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("delete", &path, e)),
            _ => Ok(()),
        })
        .await
    }

    /// Removes what a killed server may have left: temporary files, and finished ones that are not in `known`. Files
    /// of any other name are none of ours and stay. For the start only, before anything is put.
    pub async fn sweep(&self, known: HashSet<String>) -> Result<Swept> {
        let folder = Arc::clone(&self.folder);
        blocking(move || {
            let unreadable = |e| Error::io("list", &folder, e);
            let mut swept = Swept::default();
            for entry in fs::read_dir(&folder).map_err(unreadable)? {
                let entry = entry.map_err(unreadable)?;
                let name = entry.file_name();
                let Some(name) = name.to_str() else { continue };
                let count = if is_temporary(name) {
                    &mut swept.leftovers
                } else if is_key(name) && !known.contains(name) {
                    &mut swept.orphans
                } else {
                    continue;
                };
                fs::remove_file(entry.path()).map_err(|e| Error::io("delete", &entry.path(), e))?;
                *count += 1;
            }
            Ok(swept)
        })
        .await
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        if is_key(key) { Ok(self.folder.join(key)) } else { Err(Error::InvalidKey(key.to_owned())) }
    }
}

fn is_key(name: &str) -> bool {
    name.strip_suffix(".mp4").is_some_and(|stem| {
        !stem.is_empty() && stem.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    })
}

fn is_temporary(name: &str) -> bool {
    name.strip_suffix(TEMPORARY)
        .and_then(|rest| rest.rsplit_once('.'))
        .is_some_and(|(key, write)| is_key(key) && write.bytes().all(|b| b.is_ascii_digit()))
}

fn write_durably(temporary: &Path, path: &Path, folder: &Path, content: &[u8]) -> Result<()> {
    let mut file = File::create(temporary).map_err(|e| Error::io("create", temporary, e))?;
    file.write_all(content).map_err(|e| Error::io("write", temporary, e))?;
    file.sync_all().map_err(|e| Error::io("sync", temporary, e))?;
    fs::rename(temporary, path).map_err(|e| Error::io("rename to", path, e))?;
    // The name is an entry of the folder, and as volatile as any write until that is synced too.
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::io("sync", folder, e))
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::with_capacity(64), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes any write");
        hex
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Stopping),
        },
    }
}
