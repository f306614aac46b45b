//! The configuration: typed sections, read once at start from `config/default.toml`, a file, the environment and the
//! command line, the later over the earlier.
//!
//! The built-in file is also the list of all keys: a layer that names another is refused. Messages name the key and
//! the layer it came from. This module opens nothing but the file: the environment is handed in.

mod device;
mod layers;
mod sections;
pub(crate) mod table;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use device::{DeviceSpec, PartDevice};
pub use sections::*;

use crate::telemetry;

/// The result of loading a configuration.
pub type Result<T> = std::result::Result<T, Error>;

const DEFAULTS: &str = include_str!("../../../config/default.toml");

/// Everything an operator decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the job table and the finished videos lie.
    pub data_dir: PathBuf,
    /// How the server is reached and how it stops.
    pub server: Server,
    /// Bounds on one request.
    pub limits: Limits,
    /// Which model, and how it computes.
    pub model: Model,
    /// Further models, by their names in requests.
    pub models: BTreeMap<String, NamedModel>,
    /// Where models come from.
    pub hub: Hub,
    /// The job table.
    pub queue: Queue,
    /// How long a worker keeps at a video.
    pub worker: Worker,
    /// The files made.
    pub video: Video,
    /// How long files are kept.
    pub retention: Retention,
    /// Who is told when a video has ended.
    pub webhooks: Webhooks,
    /// Which prompts are refused.
    pub prompt_check: PromptCheck,
    /// Who makes prompts better.
    pub refine: Refine,
    /// What is logged.
    pub log: Log,
}

/// What the command line says about the configuration.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// A file over the built-in defaults; without one, the environment's `COGVIDEOX_CONFIG` is asked.
    pub file: Option<PathBuf>,
    /// Dotted keys and their values, over everything else.
    pub overrides: Vec<(String, String)>,
}

impl Config {
    /// Reads the layers and checks what they come to.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML, a key that does not exist, a value of the wrong kind or out of
    /// range: each named with the layer it came from.
    pub fn load(
        options: &LoadOptions,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self> {
        let environment = layers::Environment::of(environment)?;
        let mut layers = layers::Layers::new(DEFAULTS)?;
        if let Some(file) = options.file.as_deref().or(environment.file.as_deref()) {
            layers.add_file(file)?;
        }
        layers.add_environment(&environment)?;
        layers.add_overrides(&options.overrides)?;
        let config: Self = layers.deserialize()?;
        config.check(&layers)?;
        Ok(config)
    }

    /// The whole configuration as TOML, every key in place.
    ///
    /// # Errors
    /// [`Error::Unprintable`] for a path that is not Unicode.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(Error::Unprintable)
    }

    /// What the types cannot say.
    fn check(&self, layers: &layers::Layers) -> Result<()> {
        let limits = &self.limits;
        if limits.delete_wait_seconds >= limits.request_timeout_seconds.get() {
            let reason = format!(
                "expected less than limits.request_timeout_seconds = {}, found {}",
                limits.request_timeout_seconds, limits.delete_wait_seconds
            );
            return Err(layers.invalid("limits.delete_wait_seconds", reason));
        }
        if self.model.device.is_empty() {
            return Err(layers.invalid("model.device", "expected at least one device, found none".to_owned()));
        }
        for (key, part) in [
            ("model.text_encoder_device", self.model.text_encoder_device),
            ("model.vae_device", self.model.vae_device),
        ] {
            if part.0.is_some() && self.model.device.contains(&DeviceSpec::Cpu) {
                let found = String::from(part);
                return Err(layers
                    .invalid(key, format!("expected nothing beside model.device = cpu, found {found:?}")));
            }
        }
        if let Err(error) = telemetry::event_filter(&self.log.filter) {
            return Err(layers.invalid("log.filter", error.to_string()));
        }
        Ok(())
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The file built into the program.
    Defaults,
    /// A file.
    File(PathBuf),
    /// An environment variable, by name.
    Variable(String),
    /// The command line.
    CommandLine,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Defaults => f.write_str("the built-in defaults"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::CommandLine => f.write_str("the command line"),
        }
    }
}

/// Why there is no configuration. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("configuration file {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// The file is not TOML.
    #[error("configuration in {origin}, line {line}: {message}")]
    Syntax {
        /// The file.
        origin: Origin,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// There is no such key.
    #[error("unknown configuration key {key} in {origin}")]
    UnknownKey {
        /// Dotted.
        key: String,
        /// Where it was found.
        origin: Origin,
    },
    /// The value is of the wrong kind, or not one of those allowed.
    #[error("configuration key {key} in {origin}: {reason}")]
    Invalid {
        /// Dotted.
        key: String,
        /// Where the value came from.
        origin: Origin,
        /// What was expected, and what found.
        reason: String,
    },
    /// A variable of ours is not Unicode.
    #[error("environment variable {name}: expected unicode text")]
    NotUnicode {
        /// The variable.
        name: String,
    },
    /// The configuration has no form in TOML.
    #[error("the configuration cannot be printed: {0}")]
    Unprintable(toml::ser::Error),
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|reason| Error::Unreadable { path: path.to_owned(), reason })
}
