//! What a component's files say that they hold, read as far as they can be.
//!
//! Loading stops at the first fault; an operator wants all of them at once. Only headers are read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::mapped::{MappedFile, locate, map_file};
use crate::Error;

/// A tensor as its file's header has it.
pub(crate) struct StoredTensor {
    pub(crate) path: PathBuf,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: Dtype,
    pub(crate) bytes: usize,
}

/// A component's files.
#[derive(Default)]
pub(crate) struct Listing {
    /// The single file or the index; none if there is neither.
    pub(crate) path: Option<PathBuf>,
    /// Safetensors files that could be read.
    pub(crate) files: usize,
    /// Of those files.
    pub(crate) bytes: u64,
    pub(crate) tensors: BTreeMap<String, StoredTensor>,
    /// Files that could not be read, or do not hold what the index says.
    pub(crate) faults: Vec<Error>,
}

/// Reads the headers of the component in `dir` whose files are called `stem*.safetensors`.
pub(crate) fn list(dir: &Path, stem: &str) -> Listing {
    let mut listing = Listing::default();
    let (path, shards) = match locate(dir, stem) {
        Ok(found) => found,
        Err(error) => {
            listing.faults.push(error);
            return listing;
        }
    };
    for (shard, expected) in shards {
        match map_file(&shard) {
            Ok(file) => {
                for name in expected.iter().filter(|name| file.metadata.info(name).is_none()) {
                    let message = format!("tensor {name} is missing, {} places it here", path.display());
                    listing.faults.push(Error::weights(&shard, message));
                }
                listing.add(&file);
            }
            Err(error) => listing.faults.push(error),
        }
    }
    listing.path = Some(path);
    listing
}

impl Listing {
    fn add(&mut self, file: &MappedFile) {
        self.files += 1;
        self.bytes += file.map.len() as u64;
        for (name, info) in file.metadata.tensors() {
            let (begin, end) = info.data_offsets;
            let tensor = StoredTensor {
                path: file.path.clone(),
                shape: info.shape.clone(),
                dtype: info.dtype,
                bytes: end - begin,
            };
            if self.tensors.insert(name.clone(), tensor).is_some() {
                self.faults.push(Error::weights(&file.path, format!("tensor {name} stands in two shards")));
            }
        }
    }
}
