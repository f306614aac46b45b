//! Which of a component folder's files hold its weights, by their names alone. Opens none of them.

use std::collections::BTreeSet;
use std::path::Path;

/// How a component's weights lie in its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layout {
    /// All in this file.
    Single(String),
    /// In the shards that this index names.
    Sharded(String),
}

impl Layout {
    /// Which of a folder's files, given by name, are a component's weights: one precision's, where a repository holds
    /// several.
    ///
    /// # Errors
    /// What was expected and what was found.
    pub(crate) fn of(names: &BTreeSet<String>, stem: &str) -> Result<Self, String> {
        let (single, index) = (format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json"));
        if names.contains(&single) {
            return Ok(Self::Single(single));
        }
        if names.contains(&index) {
            return Ok(Self::Sharded(index));
        }
        let mut variants = names.iter().filter_map(|name| Self::variant(name, stem));
        match (variants.next(), variants.next()) {
            (Some(only), None) => Ok(only),
            (Some(first), Some(second)) => Err(format!(
                "expected one variant of {stem}, found {} and {}",
                first.file_name(),
                second.file_name()
            )),
            (None, _) => Err(format!("expected {single} or {index}, found neither")),
        }
    }

    /// A file of a folder that holds only one precision variant, e.g. `diffusion_pytorch_model.fp16.safetensors`.
    fn variant(name: &str, stem: &str) -> Option<Self> {
        let rest = name.strip_prefix(stem)?;
        // Shards ("-00001-of-00002") are reached through their index only.
        if rest.starts_with('.') && rest.ends_with(".safetensors") && !rest.contains("-of-") {
            return Some(Self::Single(name.to_owned()));
        }
        let is_json = Path::new(rest).extension().is_some_and(|extension| extension == "json");
        (rest.starts_with(".safetensors.index.") && is_json).then(|| Self::Sharded(name.to_owned()))
    }

    /// The single file, or the index.
    pub(crate) fn file_name(&self) -> &str {
        let (Self::Single(name) | Self::Sharded(name)) = self;
        name
    }
}
