//! Where the hub and the cache are, as the environment of all of Hugging Face's tools says it.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use crate::{Error, Result, Secret};

/// Used where nobody names another.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where models come from, and where they are kept.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// The hub's URL; a path in it stays before those of the protocol.
    pub endpoint: String,
    /// Shown to the hub, and to nobody else.
    pub token: Option<Secret>,
    /// Whether no call is made at all.
    pub offline: bool,
    /// None where the environment names no place.
    cache_dir: Option<PathBuf>,
}

impl HubSettings {
    /// Reads `HF_ENDPOINT` (unless `endpoint` names one), `HF_TOKEN` or the token file, `HF_HUB_CACHE` or `HF_HOME`, and
    /// `HF_HUB_OFFLINE`, with `huggingface_hub`'s defaults.
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>, endpoint: &str) -> Self {
        let text = |name: &str| {
            let text = variable(name)?.into_string().ok()?.trim().to_owned();
            (!text.is_empty()).then_some(text)
        };
        let path = |name: &str| variable(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let user_cache = || path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
        let home = path("HF_HOME").or_else(|| Some(user_cache()?.join("huggingface")));
        let token_file = path("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")));
        let stored = || {
            let token = fs::read_to_string(token_file?).ok()?.trim().to_owned();
            (!token.is_empty()).then_some(token)
        };
        let configured = (!endpoint.is_empty()).then(|| endpoint.to_owned());
        Self {
            endpoint: configured
                .or_else(|| text("HF_ENDPOINT"))
                .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
            token: text("HF_TOKEN").or_else(stored).map(Secret::from),
            offline: text("HF_HUB_OFFLINE").is_some_and(|value| is_yes(&value)),
            cache_dir: path("HF_HUB_CACHE").or_else(|| Some(home?.join("hub"))),
        }
    }

    /// Where the repositories' folders lie.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the environment names no place.
    pub fn cache_dir(&self) -> Result<&Path> {
        self.cache_dir.as_deref().ok_or_else(|| Error::Invalid {
            field: "HF_HOME",
            why: "there is no place for models: set it, or HF_HUB_CACHE, to a folder".to_owned(),
        })
    }
}

fn is_yes(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}
