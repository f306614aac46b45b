//! What a model's parts take at a published model's shapes, with random weights and without files.
//!
//! Each part is loaded alone, run once to warm up, and timed by the device's own clock. Of operations only
//! products are counted. Must not know how results are shown.

mod loading;

use candle_core::{DType, Tensor as HostTensor};
use device::ops::attention::{Attention, Heads};
use device::ops::linear::{Activation, Linear};
use device::ops::random::normal;
use device::{Device, Event, Tensor};

use super::load::{Configs, Placement};
use super::plan::{ChosenPlan, FreeMemory, Job, MemoryPlan, Needs, Planner};
use super::source::{RANDOM_STD, Source, dtype_of};
use super::text_encoder::GpuTextEncoder;
use super::transformer::GpuTransformer;
use super::vae::GpuVae;
use super::{Precision, Preset};
use crate::Result;
use crate::ops::is_finite;
use crate::pipeline::{Autoencoder, Denoiser, TextEncoder};
use crate::transformer::TransformerInput;

pub use self::loading::{Loading, loading};

/// Runs of a lone operation that are timed together.
const REPETITIONS: usize = 3;
/// Standard deviation of a lone attention's queries, keys and values.
const ATTENTION_STD: f32 = 0.1;
/// A block's passes over its states where all between attention and linear layers is fused.
const PASSES: f64 = 12.0;
/// No draw is further out, in standard deviations.
const MAX_DEVIATIONS: f32 = 6.0;

/// What is measured, and on what.
pub struct Bench {
    /// The shapes.
    pub preset: Preset,
    /// What is computed in.
    pub dtype: DType,
    /// Of the transformer's blocks.
    pub precision: Precision,
    /// How memory is used.
    pub plan: MemoryPlan,
    /// Where.
    pub device: Device,
}

/// A part's time and memory.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Of one run.
    pub seconds: f64,
    /// In tensors at most, weights included.
    pub peak_bytes: usize,
}

impl Bench {
    /// One step of the transformer: both prompts of the guidance, the mean of `steps`; and whether what it computed is
    /// finite.
    ///
    /// # Errors
    /// The device's.
    pub fn transformer_step(&self, steps: usize) -> Result<(Measured, bool)> {
        let Configs { transformer: config, .. } = self.preset.configs();
        let Job { latents: [frames, height, width], text_tokens, num_inference_steps, .. } =
            self.preset.job();
        let (channels, text_dim) = (config.in_channels, config.text_embed_dim);
        self.device.reset_peak();
        let memory = self.plan.transformer_memory();
        let model =
            GpuTransformer::load(config, Source::Random, self.dtype, &self.device, memory, self.precision)?;
        let timesteps: Vec<usize> = (0..num_inference_steps).collect();
        model.prepare(&timesteps, 0.0)?;
        let input = TransformerInput {
            hidden_states: &self.host_normal(&[2, frames, channels, height, width])?,
            encoder_hidden_states: &self.host_normal(&[2, text_tokens, text_dim])?,
            timestep: 0,
            ofs: 0.0,
            positions: &model.positions(frames, height, width)?,
            lora: &[],
        };
        let mut predicted = None;
        let measured = self.measured(steps, || {
            predicted = Some(model.forward(&input, &mut || Ok(()))?);
            Ok(())
        })?;
        Ok((measured, predicted.map_or(Ok(false), |noise| is_finite(&noise))?))
    }

    /// The attention of one step, alone.
    ///
    /// # Errors
    /// The device's.
    pub fn attention(&self) -> Result<Measured> {
        let config = self.preset.configs().transformer;
        let (heads, head_dim) = (config.num_attention_heads, config.attention_head_dim);
        self.device.reset_peak();
        let dims = [2, self.tokens(), 3 * config.inner_dim()];
        let qkv = normal(&self.device, &dims, dtype_of(self.dtype)?, ATTENTION_STD, 1)?;
        let [q, k, v] = Heads::of_qkv(&qkv)?;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let largest = MAX_DEVIATIONS * ATTENTION_STD;
        let score_bound = Some(head_dim as f32 * largest * largest * scale);
        let attention = Attention { q, k, v, heads, head_dim, scale, bias: None, score_bound };
        let once = self.measured(REPETITIONS, || Ok(attention.forward().map(drop)?))?;
        Ok(Measured { seconds: once.seconds * config.num_layers as f64, ..once })
    }

    /// The four linear layers of every block of one step, alone.
    ///
    /// # Errors
    /// The device's.
    pub fn linear(&self) -> Result<Measured> {
        let config = self.preset.configs().transformer;
        let (dim, rows) = (config.inner_dim(), 2 * self.tokens());
        self.device.reset_peak();
        let [qkv, out, ff_in, ff_out] = [(dim, 3 * dim), (dim, dim), (dim, 4 * dim), (4 * dim, dim)]
            .map(|(inputs, outputs)| self.random_linear(inputs, outputs));
        let (qkv, out, ff_in, ff_out) = (qkv?, out?, ff_in?, ff_out?);
        let x = normal(&self.device, &[rows, dim], dtype_of(self.dtype)?, 1.0, 2)?;
        let once = self.measured(REPETITIONS, || {
            qkv.forward(&x, Activation::Identity)?;
            out.forward(&x, Activation::Identity)?;
            ff_out.forward(&ff_in.forward(&x, Activation::GeluTanh)?, Activation::Identity)?;
            Ok(())
        })?;
        Ok(Measured { seconds: once.seconds * config.num_layers as f64, ..once })
    }

    /// The whole video's decoding.
    ///
    /// # Errors
    /// The device's.
    pub fn vae_decode(&self) -> Result<Measured> {
        let Configs { vae: config, transformer, .. } = self.preset.configs();
        let [frames, height, width] = self.preset.job().latents;
        // Frames that only fill up a patch in time are not decoded; a video's own count of latents is odd.
        let frames = if transformer.patch_frames() > 1 { frames - 1 } else { frames };
        let channels = config.latent_channels;
        self.device.reset_peak();
        let vae = GpuVae::load(config, &Source::Random, self.dtype, &self.device)?;
        let tiling = self.plan.vae_tiling.then(|| vae.default_tiling());
        let latents = self.host_normal(&[1, channels, frames, height, width])?;
        self.measured(1, || vae.decode_frames(&latents, tiling.as_ref(), &mut |_| Ok(())).map(drop))
    }

    /// The encoding of a prompt and its negative prompt.
    ///
    /// # Errors
    /// The device's.
    pub fn text_encode(&self) -> Result<Measured> {
        let config = self.preset.configs().text_encoder;
        self.device.reset_peak();
        let residence = self.plan.text_encoder;
        let model = GpuTextEncoder::load(config, &Source::Random, self.dtype, &self.device, residence)?;
        let ids = vec![0; self.preset.job().text_tokens];
        self.measured(REPETITIONS, || (0..2).try_for_each(|_| model.forward(&ids, &mut || Ok(())).map(drop)))
    }

    /// Of a step's linear layers: `24 d²` a token and layer.
    pub fn linear_flops(&self) -> f64 {
        let config = self.preset.configs().transformer;
        let (dim, layers) = (config.inner_dim() as f64, config.num_layers as f64);
        2.0 * self.tokens() as f64 * layers * 24.0 * dim * dim
    }

    /// Of a step's attention: `4 s² d` a sample and layer.
    pub fn attention_flops(&self) -> f64 {
        let config = self.preset.configs().transformer;
        let tokens = self.tokens() as f64;
        2.0 * config.num_layers as f64 * 4.0 * tokens * tokens * config.inner_dim() as f64
    }

    /// What the rest of a step reads and writes at least: the states, a few times a block.
    pub fn rest_bytes(&self) -> f64 {
        let config = self.preset.configs().transformer;
        let states = (2 * self.tokens() * config.inner_dim() * self.dtype.size_in_bytes()) as f64;
        PASSES * config.num_layers as f64 * states
    }

    /// Text and video tokens of one prompt.
    fn tokens(&self) -> usize {
        let config = self.preset.configs().transformer;
        let Job { latents: [frames, height, width], text_tokens, .. } = self.preset.job();
        let p = config.patch_size;
        text_tokens + frames / config.patch_frames() * (height / p) * (width / p)
    }

    fn random_linear(&self, inputs: usize, outputs: usize) -> Result<Linear> {
        let dtype = dtype_of(self.dtype)?;
        let draw = |dims: &[usize]| normal(&self.device, dims, dtype, RANDOM_STD, outputs as u64);
        let bias: Tensor = draw(&[outputs])?;
        let linear = Linear::dense(draw(&[outputs, inputs])?, Some(bias))?;
        Ok(match self.precision.eight_bit() {
            Some(kind) => linear.to_8bit(kind)?,
            None => linear,
        })
    }

    fn host_normal(&self, dims: &[usize]) -> Result<HostTensor> {
        let host = candle_core::Device::Cpu;
        Ok(HostTensor::randn(0f32, 1f32, dims, &host)?.to_dtype(self.dtype)?)
    }

    /// The mean of `count` runs after one that is not timed.
    fn measured(&self, count: usize, mut run: impl FnMut() -> Result<()>) -> Result<Measured> {
        run()?;
        self.device.synchronize()?;
        let count = count.max(1);
        let start = Event::record(&self.device)?;
        for _ in 0..count {
            run()?;
        }
        let milliseconds = start.milliseconds_to(&Event::record(&self.device)?)?;
        let peak_bytes = self.device.usage().peak_bytes;
        Ok(Measured { seconds: milliseconds / 1e3 / count as f64, peak_bytes })
    }
}

/// What every plan needs at a model's shapes, on a device like this one; a planner will do.
///
/// # Errors
/// None but those of shapes that the model cannot run.
pub fn plan_needs(
    preset: Preset,
    dtype: DType,
    precision: Precision,
    device: &Device,
) -> Result<Vec<(MemoryPlan, Needs)>> {
    let configs = preset.configs();
    let planner =
        Planner { configs: &configs, dtype, precision, placement: Placement::single(device.clone()) };
    let plans = MemoryPlan::candidates().into_iter();
    plans.map(|plan| Ok((plan, planner.needs(&plan, &preset.job())?))).collect()
}

/// The first plan that fits at a model's shapes, on a device like this one.
///
/// # Errors
/// [`crate::Error::NoPlan`] with the numbers if none fits.
pub fn first_plan(
    preset: Preset,
    dtype: DType,
    precision: Precision,
    device: &Device,
    free: &FreeMemory,
) -> Result<ChosenPlan> {
    let configs = preset.configs();
    let planner =
        Planner { configs: &configs, dtype, precision, placement: Placement::single(device.clone()) };
    planner.plan(free, &preset.job())
}
