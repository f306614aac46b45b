//! What a caller may ask of a pipeline, and what each published form was trained for.
//!
//! The defaults follow the authors' advice per model (`inference/cli_demo.py` of THUDM/CogVideo and the model cards),
//! not the defaults of diffusers' call. Relies on the components' configurations; must not know how a request
//! reached the process.

use std::path::Path;

use candle_core::Tensor;

use crate::image::RgbImage;
use crate::lora::LoraChoice;
use crate::pipeline_config::PipelineIndex;
use crate::scheduler::SchedulerKind;
use crate::transformer::TransformerConfig;
use crate::{Error, PipelineClass, Result};

/// Pixels of a latent, in each direction (diffusers' `vae_scale_factor_spatial`, from the VAE's four levels).
pub(crate) const SPATIAL_COMPRESSION_RATIO: usize = 8;

/// Everything that defines a video.
#[derive(Clone, Debug)]
pub struct GenerationParams {
    /// What the video shows.
    pub prompt: String,
    /// What it should not show; used when guidance is on.
    pub negative_prompt: String,
    /// The first frame; image-to-video models need it, the others refuse it.
    pub image: Option<RgbImage>,
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// Frames.
    pub num_frames: usize,
    /// Steps.
    pub num_inference_steps: usize,
    /// Classifier-free guidance; 1 or less turns it off.
    pub guidance_scale: f64,
    /// Whether the scale follows the timestep.
    pub use_dynamic_cfg: bool,
    /// Which solver walks the schedule.
    pub scheduler: SchedulerKind,
    /// Of torch's CPU generator.
    pub seed: u64,
    /// Decode (and encode) in overlapping tiles, for less memory.
    pub vae_tiling: bool,
    /// Used instead of drawing them, `(1, f, c, h, w)`; the generator is then not drawn from for them.
    pub initial_latents: Option<Tensor>,
    /// Adapters of the transformer's weights, all at once.
    pub lora: Vec<LoraChoice>,
}

/// The published forms of CogVideoX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelForm {
    /// CogVideoX-2B: sincos positions.
    Cogvideox2b,
    /// CogVideoX-5B: rotary positions.
    Cogvideox5b,
    /// CogVideoX-5B-I2V: rotary and learned positions, an image as further channels.
    Cogvideox5bI2v,
    /// CogVideoX1.5-5B: patches in time.
    Cogvideox15,
    /// CogVideoX1.5-5B-I2V: patches in time, an image, the `ofs` embedding.
    Cogvideox15I2v,
}

impl std::str::FromStr for ModelForm {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|form| form.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid("form", format!("expected one of {names}, found {name:?}"))
        })
    }
}

impl ModelForm {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Cogvideox2b, Self::Cogvideox5b, Self::Cogvideox5bI2v, Self::Cogvideox15, Self::Cogvideox15I2v];

    /// Of a pipeline's folder in diffusers' layout.
    ///
    /// # Errors
    /// The file and the key that is not as the model needs it.
    pub fn read(dir: &Path) -> Result<Self> {
        let index = PipelineIndex::read(dir)?;
        Ok(Self::of(index.class, &TransformerConfig::load(&dir.join("transformer/config.json"))?))
    }

    /// Told by the configuration, as no file names it.
    pub(crate) fn of(class: PipelineClass, config: &TransformerConfig) -> Self {
        match (class, config.patch_size_t.is_some(), config.use_rotary_positional_embeddings) {
            (PipelineClass::TextToVideo, true, _) => Self::Cogvideox15,
            (PipelineClass::ImageToVideo, true, _) => Self::Cogvideox15I2v,
            (PipelineClass::ImageToVideo, false, _) => Self::Cogvideox5bI2v,
            (PipelineClass::TextToVideo, false, true) => Self::Cogvideox5b,
            (PipelineClass::TextToVideo, false, false) => Self::Cogvideox2b,
        }
    }

    /// As on the command line, after the published repositories.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cogvideox2b => "2b",
            Self::Cogvideox5b => "5b",
            Self::Cogvideox5bI2v => "5b-i2v",
            Self::Cogvideox15 => "1.5-5b",
            Self::Cogvideox15I2v => "1.5-5b-i2v",
        }
    }

    /// Under which the authors publish weights of this form; fine-tuned ones may add their own terms.
    pub fn licence(self) -> &'static str {
        match self {
            Self::Cogvideox2b => "Apache-2.0",
            _ => "CogVideoX LICENSE (commercial use must be registered with the authors)",
        }
    }

    pub(crate) fn pipeline_class(self) -> PipelineClass {
        if self.takes_image() { PipelineClass::ImageToVideo } else { PipelineClass::TextToVideo }
    }

    /// Whether the model starts from an image.
    pub fn takes_image(self) -> bool {
        matches!(self, Self::Cogvideox5bI2v | Self::Cogvideox15I2v)
    }

    pub(crate) fn is_1_5(self) -> bool {
        matches!(self, Self::Cogvideox15 | Self::Cogvideox15I2v)
    }

    /// The 16-bit dtype that the model was trained in.
    pub fn half_dtype(self) -> candle_core::DType {
        if self.runs_in_f16() { candle_core::DType::F16 } else { candle_core::DType::BF16 }
    }

    /// Whether activations stay within f16's range: only the 2B was trained in it, the others overflow to black video
    /// (zai-org/CogVideo issues 593, 637).
    pub(crate) fn runs_in_f16(self) -> bool {
        self == Self::Cogvideox2b
    }
}

/// What a model is asked for where a request says nothing, and what it was trained for.
#[derive(Clone, Debug)]
pub struct ModelDefaults {
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// Frames.
    pub num_frames: usize,
    /// Frames a second.
    pub fps: u32,
    /// Steps.
    pub num_inference_steps: usize,
    /// Guidance.
    pub guidance_scale: f64,
    /// Dynamic guidance.
    pub use_dynamic_cfg: bool,
    /// Solver.
    pub scheduler: SchedulerKind,
    /// Frame counts that the model was trained for, ascending; the decoder yields exactly these counts.
    pub trained_num_frames: Vec<usize>,
}

/// Latent rows and columns of the 1.5 models' own size, 768x1360: their `config.json` carries 300x300, which only
/// bounds the positions (model card of THUDM/CogVideoX1.5-5B).
const SAMPLE_1_5: (usize, usize) = (96, 170);

impl ModelDefaults {
    pub(crate) fn of(form: ModelForm, config: &TransformerConfig) -> Self {
        let (rows, columns, fps) = if form.is_1_5() {
            (config.sample_height.min(SAMPLE_1_5.0), config.sample_width.min(SAMPLE_1_5.1), 16)
        } else {
            (config.sample_height, config.sample_width, 8)
        };
        let is_2b = form == ModelForm::Cogvideox2b;
        Self {
            height: rows * SPATIAL_COMPRESSION_RATIO,
            width: columns * SPATIAL_COMPRESSION_RATIO,
            num_frames: config.sample_frames,
            fps,
            num_inference_steps: 50,
            guidance_scale: 6.0,
            use_dynamic_cfg: !is_2b,
            scheduler: if is_2b { SchedulerKind::Ddim } else { SchedulerKind::Dpm },
            trained_num_frames: trained_num_frames(form, config.sample_frames),
        }
    }
}

/// 8k+1 up to the configured count (1.0), 16k+1 up to ten seconds (1.5; THUDM/CogVideo pull request 678), one count
/// only for the learned table of 5B-I2V. Other counts decode to another number of frames than asked for.
fn trained_num_frames(form: ModelForm, sample_frames: usize) -> Vec<usize> {
    match form {
        ModelForm::Cogvideox5bI2v => vec![sample_frames],
        ModelForm::Cogvideox2b | ModelForm::Cogvideox5b => (9..=sample_frames).step_by(8).collect(),
        // 81 frames are five seconds; the models reach twice as far.
        ModelForm::Cogvideox15 | ModelForm::Cogvideox15I2v => (17..2 * sample_frames).step_by(16).collect(),
    }
}

/// The shape of a run's latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LatentShape {
    /// Latent frames, the additional ones included.
    pub(crate) frames: usize,
    /// Latent frames that only fill a patch in time; dropped, from the front, before decoding (1.5).
    pub(crate) additional_frames: usize,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl LatentShape {
    /// For one video of `params`.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] for a size that does not divide into latents and patches.
    pub(crate) fn of(params: &GenerationParams, config: &TransformerConfig) -> Result<Self> {
        Self::of_size([params.num_frames, params.height, params.width], config)
    }

    /// For one video of so many frames, pixels high and wide.
    ///
    /// # Errors
    /// Those of [`Self::of`].
    pub(crate) fn of_size(
        [num_frames, height, width]: [usize; 3],
        config: &TransformerConfig,
    ) -> Result<Self> {
        let pixels = SPATIAL_COMPRESSION_RATIO * config.patch_size;
        for (field, value) in [("height", height), ("width", width)] {
            if value == 0 || !value.is_multiple_of(pixels) {
                return Err(Error::invalid(
                    field,
                    format!("expected a multiple of {pixels} pixels, found {value}"),
                ));
            }
        }
        if num_frames == 0 {
            return Err(Error::invalid("num_frames", "expected at least 1, found 0"));
        }
        let frames = (num_frames - 1) / config.temporal_compression_ratio + 1;
        let additional_frames = frames.next_multiple_of(config.patch_frames()) - frames;
        Ok(Self {
            frames: frames + additional_frames,
            additional_frames,
            channels: config.out_channels,
            height: height / SPATIAL_COMPRESSION_RATIO,
            width: width / SPATIAL_COMPRESSION_RATIO,
        })
    }

    /// `(1, f, c, h, w)`.
    pub(crate) fn dims(self) -> [usize; 5] {
        [1, self.frames, self.channels, self.height, self.width]
    }
}
