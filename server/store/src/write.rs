//! One write: content to a temporary file, and its name made final. Knows no keys.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use sha2::{Digest as _, Sha256};

use crate::{Error, Result, Stored};

/// What a power cut may take back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Nothing.
    Synced,
    /// Everything that the system has not yet written by itself.
    Volatile,
}

/// Where to write, and how.
pub(crate) struct Write<'a> {
    /// Holds the other two.
    pub(crate) folder: &'a Path,
    /// The name until all is written.
    pub(crate) temporary: &'a Path,
    /// The name from then on.
    pub(crate) path: &'a Path,
    pub(crate) durability: Durability,
}

impl Write<'_> {
    /// Writes all or leaves nothing.
    pub(crate) fn run(&self, content: &[u8]) -> Result<Stored> {
        // The error of the step that failed is the one to tell; what cannot be removed now is swept at the next start.
        self.write(content).inspect_err(|_| drop(fs::remove_file(self.temporary)))?;
        self.sync_name().inspect_err(|_| drop(fs::remove_file(self.path)))?;
        Ok(Stored { bytes: content.len() as u64, sha256: sha256(content) })
    }

    fn write(&self, content: &[u8]) -> Result<()> {
        let Self { temporary, path, .. } = *self;
        let mut file = File::create(temporary).map_err(|e| Error::io("create", temporary, e))?;
        file.write_all(content).map_err(|e| Error::io("write", temporary, e))?;
        if self.durability == Durability::Synced {
            file.sync_all().map_err(|e| Error::io("sync", temporary, e))?;
        }
        fs::rename(temporary, path).map_err(|e| Error::io("rename to", path, e))
    }

    /// The name is an entry of the folder, and as volatile as any write until that is synced too.
    fn sync_name(&self) -> Result<()> {
        match self.durability {
            Durability::Synced => File::open(self.folder)
                .and_then(|folder| folder.sync_all())
                .map_err(|e| Error::io("sync", self.folder, e)),
            Durability::Volatile => Ok(()),
        }
    }
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::with_capacity(64), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes any write");
        hex
    })
}
