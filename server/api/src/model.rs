//! What the server offers: one [`ModelCard`] per model, and the tokenizer's count of a prompt.
//!
//! The binary builds both from the loaded pipeline. This crate reads limits and defaults from the card and
//! knows no weights, no tokenizer and no device.

use std::fmt;

use futures_util::future::BoxFuture;

/// Counts a prompt's tokens as the model's text encoder sees them.
pub trait CountTokens: Send + Sync {
    /// Pieces of the prompt as this model has it, the end marker included, before any truncation.
    fn count(&self, model: &str, prompt: &str) -> usize;
}

/// An adapter of the server's, as one model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// Name in requests.
    pub name: String,
    /// SHA-256 of its file, in hexadecimal; or why the model cannot be used with it, in words for the client.
    pub sha256: Result<String, String>,
}

/// Knows which adapters there are.
pub trait OfferAdapters: Send + Sync {
    /// Those there are now, by name, as this model sees them. Must come to an end by itself.
    fn adapters<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Vec<Adapter>>;
}

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}x{}", self.width, self.height)
    }
}

/// The frame counts a model makes: `stride * k + 1` from `min` to `max`.
///
/// The VAE turns one latent frame into the first picture and each further one into four, and the transformer
/// takes latent frames in groups; other counts give a clip of another length than asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLattice {
    /// Distance between two counts: 8, or 16 for the 1.5 models.
    pub stride: u32,
    /// The fewest frames.
    pub min: u32,
    /// The most frames.
    pub max: u32,
}

impl FrameLattice {
    /// The counts, ascending.
    pub fn counts(self) -> impl Iterator<Item = u32> {
        (self.min..=self.max).step_by(self.stride.max(1) as usize)
    }

    pub(crate) fn contains(self, num_frames: u32) -> bool {
        self.counts().any(|count| count == num_frames)
    }

    /// The count nearest to `frames`, the longer of two equally near; none if `frames` lies more than half a
    /// stride outside.
    pub(crate) fn nearest(self, frames: f64) -> Option<u32> {
        let reach = f64::from(self.stride) / 2.0;
        let distance = |count: u32| (f64::from(count) - frames).abs();
        self.counts()
            .filter(|&count| distance(count) <= reach)
            .min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then(b.cmp(&a)))
    }
}

impl fmt::Display for FrameLattice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            return write!(formatter, "{}", self.min);
        }
        write!(formatter, "{}k+1 from {} to {}", self.stride, self.min, self.max)
    }
}

/// The step counts a model takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRule {
    /// Steps when the client names none.
    pub default: u32,
    /// The most steps.
    pub max: u32,
    /// Counts in range whose timestep schedule cannot be run.
    pub refused: Vec<u32>,
}

/// The two samplers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// `CogVideoXDDIMScheduler`.
    Ddim,
    /// `CogVideoXDPMScheduler`.
    Dpm,
}

impl Scheduler {
    pub(crate) const ALL: [Self; 2] = [Self::Ddim, Self::Dpm];

    /// The name in requests and in the job's parameters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Dpm => "dpm",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheduler| scheduler.as_str() == name)
    }
}

/// What one model takes and what it does when not told.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelCard {
    /// Name in requests.
    pub id: String,
    /// Unix seconds of the model's making, as far as known.
    pub created: i64,
    /// Who made it.
    pub owned_by: String,
    /// The number format it runs in: `f32`, `f16` or `bf16`.
    pub dtype: String,
    /// Whether it starts from an image instead of from text alone.
    pub supports_image: bool,
    /// The size when the client names none.
    pub default_size: Size,
    /// All sizes it was trained for, the default among them.
    pub sizes: Vec<Size>,
    /// Frame counts it makes.
    pub num_frames: FrameLattice,
    /// Frames when the client names none.
    pub default_num_frames: u32,
    /// Frames a second of its videos.
    pub fps: u32,
    /// Step counts it takes.
    pub num_inference_steps: StepRule,
    /// Guidance when the client names none.
    pub guidance_scale: f64,
    /// Whether guidance grows over the steps when the client does not say.
    pub use_dynamic_cfg: bool,
    /// Sampler when the client names none.
    pub scheduler: Scheduler,
    /// Text positions of the transformer; a longer prompt loses its end.
    pub max_prompt_tokens: usize,
    /// What whoever sees its videos must know, for example that the weights are random.
    pub notice: Option<String>,
}

/// The models of this server; the first is the one requests without `model` get.
#[derive(Debug, Clone)]
pub struct ModelCatalog {
    default: ModelCard,
    others: Vec<ModelCard>,
}

impl ModelCatalog {
    /// A catalog whose default is `default`.
    pub fn new(default: ModelCard, others: Vec<ModelCard>) -> Self {
        Self { default, others }
    }

    /// The model of requests that name none.
    pub fn default_model(&self) -> &ModelCard {
        &self.default
    }

    /// The model with this id.
    pub fn get(&self, id: &str) -> Option<&ModelCard> {
        self.iter().find(|card| card.id == id)
    }

    /// All models, the default first.
    pub fn iter(&self) -> impl Iterator<Item = &ModelCard> {
        std::iter::once(&self.default).chain(&self.others)
    }
}
