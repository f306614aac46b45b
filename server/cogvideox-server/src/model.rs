//! The model of this process: where it is, what the API is told of it, and the pipeline behind `worker::Generator`.
//!
//! Translation only, between the words of the model crate and those of the queue, the worker and the API.

use std::ops::ControlFlow;
use std::path::Path;

use std::time::UNIX_EPOCH;

use anyhow::bail;
use api::{FrameLattice, ModelCard, Size, StepRule};
use candle_core::{DType, Device};
use cogvideox::gpu::{ChosenPlan, GpuOptions, MemoryPlan, Precision};
use cogvideox::image::RgbImage;
use cogvideox::lora::LoraChoice;
use cogvideox::scheduler::SchedulerKind;
use cogvideox::{Checkpoint, CogVideoXPipeline, Event, GenerationParams, ModelDescription};
use queue::VideoParams;
use worker::{DenoiseState, GenerateError, Generated, Picture, Progress, Request};

use crate::config::{self, DeviceSpec, Model, ModelPath};
use crate::model_files::folder_name;
use crate::{gpu, measurements};

/// What a user of the demo model must know.
pub(crate) const DEMO_NOTICE: &str =
    "demo model with random weights: the video is moving noise and shows nothing of the prompt";

/// The name of the demo model in requests.
const DEMO_ID: &str = "demo";

/// A model and how and where it is to compute.
#[derive(Clone, Debug)]
pub(crate) struct ModelSource {
    /// The demo or a folder.
    pub(crate) path: ModelPath,
    /// What it computes in.
    pub(crate) dtype: config::DType,
    /// Where it computes.
    pub(crate) device: DeviceSpec,
    /// Of a GPU's memory.
    pub(crate) memory_limit_bytes: Option<usize>,
}

/// A pipeline and what it computes on.
pub(crate) struct Loaded {
    pub(crate) pipeline: CogVideoXPipeline,
    /// None on the processor.
    pub(crate) gpus: Vec<device::Device>,
    /// How the GPU's memory is used.
    pub(crate) memory: Option<ChosenPlan>,
}

impl ModelSource {
    /// As configured, on the first of the devices.
    pub(crate) fn new(model: &Model) -> Self {
        let device = model.device.first().copied().unwrap_or(DeviceSpec::Cpu);
        let limit_mib = model.memory_limit_mib as usize;
        Self {
            path: model.path.clone(),
            dtype: model.dtype,
            device,
            memory_limit_bytes: (limit_mib > 0).then_some(limit_mib << 20),
        }
    }

    /// The same on another device.
    pub(crate) fn on(&self, device: DeviceSpec) -> Self {
        Self { device, ..self.clone() }
    }

    /// The model's small parts.
    ///
    /// # Errors
    /// The file that is not as the model needs it.
    pub(crate) fn describe(&self) -> cogvideox::Result<ModelDescription> {
        match &self.path {
            ModelPath::Demo => ModelDescription::demo(),
            ModelPath::Folder(dir) => ModelDescription::read(dir),
        }
    }

    /// The whole pipeline.
    ///
    /// # Errors
    /// A device that this binary cannot use; the file or tensor that is not as the model needs it.
    pub(crate) fn load(&self) -> anyhow::Result<Loaded> {
        let settings = device::Settings { memory_limit_bytes: self.memory_limit_bytes, ..Default::default() };
        let gpus = gpu::open(self.device, settings)?;
        if gpus.is_empty() {
            return Ok(Loaded { pipeline: self.load_on_cpu()?, gpus, memory: None });
        }
        let options = self.gpu_options(&gpus, None)?;
        let (dir, dtype) = (self.gpu_folder()?, self.computing_dtype()?);
        let memory = CogVideoXPipeline::choose_plan(dir, dtype, &options)?;
        let options = GpuOptions { plan: Some(memory.plan), ..options };
        let pipeline = CogVideoXPipeline::load_on_gpu(dir, dtype, &options)?;
        Ok(Loaded { pipeline, gpus, memory: Some(memory) })
    }

    fn load_on_cpu(&self) -> anyhow::Result<CogVideoXPipeline> {
        if gpu::precision(self.dtype) != Precision::Dense {
            bail!("dtype {}: for GPUs only; on cpu use f32, f16 or bf16", self.dtype);
        }
        let dtype = self.computing_dtype()?;
        Ok(match &self.path {
            ModelPath::Demo => CogVideoXPipeline::demo(dtype, &Device::Cpu)?,
            ModelPath::Folder(dir) => CogVideoXPipeline::load(dir, dtype, &Device::Cpu)?,
        })
    }

    /// The whole pipeline once more, on GPUs that are open and with a given plan.
    ///
    /// # Errors
    /// Those of [`ModelSource::load`].
    fn load_again(&self, gpus: &[device::Device], plan: MemoryPlan) -> anyhow::Result<CogVideoXPipeline> {
        let options = self.gpu_options(gpus, Some(plan))?;
        Ok(CogVideoXPipeline::load_on_gpu(self.gpu_folder()?, self.computing_dtype()?, &options)?)
    }

    fn gpu_options(&self, gpus: &[device::Device], plan: Option<MemoryPlan>) -> anyhow::Result<GpuOptions> {
        Ok(GpuOptions { placement: gpu::placement(gpus)?, precision: gpu::precision(self.dtype), plan })
    }

    pub(crate) fn gpu_folder(&self) -> anyhow::Result<&Path> {
        match &self.path {
            ModelPath::Demo => bail!("device {}: the demo model runs on cpu only", self.device),
            ModelPath::Folder(dir) => Ok(dir),
        }
    }

    /// What tensors are in beside 8-bit weights.
    pub(crate) fn computing_dtype(&self) -> cogvideox::Result<DType> {
        Ok(match self.dtype {
            config::DType::F32 => DType::F32,
            config::DType::F16 => DType::F16,
            config::DType::Bf16 => DType::BF16,
            config::DType::Fp8 | config::DType::Int8 | config::DType::Int8WeightOnly => {
                self.describe()?.form.half_dtype()
            }
        })
    }

    /// What users must know of its videos.
    pub(crate) fn notice(&self) -> Option<String> {
        matches!(self.path, ModelPath::Demo).then(|| DEMO_NOTICE.to_owned())
    }

    /// The name in requests: the folder's, or the repository's that it comes from.
    pub(crate) fn id(&self) -> String {
        match &self.path {
            ModelPath::Demo => DEMO_ID.to_owned(),
            ModelPath::Folder(dir) => {
                let dir = dir.canonicalize().unwrap_or_else(|_| dir.clone());
                folder_name(&dir).unwrap_or_else(|| "model".to_owned())
            }
        }
    }

    /// When the folder was written, in Unix seconds; 0 for the demo.
    fn created(&self) -> i64 {
        let ModelPath::Folder(dir) = &self.path else { return 0 };
        let modified = std::fs::metadata(dir.join("model_index.json")).and_then(|m| m.modified());
        let since_epoch = modified.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        since_epoch.map_or(0, |d| d.as_secs() as i64)
    }

    /// What the API checks requests against.
    pub(crate) fn card(&self, description: &ModelDescription) -> ModelCard {
        let defaults = &description.defaults;
        let size = Size { width: defaults.width as u32, height: defaults.height as u32 };
        let max_steps = description.scheduler.config().num_train_timesteps as u32;
        ModelCard {
            id: self.id(),
            created: self.created(),
            owned_by: "cogvideox-server".to_owned(),
            dtype: self.dtype.to_string(),
            supports_image: description.form.takes_image(),
            default_size: size,
            sizes: vec![size],
            num_frames: frame_lattice(&defaults.trained_num_frames),
            default_num_frames: defaults.num_frames as u32,
            fps: defaults.fps,
            num_inference_steps: StepRule {
                default: defaults.num_inference_steps as u32,
                max: max_steps,
                refused: (1..=max_steps).filter(|n| description.scheduler.refuses(*n as usize)).collect(),
            },
            guidance_scale: defaults.guidance_scale,
            use_dynamic_cfg: defaults.use_dynamic_cfg,
            scheduler: match defaults.scheduler {
                SchedulerKind::Ddim => api::Scheduler::Ddim,
                SchedulerKind::Dpm => api::Scheduler::Dpm,
            },
            max_prompt_tokens: description.max_prompt_tokens,
            notice: self.notice(),
        }
    }
}

/// Equally spaced counts, ascending.
fn frame_lattice(counts: &[usize]) -> FrameLattice {
    let (min, max) = (counts.first().copied().unwrap_or(1), counts.last().copied().unwrap_or(1));
    let stride = counts.get(1).map_or(1, |second| second - min);
    FrameLattice { min: min as u32, max: max as u32, stride: stride as u32 }
}

/// The pipeline behind the worker's seam.
pub(crate) struct PipelineGenerator {
    /// Loaded on the worker's thread. None after a change of the memory plan that failed.
    pipeline: Option<CogVideoXPipeline>,
    source: ModelSource,
    gpus: Vec<device::Device>,
    /// A GPU's, for all videos but those in low memory.
    plan: Option<MemoryPlan>,
    /// Whether the VAE decodes in tiles.
    vae_tiling: bool,
}

impl PipelineGenerator {
    /// Loads the pipeline. With `previews`, their colours are fitted now rather than in the middle of a video.
    ///
    /// # Errors
    /// As [`ModelSource::load`].
    pub(crate) fn load(source: &ModelSource, vae_tiling: bool, previews: bool) -> anyhow::Result<Self> {
        let Loaded { pipeline, gpus, memory } = source.load()?;
        for gpu in &gpus {
            let libraries = gpu.library_notes().join("; ");
            tracing::info!(device = gpu.name(), "{libraries}");
        }
        if let Some(memory) = &memory {
            tracing::info!("{memory}");
        }
        if previews {
            pipeline.prepare_previews()?;
        }
        let plan = memory.map(|memory| memory.plan);
        Ok(Self { pipeline: Some(pipeline), source: source.clone(), gpus, plan, vae_tiling })
    }

    /// The pipeline as the next video needs it. On a GPU, low memory is the smallest plan, for which the model is
    /// loaded anew; the first video that is not tried in low memory has it loaded back. Either is told as loading.
    fn pipeline(
        &mut self,
        low_memory: bool,
        on_progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<&CogVideoXPipeline, GenerateError> {
        let smallest = MemoryPlan::candidates().last().copied();
        let wanted = if low_memory { self.plan.and(smallest) } else { self.plan };
        // Taken: the old pipeline's memory is free before the new one's is asked for.
        let pipeline = match (self.pipeline.take(), wanted) {
            (Some(pipeline), wanted) if pipeline.memory_plan() == wanted.as_ref() => pipeline,
            (old, Some(plan)) => {
                if on_progress(Progress::LoadModel).is_break() {
                    self.pipeline = old;
                    return Err(GenerateError::Interrupted);
                }
                drop(old);
                tracing::info!(%plan, "loading the model with another memory plan");
                self.source.load_again(&self.gpus, plan).map_err(load_error)?
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
        reset_peak_memory(&self.gpus);
        let video = self
            .pipeline(request.low_memory, on_progress)?
            .generate(&params, checkpoint.as_ref(), &mut |event| report(&event, on_progress))
            .map_err(generate_error)?;
        let peak_memory_bytes = peak_memory_bytes(&self.gpus);
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
fn reset_peak_memory(gpus: &[device::Device]) {
    gpus.iter().for_each(device::Device::reset_peak);
    // 5 resets the peak: proc(5), clear_refs.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The most memory that tensors held since on one of the GPUs. On the processor what the process held, and with it all
/// workers there; Linux only.
fn peak_memory_bytes(gpus: &[device::Device]) -> Option<u64> {
    match gpus.iter().map(|gpu| gpu.usage().peak_bytes as u64).max() {
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
        cogvideox::Error::Device(device::Error::OutOfMemory(_)) => {
            GenerateError::OutOfMemory(error.to_string())
        }
        cogvideox::Error::Device(device::Error::Lost(_)) => GenerateError::DeviceLost(error.to_string()),
        other => GenerateError::Internal(other.to_string()),
    }
}
