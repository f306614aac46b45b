//! A file on its way into the cache: under another name, with a checksum that grows with it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::listing::RemoteFile;
use crate::{Error, Result};

/// Read at a time when an earlier attempt is gone on with.
const READ_BYTES: usize = 1 << 20;

/// What a tag says of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    /// The SHA-256 of a large file, as Git LFS names it.
    Sha256,
    /// Git's name of a small one: the SHA-1 of a header with its size, and of the file.
    GitSha1,
    /// Nothing.
    Unknown,
}

impl Checksum {
    pub(super) fn of_tag(tag: &str) -> Self {
        match tag.len() {
            _ if !tag.bytes().all(|byte| byte.is_ascii_hexdigit()) => Self::Unknown,
            64 => Self::Sha256,
            40 => Self::GitSha1,
            _ => Self::Unknown,
        }
    }
}

enum Hasher {
    Sha256(Box<Sha256>),
    GitSha1(Box<Sha1>),
    None,
}

impl Hasher {
    fn new(file: &RemoteFile) -> Self {
        match file.checksum {
            Checksum::Sha256 => Self::Sha256(Box::default()),
            Checksum::GitSha1 => {
                Self::GitSha1(Box::new(Sha1::new_with_prefix(format!("blob {}\0", file.size_bytes))))
            }
            Checksum::Unknown => Self::None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sha) => sha.update(bytes),
            Self::GitSha1(sha) => sha.update(bytes),
            Self::None => {}
        }
    }

    fn finish(self) -> Option<String> {
        match self {
            Self::Sha256(sha) => Some(hex(&sha.finalize())),
            Self::GitSha1(sha) => Some(hex(&sha.finalize())),
            Self::None => None,
        }
    }
}

/// The beginning of a file.
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    hasher: Hasher,
    remote: RemoteFile,
}

impl Partial {
    /// Goes on with what an earlier attempt left at `path`, or begins.
    pub(super) fn open(path: PathBuf, remote: &RemoteFile) -> Result<Self> {
        let failed = |source| Error::File { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let mut hasher = Hasher::new(remote);
        let mut size_bytes = 0;
        let mut piece = vec![0; READ_BYTES];
        loop {
            match file.read(&mut piece).map_err(failed)? {
                0 => break,
                count => {
                    hasher.update(&piece[..count]);
                    size_bytes += count as u64;
                }
            }
        }
        let mut partial = Self { path, file, size_bytes, hasher, remote: remote.clone() };
        if partial.size_bytes > remote.size_bytes {
            partial.restart()?;
        }
        Ok(partial)
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn is_whole(&self) -> bool {
        self.size_bytes == self.remote.size_bytes
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| self.failed(source))?;
        self.hasher.update(bytes);
        self.size_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Throws away what is there.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(|source| self.failed(source))?;
        self.hasher = Hasher::new(&self.remote);
        self.size_bytes = 0;
        Ok(())
    }

    /// Gives the whole file its own name, if it is what the hub said; else removes it.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::File`].
    pub(super) fn finish(self, blob: &Path) -> Result<()> {
        let Self { path, file, hasher, remote, .. } = self;
        let failed = |source| Error::File { path: path.clone(), source };
        if let Some(found) = hasher.finish()
            && !found.eq_ignore_ascii_case(&remote.blob)
        {
            fs::remove_file(&path).map_err(failed)?;
            return Err(Error::Damaged { path: remote.path, expected: remote.blob, found });
        }
        file.sync_all().map_err(failed)?;
        fs::rename(&path, blob).map_err(failed)
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::File { path: self.path.clone(), source }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
