//! The pipeline behind `worker::Generator`.
//!
//! Translation only, between the words of the model crate and those of the queue and the worker.

use std::ops::ControlFlow;

use cogvideox::image::RgbImage;
use cogvideox::lora::LoraChoice;
use cogvideox::{Checkpoint, CogVideoXPipeline, Event, GenerationParams};
use queue::VideoParams;
use worker::{DenoiseState, GenerateError, Generated, Picture, Progress, Request};

use crate::measurements;
use crate::model::{Gpus, Loaded, ModelSource};

/// The pipeline behind the worker's seam.
pub(crate) struct PipelineGenerator {
    /// Loaded on the worker's thread. None after a change of the memory plan that failed.
    pipeline: Option<CogVideoXPipeline>,
    source: ModelSource,
    /// None on the processor.
    gpus: Option<Gpus>,
    /// Whether the VAE decodes in tiles.
    vae_tiling: bool,
}

impl PipelineGenerator {
    /// Loads the pipeline. With `previews`, their colours are fitted now rather than in the middle of a video.
    ///
    /// # Errors
    /// As [`ModelSource::load`].
    pub(crate) fn load(source: &ModelSource, vae_tiling: bool, previews: bool) -> anyhow::Result<Self> {
        let Loaded { pipeline, gpus } = source.load()?;
        if let Some(gpus) = &gpus {
            for gpu in gpus.devices() {
                let libraries = gpu.library_notes().join("; ");
                tracing::info!(device = gpu.name(), "{libraries}");
            }
            tracing::info!("{}", gpus.plans.chosen);
        }
        if previews {
            pipeline.prepare_previews()?;
        }
        Ok(Self { pipeline: Some(pipeline), source: source.clone(), gpus, vae_tiling })
    }

    /// The pipeline as the next video needs it. On a GPU, low memory is the smallest plan, for which the model is
    /// loaded anew; the first video that is not tried in low memory has it loaded back. Either is told as loading.
    fn pipeline(
        &mut self,
        low_memory: bool,
        on_progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<&CogVideoXPipeline, GenerateError> {
        let wanted = self.gpus.as_ref().map(|Gpus { placement, plans }| {
            (placement, if low_memory { plans.smallest } else { plans.chosen.plan })
        });
        // Taken: the old pipeline's memory is free before the new one's is asked for.
        let pipeline = match (self.pipeline.take(), wanted) {
            (Some(pipeline), wanted) if pipeline.memory_plan().copied() == wanted.map(|(_, plan)| plan) => {
                pipeline
            }
            (old, Some((placement, plan))) => {
                if on_progress(Progress::LoadModel).is_break() {
                    self.pipeline = old;
                    return Err(GenerateError::Interrupted);
                }
                drop(old);
                tracing::info!(%plan, "loading the model with another memory plan");
                self.source.load_again(placement, plan).map_err(load_error)?
            }
            (Some(pipeline), None) => pipeline,
            (None, None) => return Err(GenerateError::Internal("the model is not loaded".to_owned())),
        };
        Ok(self.pipeline.insert(pipeline))
    }

    /// Makes a video with these adapters.
    ///
    /// # Errors
    /// As [`worker::Generator::generate`].
    pub(crate) fn generate(
        &mut self,
        request: &Request<'_>,
        lora: Vec<LoraChoice>,
        on_progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Generated, GenerateError> {
        let tiling = self.vae_tiling || request.low_memory;
        let image = request.image.map(RgbImage::decode).transpose().map_err(generate_error)?;
        let params = GenerationParams { image, lora, ..generation_params(request.params, tiling)? };
        let checkpoint =
            request.checkpoint.map(Checkpoint::from_bytes).transpose().map_err(generate_error)?;
        reset_peak_memory(self.gpus.as_ref());
        let video = self
            .pipeline(request.low_memory, on_progress)?
            .generate(&params, checkpoint.as_ref(), &mut |event| report(&event, on_progress))
            .map_err(generate_error)?;
        let peak_memory_bytes = peak_memory_bytes(self.gpus.as_ref());
        let (width, height, count) = (video.width as u32, video.height as u32, video.num_frames as u32);
        let frames = media::Frames::new(video.rgb, width, height, count)
            .map_err(|e| GenerateError::Internal(e.to_string()))?;
        Ok(Generated { frames, peak_memory_bytes })
    }
}

fn generation_params(params: &VideoParams, vae_tiling: bool) -> Result<GenerationParams, GenerateError> {
    let scheduler = params.scheduler.parse().map_err(generate_error)?;
    Ok(GenerationParams {
        prompt: params.prompt.clone(),
        negative_prompt: params.negative_prompt.clone(),
        image: None,
        height: params.height as usize,
        width: params.width as usize,
        num_frames: params.num_frames as usize,
        num_inference_steps: params.num_inference_steps as usize,
        guidance_scale: params.guidance_scale,
        use_dynamic_cfg: params.use_dynamic_cfg,
        scheduler,
        seed: params.seed,
        vae_tiling,
        initial_latents: None,
        lora: Vec::new(),
    })
}

fn report(
    event: &Event<'_>,
    on_progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    on_progress(match event {
        Event::TextEncode => Progress::TextEncode,
        Event::LatentsPrepared { timesteps, step, .. } => {
            Progress::Denoise { step: *step as u32, total_steps: timesteps.len() as u32, state: None }
        }
        Event::StepEnd { step, steps, state, .. } => {
            return on_progress(Progress::Denoise {
                step: *step as u32,
                total_steps: *steps as u32,
                state: Some(&LoopState(*state)),
            });
        }
        Event::VaeDecode { fraction } => Progress::VaeDecode { fraction: f64::from(*fraction) },
        Event::PromptEncoded { .. } | Event::CheckPoint => Progress::CheckPoint,
    })
}

/// The pipeline's state between two steps, for the worker to keep or to show.
struct LoopState<'a>(cogvideox::DenoiseState<'a>);

impl DenoiseState for LoopState<'_> {
    fn checkpoint(&self) -> Result<Vec<u8>, String> {
        self.0.checkpoint().map_err(|error| error.to_string())
    }

    fn preview(&self) -> Option<Picture> {
        match self.0.preview(&mut || ControlFlow::Continue(())) {
            Ok(preview) => {
                Some(Picture { rgb: preview.rgb, width: preview.width as u32, height: preview.height as u32 })
            }
            Err(error) => {
                tracing::warn!(%error, "no preview");
                None
            }
        }
    }
}

/// Starts anew what [`peak_memory_bytes`] tells. Where the system refuses, that stays the whole process's peak.
fn reset_peak_memory(gpus: Option<&Gpus>) {
    gpus.into_iter().flat_map(Gpus::devices).for_each(device::Device::reset_peak);
    // 5 resets the peak: proc(5), clear_refs.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The most memory that tensors held since on one of the GPUs. On the processor what the process held, and with it all
/// workers there; Linux only.
fn peak_memory_bytes(gpus: Option<&Gpus>) -> Option<u64> {
    match gpus.into_iter().flat_map(Gpus::devices).map(|gpu| gpu.usage().peak_bytes as u64).max() {
        None => measurements::process_bytes("VmHWM:"),
        peak => peak,
    }
}

/// A failure to load a pipeline, as the end of a video.
pub(crate) fn load_error(error: anyhow::Error) -> GenerateError {
    error.downcast().map_or_else(|other| GenerateError::Internal(other.to_string()), generate_error)
}

fn generate_error(error: cogvideox::Error) -> GenerateError {
    match error {
        cogvideox::Error::Interrupted => GenerateError::Interrupted,
        cogvideox::Error::InvalidParams { .. } => GenerateError::InvalidParams(error.to_string()),
        cogvideox::Error::Checkpoint(_) => GenerateError::BadCheckpoint(error.to_string()),
        cogvideox::Error::NanLatents { .. } => GenerateError::NanLatents(error.to_string()),
        // Their own words: these say the rest.
        cogvideox::Error::Device(device::Error::OutOfMemory(words)) => GenerateError::OutOfMemory(words),
        cogvideox::Error::Device(device::Error::Lost(words)) => GenerateError::DeviceLost(words),
        other => GenerateError::Internal(other.to_string()),
    }
}
