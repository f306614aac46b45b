//! `CogVideoXPipeline`: a loaded model folder, and the way from a prompt to frames.
//!
//! The order of operations, the order of draws from the generator and the dtype of every intermediate are those of
//! diffusers' `CogVideoXPipeline` and `CogVideoXImageToVideoPipeline`. The caller watches and stops a run through one
//! callback. Relies on every other module of this crate; must not know threads, files to serve or jobs.

mod checkpoint;
mod components;
mod denoise;
mod event;
mod fingerprint;
mod image_conditioning;
mod postprocess;
mod preview;
mod prompt_embeds;
mod state;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};

pub use self::checkpoint::Checkpoint;
pub(crate) use self::components::{Autoencoder, Components, Denoiser, TextEncoder};
use self::denoise::Conditioning;
pub use self::event::Event;
pub use self::preview::Preview;
use self::preview::RgbMap;
use self::prompt_embeds::PromptEmbeds;
pub use self::state::DenoiseState;
use self::state::LoopState;
use crate::description::ModelDescription;
use crate::digest::sha256;
use crate::gpu::MemoryPlan;
use crate::lora;
use crate::noise::Generator;
use crate::params::{GenerationParams, LatentShape};
use crate::scheduler::Schedule;
use crate::text_encoder::T5EncoderModel;
use crate::transformer::CogVideoXTransformer3DModel;
use crate::vae::{AutoencoderKlCogVideoX, Tiling};
use crate::weights::{self, DIFFUSERS_STEM, TRANSFORMERS_STEM};
use crate::{Error, Result};

/// A finished video's frames.
#[derive(Clone, Debug)]
pub struct VideoFrames {
    /// `(num_frames, height, width, 3)`, 8 bits a channel.
    pub rgb: Vec<u8>,
    /// Frames.
    pub num_frames: usize,
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
}

/// A loaded pipeline.
pub struct CogVideoXPipeline {
    description: ModelDescription,
    dtype: DType,
    device: Device,
    components: Components,
    /// None on a CPU.
    gpu: Option<GpuUse>,
    /// Of which weights the components are, for checkpoints.
    weights_digest: String,
    /// Fitted by the first preview: it takes a small VAE decode, which a run without previews need not pay.
    rgb_map: OnceLock<RgbMap>,
    prompt_embeds: PromptEmbeds,
}

/// What a GPU's results depend on beside the model.
pub(crate) struct GpuUse {
    pub(crate) plan: MemoryPlan,
    /// The product and how its weights are held: another one rounds otherwise.
    pub(crate) name: String,
}

/// What one generation is made of, checked before any work.
struct Run<'a> {
    params: &'a GenerationParams,
    shape: LatentShape,
    schedule: Schedule<'a>,
    tiling: Option<Tiling>,
}

/// The caller's callback, whose `Break` ends the run.
type OnEvent<'a> = dyn FnMut(Event<'_>) -> ControlFlow<()> + 'a;

/// Passes an event on; a `Break` becomes [`Error::Interrupted`].
fn notify(on_event: &mut OnEvent<'_>, event: Event<'_>) -> Result<()> {
    match on_event(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Interrupted),
    }
}

impl CogVideoXPipeline {
    /// Loads a pipeline's folder in diffusers' layout, in f32, f16 or bf16.
    ///
    /// # Errors
    /// [`Error::UnsupportedDtype`] for f16 with a model that overflows in it; otherwise the file, key or tensor that
    /// is not as the model needs it.
    pub fn load(dir: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let description = ModelDescription::read(dir)?;
        Self::check_dtype(&description, dtype)?;
        let components = Components {
            text_encoder: Box::new(T5EncoderModel::load(&dir.join("text_encoder"), dtype, device)?),
            transformer: Box::new(CogVideoXTransformer3DModel::load(
                &dir.join("transformer"),
                dtype,
                device,
            )?),
            vae: Box::new(AutoencoderKlCogVideoX::load(&dir.join("vae"), dtype, device)?),
        };
        Self::assemble(dir, description, components, dtype, None)
    }

    /// # Errors
    /// [`Error::UnsupportedDtype`] for f16 with a model that overflows in it.
    pub(crate) fn check_dtype(description: &ModelDescription, dtype: DType) -> Result<()> {
        if dtype == DType::F16 && !description.form.runs_in_f16() {
            return Err(Error::UnsupportedDtype(
                "f16 overflows in every CogVideoX model but 2B and gives a black video; use bf16 or f32"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// A pipeline of components loaded from `dir`.
    pub(crate) fn assemble(
        dir: &Path,
        description: ModelDescription,
        components: Components,
        dtype: DType,
        gpu: Option<GpuUse>,
    ) -> Result<Self> {
        let digests = [
            weights::digest(&dir.join("text_encoder"), TRANSFORMERS_STEM)?,
            weights::digest(&dir.join("transformer"), DIFFUSERS_STEM)?,
            weights::digest(&dir.join("vae"), DIFFUSERS_STEM)?,
        ];
        let weights_digest = sha256(digests.concat().as_bytes());
        let pipeline =
            Self { gpu, ..Self::new(description, components, dtype, &Device::Cpu, weights_digest) };
        pipeline.check_components(dir)?;
        Ok(pipeline)
    }

    /// How a GPU's memory is used; none on a CPU.
    pub fn memory_plan(&self) -> Option<&MemoryPlan> {
        self.gpu.as_ref().map(|gpu| &gpu.plan)
    }

    pub(crate) fn new(
        description: ModelDescription,
        components: Components,
        dtype: DType,
        device: &Device,
        weights_digest: String,
    ) -> Self {
        let (device, rgb_map, prompt_embeds) = (device.clone(), OnceLock::new(), PromptEmbeds::default());
        Self { description, dtype, device, components, weights_digest, gpu: None, rgb_map, prompt_embeds }
    }

    /// Components that load one by one may still come from different models.
    fn check_components(&self, dir: &Path) -> Result<()> {
        let config = self.components.transformer.config();
        let latents = self.components.vae.config().latent_channels;
        let in_channels = if self.description.form.takes_image() { 2 * latents } else { latents };
        let transformer = dir.join("transformer/config.json");
        let expect = |key: &str, expected: usize, found: usize| {
            if expected == found {
                return Ok(());
            }
            Err(Error::config(
                &transformer,
                format!("{key}: the other components need {expected}, found {found}"),
            ))
        };
        expect("in_channels", in_channels, config.in_channels)?;
        expect("out_channels", latents, config.out_channels)?;
        expect("text_embed_dim", self.components.text_encoder.d_model(), config.text_embed_dim)
    }

    /// What the model is and what it is asked for by default.
    pub fn description(&self) -> &ModelDescription {
        &self.description
    }

    /// Runs one generation, from the start or from a checkpoint of the same run, with the same video either way.
    /// `on_event` is told of progress and asked, between pieces of at most about a second, whether to go on.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when `on_event` broke off, [`Error::InvalidParams`] or [`Error::Checkpoint`] before any
    /// work, [`Error::NanLatents`] when the numbers overflowed.
    pub fn generate(
        &self,
        params: &GenerationParams,
        resume: Option<&Checkpoint>,
        on_event: &mut OnEvent<'_>,
    ) -> Result<VideoFrames> {
        let shape = LatentShape::of(params, self.components.transformer.config())?;
        let scheduler = self.description.scheduler.with_kind(params.scheduler);
        let schedule = scheduler.schedule(params.num_inference_steps)?;
        let tiles = params.vae_tiling || self.memory_plan().is_some_and(|plan| plan.vae_tiling);
        let tiling = if tiles { Some(self.components.vae.default_tiling()) } else { None };
        self.check_image(params)?;
        lora::check(&params.lora, self.components.transformer.config())?;
        let run = Run { params, shape, schedule, tiling };
        let resumed = resume.map(|checkpoint| self.resume(checkpoint, &run)).transpose()?;

        let latents = self.denoised_latents(&run, resumed, on_event)?;
        let latents = latents.narrow(1, shape.additional_frames, shape.frames - shape.additional_frames)?;
        self.decode_latents(&latents, run.tiling.as_ref(), on_event)
    }

    /// Prompts, image, noise and the loop; of a run that was resumed, what is still to do.
    fn denoised_latents(
        &self,
        run: &Run<'_>,
        resumed: Option<LoopState>,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Tensor> {
        let Run { params, shape, schedule, tiling } = run;
        let timesteps = schedule.timesteps();
        if let Some(LoopState { step, latents, .. }) = &resumed
            && *step == timesteps.len()
        {
            notify(on_event, Event::LatentsPrepared { timesteps, latents, step: *step })?;
            return Ok(latents.clone());
        }
        let positions = self.components.transformer.positions(shape.frames, shape.height, shape.width)?;
        let prompt_embeds = self.encode_prompts(params, on_event)?;
        let mut generator = Generator::seed(params.seed);
        // The image's posterior is sampled before the initial latents are drawn; a resumed run samples it again, from
        // the seed, and leaves this generator for the checkpoint's.
        let image_latents = match &params.image {
            Some(image) => {
                Some(self.image_latents(image, params, *shape, tiling.as_ref(), &mut generator, on_event)?)
            }
            None => None,
        };
        let state = match resumed {
            Some(state) => state,
            None => LoopState::new(self.initial_latents(params, *shape, &mut generator)?, generator),
        };
        let LoopState { step, latents, .. } = &state;
        notify(on_event, Event::LatentsPrepared { timesteps, latents, step: *step })?;
        let conditioning = Conditioning { prompt_embeds, image_latents, positions };
        self.denoise(params, schedule, &conditioning, state, on_event)
    }

    fn check_image(&self, params: &GenerationParams) -> Result<()> {
        match (self.description.form.takes_image(), &params.image) {
            (true, None) => Err(Error::invalid("image", "this image-to-video model needs one")),
            (false, Some(_)) => Err(Error::invalid("image", "this text-to-video model takes none")),
            _ => Ok(()),
        }
    }

    /// Embeddings of the negative prompt (with guidance) and the prompt, `(2 or 1, tokens, d)`.
    fn encode_prompts(&self, params: &GenerationParams, on_event: &mut OnEvent<'_>) -> Result<Tensor> {
        notify(on_event, Event::TextEncode)?;
        let max_tokens = self.description.max_prompt_tokens;
        let tokens = self.description.tokenizer.encode(&params.prompt, max_tokens);
        let prompt_embeds = self.encode_ids(&tokens.ids, on_event)?;
        let negative_prompt_embeds = if crate::guidance::is_on(params.guidance_scale) {
            let tokens = self.description.tokenizer.encode(&params.negative_prompt, max_tokens);
            Some(self.encode_ids(&tokens.ids, on_event)?)
        } else {
            None
        };
        notify(
            on_event,
            Event::PromptEncoded {
                tokens: &tokens,
                prompt_embeds: &prompt_embeds,
                negative_prompt_embeds: negative_prompt_embeds.as_ref(),
            },
        )?;
        match negative_prompt_embeds {
            Some(negative) => Ok(Tensor::cat(&[&negative, &prompt_embeds], 0)?),
            None => Ok(prompt_embeds),
        }
    }

    fn encode_ids(&self, ids: &[u32], on_event: &mut OnEvent<'_>) -> Result<Tensor> {
        let text_encoder = &self.components.text_encoder;
        self.prompt_embeds.get(ids, || text_encoder.forward(ids, &mut || notify(on_event, Event::CheckPoint)))
    }

    /// The caller's latents, or noise drawn in the shape and dtype that diffusers draws it in.
    fn initial_latents(
        &self,
        params: &GenerationParams,
        shape: LatentShape,
        generator: &mut Generator,
    ) -> Result<Tensor> {
        match &params.initial_latents {
            None => Ok(generator.randn(&shape.dims()[..], self.dtype)?.to_device(&self.device)?),
            Some(latents) if latents.dims() == shape.dims() => {
                Ok(latents.to_dtype(self.dtype)?.to_device(&self.device)?)
            }
            Some(latents) => Err(Error::invalid(
                "initial_latents",
                format!("expected shape {:?}, found {:?}", shape.dims(), latents.dims()),
            )),
        }
    }

    /// `(1, f, c, h, w)` to frames.
    fn decode_latents(
        &self,
        latents: &Tensor,
        tiling: Option<&Tiling>,
        on_event: &mut OnEvent<'_>,
    ) -> Result<VideoFrames> {
        notify(on_event, Event::VaeDecode { fraction: 0.0 })?;
        let latents = latents.permute((0, 2, 1, 3, 4))?.contiguous()?;
        let latents = postprocess::scaled(&latents, 1.0 / self.components.vae.config().scaling_factor)?;
        let mut check = |fraction| notify(on_event, Event::VaeDecode { fraction });
        self.components.vae.decode_frames(&latents, tiling, &mut check)
    }
}
