//! Writes model folders in diffusers' layout: components as one safetensors file, or as shards and an index, with one
//! tensor in memory at a time, beside files that are taken as they are.
//!
//! Must not know what the tensors are.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, View};
use serde::Serialize;
use serde_json::{Value, json};

use crate::weights::DIFFUSERS_STEM;
use crate::{Error, Result};

/// The version of diffusers that folders are written in the manner of.
pub(crate) const DIFFUSERS_VERSION: &str = "0.36.0";
/// Of a shard: below what some file systems and the hub take.
const SHARD_BYTES: usize = 5_000_000_000;

/// Told the name of a stage, and how much of it is done, from 0 to 1.
pub type Report<'a> = &'a dyn Fn(&'static str, f64);

/// Tells of a stage that goes through bytes.
pub(crate) struct Way<'a> {
    report: Report<'a>,
    stage: &'static str,
    done_bytes: Cell<usize>,
    total_bytes: usize,
}

impl<'a> Way<'a> {
    pub(crate) fn new(report: Report<'a>, stage: &'static str, total_bytes: usize) -> Self {
        report(stage, 0.0);
        Self { report, stage, done_bytes: Cell::new(0), total_bytes }
    }

    pub(crate) fn advance(&self, bytes: usize) {
        self.done_bytes.set(self.done_bytes.get() + bytes);
        (self.report)(self.stage, self.done_bytes.get() as f64 / self.total_bytes.max(1) as f64);
    }
}

/// A tensor whose writing is told of.
struct Told<'a, T> {
    tensor: T,
    way: &'a Way<'a>,
}

impl<T: View> View for Told<'_, T> {
    fn dtype(&self) -> Dtype {
        self.tensor.dtype()
    }

    fn shape(&self) -> &[usize] {
        self.tensor.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let data = self.tensor.data();
        self.way.advance(data.len());
        data
    }

    fn data_len(&self) -> usize {
        self.tensor.data_len()
    }
}

/// Writes the folder `dir` of one of diffusers' components, which does not exist yet; `stage` is what its writing is
/// called.
///
/// # Errors
/// [`Error::Io`]; [`Error::Weights`] if a file cannot be written.
pub(crate) fn write_component<T: View>(
    dir: &Path,
    tensors: BTreeMap<String, T>,
    stage: &'static str,
    report: Report<'_>,
) -> Result<()> {
    std::fs::create_dir(dir).map_err(|source| Error::io(dir, source))?;
    let total_bytes: usize = tensors.values().map(T::data_len).sum();
    let way = Way::new(report, stage, total_bytes);
    let mut shards: Vec<Vec<(String, Told<'_, T>)>> = Vec::new();
    let mut room = 0;
    for (name, tensor) in tensors {
        let bytes = tensor.data_len();
        match shards.last_mut() {
            Some(shard) if bytes <= room => {
                room -= bytes;
                shard.push((name, Told { tensor, way: &way }));
            }
            _ => {
                room = SHARD_BYTES.saturating_sub(bytes);
                shards.push(vec![(name, Told { tensor, way: &way })]);
            }
        }
    }
    let (count, mut places) = (shards.len(), BTreeMap::new());
    for (index, shard) in shards.into_iter().enumerate() {
        let file = match count {
            1 => format!("{DIFFUSERS_STEM}.safetensors"),
            _ => format!("{DIFFUSERS_STEM}-{:05}-of-{count:05}.safetensors", index + 1),
        };
        places.extend(shard.iter().map(|(name, _)| (name.clone(), file.clone())));
        let path = dir.join(file);
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        safetensors::serialize_to_file(shard, Some(metadata), &path)
            .map_err(|error| Error::weights(&path, format!("cannot be written: {error}")))?;
    }
    if count > 1 {
        let path = dir.join(format!("{DIFFUSERS_STEM}.safetensors.index.json"));
        let index = json!({ "metadata": { "total_size": total_bytes }, "weight_map": places });
        std::fs::write(&path, format!("{index:#}\n")).map_err(|source| Error::io(&path, source))?;
    }
    Ok(())
}

pub(crate) fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|source| Error::io(path, source))
}

pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    std::fs::write(path, format!("{value:#}\n")).map_err(|source| Error::io(path, source))
}

pub(crate) fn write_config(dir: &Path, class: &str, config: &impl Serialize) -> Result<()> {
    let path = dir.join("config.json");
    let mut value =
        serde_json::to_value(config).map_err(|e| Error::config(&path, format!("cannot be written: {e}")))?;
    value["_class_name"] = json!(class);
    value["_diffusers_version"] = json!(DIFFUSERS_VERSION);
    write_json(&path, &value)
}

/// Puts the files of `from` that are `wanted`, by name, into `to`: hard links where both are on one file system, else
/// copies.
pub(crate) fn take_files(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    make_folder(to)?;
    for entry in std::fs::read_dir(from).map_err(|source| Error::io(from, source))? {
        let entry = entry.map_err(|source| Error::io(from, source))?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(&wanted) {
            continue;
        }
        // The files of the hub's cache are links to others.
        let source = entry.path().canonicalize().map_err(|e| Error::io(&entry.path(), e))?;
        if source.is_file() {
            let target = to.join(&name);
            if std::fs::hard_link(&source, &target).is_err() {
                std::fs::copy(&source, &target).map_err(|e| Error::io(&target, e))?;
            }
        }
    }
    Ok(())
}
