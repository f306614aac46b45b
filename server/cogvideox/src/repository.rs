//! Which files of a repository a pipeline reads, so that whoever copies one takes these and no others: not the same
//! weights in other formats and precisions, no pictures, no texts.
//!
//! Works on names, as a hub lists them, with `/` between folders. The small files say which weights there are, so they
//! are asked for first. Knows nothing of where the files come from.

use std::collections::BTreeSet;
use std::path::Path;

use crate::layout::Layout;
use crate::weights::{DIFFUSERS_STEM, TRANSFORMERS_STEM, shard_paths};
use crate::{Error, Result};

/// Without these there is no pipeline.
const NEEDED: [&str; 6] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/spiece.model",
    "transformer/config.json",
    "vae/config.json",
];

/// These are read where they exist.
const READ_IF_THERE: [&str; 3] =
    ["tokenizer/added_tokens.json", "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json"];

/// The components with weights, and what those are called.
const COMPONENTS: [(&str, &str); 3] =
    [("text_encoder", TRANSFORMERS_STEM), ("transformer", DIFFUSERS_STEM), ("vae", DIFFUSERS_STEM)];

/// All that a pipeline reads but its weights: what [`crate::ModelDescription::read`] needs, the configurations, and the
/// indices of weights in shards.
///
/// # Errors
/// [`Error::Weights`] for a repository that is no pipeline, naming the first file that is missing.
pub fn small_files(listing: &BTreeSet<String>) -> Result<Vec<String>> {
    if let Some(missing) = NEEDED.iter().find(|path| !listing.contains(**path)) {
        let message = "is missing: expected a pipeline in diffusers' layout";
        return Err(Error::weights(Path::new(missing), message));
    }
    let read = NEEDED.iter().chain(&READ_IF_THERE).filter(|path| listing.contains(**path));
    let mut files: Vec<String> = read.map(|path| (*path).to_owned()).collect();
    for (folder, stem) in COMPONENTS {
        if let Layout::Sharded(index) = layout(listing, folder, stem)? {
            files.push(format!("{folder}/{index}"));
        }
    }
    Ok(files)
}

/// The weights of a repository whose small files lie in `dir`.
///
/// # Errors
/// [`Error::Weights`] for weights that are not in the listing, and for an index that is none.
pub fn weight_files(listing: &BTreeSet<String>, dir: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for (folder, stem) in COMPONENTS {
        match layout(listing, folder, stem)? {
            Layout::Single(name) => files.push(format!("{folder}/{name}")),
            Layout::Sharded(index) => {
                let index = dir.join(folder).join(index);
                for shard in shard_paths(&index)? {
                    let name = shard.file_name().unwrap_or_default().to_string_lossy();
                    files.push(format!("{folder}/{name}"));
                    if !listing.contains(&files[files.len() - 1]) {
                        let message = format!("names {name}, which is not there");
                        return Err(Error::weights(&index, message));
                    }
                }
            }
        }
    }
    Ok(files)
}

/// Whether a folder holds every file that a pipeline reads. What is in them is seen when they are loaded.
pub fn is_complete(dir: &Path) -> bool {
    let listing: BTreeSet<String> = [""]
        .into_iter()
        .chain(["scheduler", "tokenizer"])
        .chain(COMPONENTS.map(|(folder, _)| folder))
        .flat_map(|folder| files_in(dir, folder))
        .collect();
    small_files(&listing).and_then(|_| weight_files(&listing, dir)).is_ok()
}

/// The files directly in one folder, by their paths in the repository.
fn files_in(dir: &Path, folder: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir.join(folder)) else { return Vec::new() };
    let files = entries.flatten().filter(|entry| entry.path().is_file());
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    files.map(|entry| format!("{prefix}{}", entry.file_name().to_string_lossy())).collect()
}

fn layout(listing: &BTreeSet<String>, folder: &str, stem: &str) -> Result<Layout> {
    let inside = |path: &String| path.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned);
    let names: BTreeSet<String> = listing.iter().filter_map(inside).collect();
    Layout::of(&names, stem).map_err(|message| Error::weights(Path::new(folder), message))
}
