//! The sections of the configuration: what an operator can decide, by name, kind and unit.
//!
//! Plain data; `config/default.toml` says more about each key and holds its default. Reads and checks nothing.

use std::{fmt, net::IpAddr, num::NonZeroU32, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{DeviceSpec, PartDevice};

/// How the server is reached and how it stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// The address to listen on.
    pub address: IpAddr,
    /// The port to listen on; 0 lets the system choose.
    pub port: u16,
    /// How long a stopping server may take to put the video at hand back in the queue.
    pub shutdown_grace_seconds: u32,
    /// How long a client may take to send a request's headers.
    pub header_timeout_seconds: NonZeroU32,
    /// Names under which a server without API keys may be called, besides loopback names and addresses.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may call this server from a browser.
    pub cors_origins: Vec<String>,
    /// Whether `/metrics` needs an API key like everything else.
    pub metrics_need_key: bool,
    /// Whether OpenAI's model names mean the default model.
    pub accept_sora_names: bool,
}

/// Bounds on one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of any body.
    pub max_body_bytes: NonZeroU32,
    /// Bytes of an image that a video starts from.
    pub max_image_bytes: NonZeroU32,
    /// Characters of a prompt.
    pub max_prompt_chars: NonZeroU32,
    /// How long a request may take, streams and downloads excepted.
    pub request_timeout_seconds: NonZeroU32,
    /// How long DELETE waits for a running video to stop; less than `request_timeout_seconds`.
    pub delete_wait_seconds: u32,
    /// The longest that `Prefer: wait` may ask for.
    pub max_wait_seconds: u32,
    /// Requests of one API key in a minute; 0 for any number.
    pub requests_per_minute_per_key: u32,
    /// Videos of one API key that wait; 0 for any number.
    pub max_queued_per_key: u32,
    /// Videos of one API key that are being made; 0 for any number.
    pub max_running_per_key: u32,
    /// Event streams that one API key may have open.
    pub max_streams_per_key: NonZeroU32,
}

/// Which model, and how it computes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The model's weights.
    pub path: ModelPath,
    /// What it computes in.
    pub dtype: DType,
    /// Where it computes: one worker for each.
    pub device: Vec<DeviceSpec>,
    /// Where prompts are encoded, if not where the transformer computes.
    pub text_encoder_device: PartDevice,
    /// Where videos are decoded, if not where the transformer computes.
    pub vae_device: PartDevice,
    /// Whether the VAE decodes in tiles.
    pub vae_tiling: bool,
    /// What tensors may take of a GPU's memory; 0 for what is free.
    pub memory_limit_mib: u32,
    /// How many models a worker keeps in memory, where there are several.
    pub keep_loaded: NonZeroU32,
    /// The folder of adapters that requests can name; empty for none.
    pub lora_dir: PathBuf,
}

/// A further model, by its name in requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedModel {
    /// The model's weights.
    pub path: ModelPath,
    /// What it computes in; as the first model if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<DType>,
}

/// Where the model's weights are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PathBuf", into = "PathBuf")]
pub enum ModelPath {
    /// Built into the program.
    Demo,
    /// A folder in diffusers' layout, or a name that stands for one.
    Folder(PathBuf),
}

impl From<PathBuf> for ModelPath {
    fn from(path: PathBuf) -> Self {
        // As text: for `Path`, "demo/" and "demo" are equal, and the first means a folder.
        if path.as_os_str() == "demo" { Self::Demo } else { Self::Folder(path) }
    }
}

impl From<ModelPath> for PathBuf {
    fn from(path: ModelPath) -> Self {
        match path {
            ModelPath::Demo => "demo".into(),
            ModelPath::Folder(folder) => folder,
        }
    }
}

/// A floating-point format, or one of 8 bits for the weights of the transformer's blocks; or what suits the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DType {
    /// f32 on a processor; on a GPU the 8 bits that the weights are stored in, or else the model's own 16.
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits, IEEE half precision.
    F16,
    /// 16 bits with the exponent of 32.
    Bf16,
    /// Weights and activations in 8 bits, e4m3; the rest in the model's own 16. GPUs only.
    Fp8,
    /// Weights and activations in 8 bits, integers; the rest in the model's own 16. GPUs only.
    Int8,
    /// Weights in 8 bits, integers; all else in the model's own 16. GPUs only.
    Int8WeightOnly,
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
            Self::Int8WeightOnly => "int8-weight-only",
        })
    }
}

/// An amount of memory on the command line, such as `8GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// At least 1.
    pub mib: u32,
}

impl FromStr for MemoryLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mib = match (text.strip_suffix("GiB"), text.strip_suffix("MiB")) {
            (Some(gib), _) => gib.parse().ok().and_then(|gib: u32| gib.checked_mul(1024)),
            (_, Some(mib)) => mib.parse().ok(),
            _ => None,
        };
        let limit = mib.filter(|mib| *mib > 0).map(|mib| Self { mib });
        limit.ok_or_else(|| format!("expected a whole number of MiB or GiB, as in 8GiB, found {text:?}"))
    }
}

/// Where models come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// The hub's URL; the environment's, or Hugging Face's, if empty.
    pub endpoint: String,
}

/// The job table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// How many videos may wait.
    pub capacity: NonZeroU32,
    /// How long after its last heartbeat a worker is given up for lost.
    pub lease_seconds: NonZeroU32,
    /// How many attempts in a row may be lost with their worker, none getting further.
    pub max_attempts: NonZeroU32,
    /// How often a video may be passed over for later ones whose model is loaded.
    pub model_run_max: u32,
}

/// How long a worker keeps at a video.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// The shortest time between two checkpoints.
    pub checkpoint_interval_seconds: u32,
    /// A video without a finished step for so many times the usual is ended.
    pub hang_factor: NonZeroU32,
    /// But not before so long.
    pub hang_min_seconds: NonZeroU32,
    /// Whether pictures of running videos are shown to those who ask.
    pub previews: bool,
}

/// The files made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Video {
    /// Picture quality against file size.
    #[serde(with = "quality_word")]
    pub quality: media::Quality,
    /// Whether a file says how it was made.
    pub metadata: bool,
}

/// How long files are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Hours from the end of a video to the removal of its files; 0 for never.
    pub max_age_hours: u32,
    /// Mebibytes of all files together; 0 for any number.
    pub max_total_mib: u64,
    /// Mebibytes of the disk to be left free: the oldest files go for it, and no videos are taken below it.
    pub min_free_mib: u64,
    /// Days for which events, delivered webhooks and idempotency keys are remembered.
    pub history_days: NonZeroU32,
}

/// Who is told when a video has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhooks {
    /// Signs the deliveries, `whsec_` and base64; empty for no webhooks.
    pub secret: Secret,
    /// Whether they may go to private addresses.
    pub allow_private: bool,
    /// Whether they may go over plain HTTP.
    pub allow_http: bool,
    /// Hosts and networks that they may go to although these are not public.
    pub allowed: Vec<String>,
}

/// Which prompts are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptCheck {
    /// A file of terms that no prompt may hold; empty for none.
    pub blocklist: PathBuf,
    /// A service that is asked about each prompt; empty for none.
    pub hook_url: String,
    /// Whether prompts pass while the service does not answer.
    pub fail_open: bool,
    /// How long it may take.
    pub timeout_seconds: NonZeroU32,
}

/// Who makes prompts better.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refine {
    /// A chat endpoint of OpenAI's form, up to and including `/v1`; empty for none.
    pub base_url: String,
    /// The chat model.
    pub model: String,
    /// Its API key; empty for none.
    pub api_key: Secret,
    /// What it is told to do; empty for the built-in instruction.
    pub system_prompt: String,
    /// How long it may take.
    pub timeout_seconds: NonZeroU32,
}

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(none)" } else { "(secret)" })
    }
}

impl Serialize for Secret {
    /// As what `check-config` may print.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { "(secret)" })
    }
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The shape of a line.
    pub format: LogFormat,
    /// Which events are written: a level, or a list of `target=level`.
    pub filter: String,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Plain,
    /// One JSON object a line.
    Json,
}

/// `media::Quality` by its own words: `media` knows no serde.
mod quality_word {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        quality: &media::Quality,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(quality.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<media::Quality, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
