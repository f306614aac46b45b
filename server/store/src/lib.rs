//! Where videos lie, with their pictures and the checkpoints of those in the making: one folder of files.
//!
//! A file is there whole or not at all: it is written under a temporary name, synced, renamed, and the folder synced,
//! so that once [`VideoStore::put`] returns, not even a power cut takes the file back ([`VideoStore::put_volatile`]
//! leaves out the syncing). This crate relies on a local file system and knows nothing of videos, rows or requests,
//! nor of what is in a file; the keys are made by the server, never by a client.

mod error;
mod write;

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub use error::{Error, Result};
use write::{Durability, Write};

/// What keys end in: videos, posters, contact sheets and previews, checkpoints, pictures that videos start from.
const KINDS: [&str; 5] = ["mp4", "webp", "jpg", "ckpt", "image"];

/// What temporary names end in; no key does.
const TEMPORARY: &str = ".part";

/// A folder of videos and what belongs to them. Clones share it.
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
        self.write(key, content, Durability::Synced).await
    }

    /// Writes a file as [`Self::put`] does, but leaves it to the system when it reaches the disk: for checkpoints,
    /// which are written often and whose loss only costs time. Readers and a killed server still find the old file or
    /// the new one, whole; after a power cut it may be gone or torn, which [`Stored::sha256`] tells.
    ///
    /// # Errors
    /// [`Error::InvalidKey`]; [`Error::Io`], and then nothing is left of it.
    pub async fn put_volatile(&self, key: &str, content: Vec<u8>) -> Result<Stored> {
        self.write(key, content, Durability::Volatile).await
    }

    async fn write(&self, key: &str, content: Vec<u8>, durability: Durability) -> Result<Stored> {
        let path = self.path(key)?;
        let write = self.writes.fetch_add(1, Ordering::Relaxed);
        let temporary = self.folder.join(format!("{key}.{write}{TEMPORARY}"));
        let folder = Arc::clone(&self.folder);
        blocking(move || {
            Write { folder: &folder, temporary: &temporary, path: &path, durability }.run(&content)
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
            let file = File::open(&path).map_err(|e| Error::reading(key, "open", &path, e))?;
            let bytes = file.metadata().map_err(|e| Error::io("read the length of", &path, e))?.len();
            Ok(StoredFile { file: tokio::fs::File::from_std(file), bytes })
        })
        .await
    }

    /// Reads a whole file: for small ones, and checkpoints.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::InvalidKey`]; [`Error::Io`].
    pub async fn read(&self, key: &str) -> Result<Vec<u8>> {
        let path = self.path(key)?;
        let key = key.to_owned();
        blocking(move || fs::read(&path).map_err(|e| Error::reading(key, "read", &path, e))).await
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

    /// Bytes that the server's user can still write to the folder's file system.
    pub async fn free_bytes(&self) -> Result<u64> {
        let folder = Arc::clone(&self.folder);
        blocking(move || {
            let system = rustix::fs::statvfs(&*folder)
                .map_err(|e| Error::io("read the free space of", &folder, e.into()))?;
            Ok(system.f_bavail.saturating_mul(system.f_frsize))
        })
        .await
    }

    /// Length of the store's files together, temporary ones too, in bytes. Others' files in the folder do not count.
    pub async fn used_bytes(&self) -> Result<u64> {
        let folder = Arc::clone(&self.folder);
        blocking(move || {
            let mut used = 0;
            for (path, _) in own_files(&folder)? {
                match fs::symlink_metadata(&path) {
                    Ok(file) => used += file.len(),
                    // Deleted, or renamed by its writer, since the folder was listed.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(Error::io("read the length of", &path, e)),
                }
            }
            Ok(used)
        })
        .await
    }

    /// Removes what a killed server may have left: temporary files, and those of any kind that are not in `known`.
    /// Files of any other name are none of ours and stay. For the start only, before anything is put.
    pub async fn sweep(&self, known: HashSet<String>) -> Result<Swept> {
        let folder = Arc::clone(&self.folder);
        blocking(move || {
            let mut swept = Swept::default();
            for (path, name) in own_files(&folder)? {
                let count = match name {
                    Name::Temporary => &mut swept.leftovers,
                    Name::Key(key) if !known.contains(&key) => &mut swept.orphans,
                    Name::Key(_) => continue,
                };
                fs::remove_file(&path).map_err(|e| Error::io("delete", &path, e))?;
                *count += 1;
            }
            Ok(swept)
        })
        .await
    }

    /// The keys of all files that are there.
    pub async fn keys(&self) -> Result<Vec<String>> {
        let folder = Arc::clone(&self.folder);
        blocking(move || {
            let files = own_files(&folder)?.into_iter();
            Ok(files
                .filter_map(|(_, name)| if let Name::Key(key) = name { Some(key) } else { None })
                .collect())
        })
        .await
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        if is_key(key) { Ok(self.folder.join(key)) } else { Err(Error::InvalidKey(key.to_owned())) }
    }
}

/// What a file of the store is called.
enum Name {
    Key(String),
    Temporary,
}

/// The files in the folder that bear a name of ours.
fn own_files(folder: &Path) -> Result<Vec<(PathBuf, Name)>> {
    let unreadable = |e| Error::io("list", folder, e);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        match entry.file_name().into_string() {
            Ok(name) if is_temporary(&name) => files.push((entry.path(), Name::Temporary)),
            Ok(name) if is_key(&name) => files.push((entry.path(), Name::Key(name))),
            _ => {}
        }
    }
    Ok(files)
}

fn is_key(name: &str) -> bool {
    name.split_once('.').is_some_and(|(stem, kind)| {
        KINDS.contains(&kind)
            && !stem.is_empty()
            && stem.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    })
}

fn is_temporary(name: &str) -> bool {
    name.strip_suffix(TEMPORARY)
        .and_then(|rest| rest.rsplit_once('.'))
        .is_some_and(|(key, write)| is_key(key) && write.bytes().all(|b| b.is_ascii_digit()))
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
