//! `cogvideox-server generate`: one video from the command line, without server or queue.
//!
//! The same pipeline and the same encoder as the server's, with progress on stderr. Where the API refuses a size or
//! frame count that the model was not trained for, this warns and runs it.

use std::fmt::Write as _;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use candle_core::{Device, Tensor};
use clap::Args;
use cogvideox::image::RgbImage;
use cogvideox::lora::{LoraAdapter, LoraChoice};
use cogvideox::scheduler::SchedulerKind;
use cogvideox::{Event, GenerationParams, ModelDefaults, VideoFrames};
use queue::OutputFile;
use sha2::{Digest as _, Sha256};

use crate::config::{self, Config, ModelPath};
use crate::download::{Extent, available};
use crate::dump::Dump;
use crate::model::{Loaded, ModelSource};
use crate::model_files::ModelFiles;
use crate::terminal::{Progress, Update};

/// Generate one video from the command line.
#[derive(Debug, Args)]
pub struct Generate {
    /// A model folder in diffusers' layout, a name or repository as `download` takes it, or "demo"; the configured model
    /// if not given.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// What the video shows.
    #[arg(long)]
    prompt: String,
    /// What it should not show.
    #[arg(long, default_value = "")]
    negative_prompt: String,
    /// The first frame, for image-to-video models: PNG, JPEG or WebP.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Pixels; the model's own height if not given.
    #[arg(long)]
    height: Option<usize>,
    /// Pixels; the model's own width if not given.
    #[arg(long)]
    width: Option<usize>,
    /// Frames; the model's own count if not given.
    #[arg(long)]
    num_frames: Option<usize>,
    /// Denoising steps, 50 if not given.
    #[arg(long)]
    num_inference_steps: Option<usize>,
    /// Guidance, 6 if not given; 1 turns it off.
    #[arg(long)]
    guidance_scale: Option<f64>,
    /// Let the guidance follow the timestep; as the authors advise for the model if not given.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    use_dynamic_cfg: Option<bool>,
    /// ddim or dpm; as the authors advise for the model if not given.
    #[arg(long)]
    scheduler: Option<SchedulerKind>,
    /// The same seed gives the same video, here and in diffusers; random if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// What to compute in; the configured one if not given.
    #[arg(long)]
    dtype: Option<config::DType>,
    /// cpu, cuda, cuda:N or cuda:N+cuda:M; the first of those configured if not given.
    #[arg(long)]
    device: Option<config::DeviceSpec>,
    /// What tensors may take of a GPU's memory, as in 8GiB; the configured limit if not given.
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<config::MemoryLimit>,
    /// Decode in overlapping tiles, for less memory.
    #[arg(long)]
    vae_tiling: bool,
    /// Start from this tensor instead of drawing noise: FILE.safetensors:KEY, shape (1, f, c, h, w).
    #[arg(long, value_name = "FILE:KEY")]
    initial_latents: Option<String>,
    /// An adapter (a file of diffusers, PEFT or SAT) and its strength, 1 if not given; several may be given.
    #[arg(long, value_name = "FILE[=SCALE]")]
    lora: Vec<String>,
    /// Write the run's intermediate tensors to this safetensors file.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// The MP4 to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl Generate {
    /// Generates, encodes and writes.
    ///
    /// # Errors
    /// What stood in the way, in words for the user; also an interruption by Ctrl-C.
    pub(crate) fn run(
        self,
        mut config: Config,
        files: &ModelFiles,
        stdout: &mut impl Write,
    ) -> anyhow::Result<()> {
        if let Some(path) = &self.model {
            config.model.path = ModelPath::from(path.clone());
        }
        config.model.dtype = self.dtype.unwrap_or(config.model.dtype);
        config.model.device = self.device.map_or(config.model.device, |device| vec![device]);
        if let Some(limit) = self.memory_limit {
            config.model.memory_limit_mib = limit.mib;
        }
        check_writable(&self.output)?;
        config.model.path = available(files, &config.model.path, Extent::Whole)?;
        let source = ModelSource::new(&config.model);
        let interrupted = interrupted_by_ctrl_c()?;

        let mut progress = Progress::stderr();
        progress.update(Update::Stage("load_model"));
        let Loaded { pipeline, gpus } = source.load()?;
        let defaults = &pipeline.description().defaults;
        let image = self.image.as_deref().map(read_image).transpose()?;
        let params = self.params(defaults, image.as_ref(), config.model.vae_tiling)?;
        for warning in warnings(&params, defaults).into_iter().chain(source.notice()) {
            note(&format!("warning: {warning}"));
        }
        if let Some(gpus) = gpus {
            note(&gpus.plans.chosen.to_string());
        }
        note(&format!("seed {}", params.seed));

        let mut dump = self.dump.as_ref().map(|_| Dump::default());
        let result = pipeline.generate(&params, None, &mut |event| {
            show(&mut progress, &event);
            if let Some(dump) = &mut dump {
                dump.record(&event);
            }
            if interrupted.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let video = result?;
        if let (Some(path), Some(dump)) = (&self.dump, dump) {
            dump.write(path, &video).with_context(|| format!("{}: cannot be written", path.display()))?;
        }
        progress.update(Update::Stage("encode_mp4"));
        let metadata = config
            .video
            .metadata
            .then(|| worker::provenance(&video_params(&params, image, defaults.fps), &source.id(), false));
        let options = media::EncodeOptions { fps: defaults.fps, quality: config.video.quality, metadata };
        write_mp4(&self.output, video, &options)?;
        drop(progress);
        writeln!(stdout, "{}", self.output.display())?;
        Ok(())
    }

    fn params(
        &self,
        defaults: &ModelDefaults,
        image: Option<&(RgbImage, OutputFile)>,
        vae_tiling: bool,
    ) -> anyhow::Result<GenerationParams> {
        Ok(GenerationParams {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            image: image.map(|(image, _)| image.clone()),
            height: self.height.unwrap_or(defaults.height),
            width: self.width.unwrap_or(defaults.width),
            num_frames: self.num_frames.unwrap_or(defaults.num_frames),
            num_inference_steps: self.num_inference_steps.unwrap_or(defaults.num_inference_steps),
            guidance_scale: self.guidance_scale.unwrap_or(defaults.guidance_scale),
            use_dynamic_cfg: self.use_dynamic_cfg.unwrap_or(defaults.use_dynamic_cfg),
            scheduler: self.scheduler.unwrap_or(defaults.scheduler),
            // Within what JSON numbers hold exactly, so that the seed can be used with the API too.
            seed: self.seed.unwrap_or_else(|| rand::random_range(0..1 << 53)),
            vae_tiling: self.vae_tiling || vae_tiling,
            initial_latents: self.initial_latents.as_deref().map(read_latents).transpose()?,
            lora: self.lora.iter().map(|argument| read_lora(argument)).collect::<anyhow::Result<_>>()?,
        })
    }
}

/// What the model was not trained for, and the API would refuse.
fn warnings(params: &GenerationParams, defaults: &ModelDefaults) -> Vec<String> {
    let mut warnings = Vec::new();
    let (width, height) = (defaults.width, defaults.height);
    if (params.width, params.height) != (width, height) {
        let found = format!("{}x{}", params.width, params.height);
        warnings.push(format!("the model was trained for {width}x{height}, not for {found}"));
    }
    let trained = &defaults.trained_num_frames;
    if !trained.contains(&params.num_frames) {
        let trained: Vec<String> = trained.iter().map(usize::to_string).collect();
        let trained = trained.join(", ");
        warnings.push(format!("the model was trained for {trained} frames, not for {}", params.num_frames));
    }
    warnings
}

/// A message among the progress lines.
fn note(message: &str) {
    // Nothing can be done about a closed stderr.
    let _ = writeln!(std::io::stderr(), "{message}");
}

fn show(progress: &mut Progress, event: &Event<'_>) {
    match event {
        Event::TextEncode => progress.update(Update::Stage("text_encode")),
        Event::PromptEncoded { tokens, .. } if tokens.untruncated_len > tokens.ids.len() => {
            let (found, limit) = (tokens.untruncated_len, tokens.ids.len());
            note(&format!("warning: the prompt has {found} tokens, the model reads the first {limit}"));
        }
        Event::LatentsPrepared { timesteps, .. } => {
            let total_steps = timesteps.len() as u32;
            progress.update(Update::Steps { stage: "denoise", step: 0, total_steps });
        }
        Event::StepEnd { step, steps, .. } => {
            let (step, total_steps) = (*step as u32, *steps as u32);
            progress.update(Update::Steps { stage: "denoise", step, total_steps });
        }
        Event::VaeDecode { fraction } => {
            progress.update(Update::Fraction { stage: "vae_decode", fraction: f64::from(*fraction) });
        }
        Event::PromptEncoded { .. } | Event::CheckPoint => {}
    }
}

/// `FILE.safetensors:KEY`.
fn read_latents(argument: &str) -> anyhow::Result<Tensor> {
    let Some((file, key)) = argument.rsplit_once(':') else {
        bail!("--initial-latents: expected FILE.safetensors:KEY, found {argument:?}");
    };
    let mut tensors = candle_core::safetensors::load(file, &Device::Cpu)
        .with_context(|| format!("--initial-latents: {file} cannot be read as safetensors"))?;
    tensors.remove(key).with_context(|| format!("--initial-latents: {file} holds no tensor {key:?}"))
}

/// The picture in a file, and the file as a video of the server's has it.
fn read_image(path: &Path) -> anyhow::Result<(RgbImage, OutputFile)> {
    let content = std::fs::read(path).with_context(|| format!("--image: {}", path.display()))?;
    let image = RgbImage::decode(&content).with_context(|| format!("--image: {}", path.display()))?;
    let sha256 = Sha256::digest(&content).iter().fold(String::new(), |mut text, byte| {
        // A string takes any write.
        let _ = write!(text, "{byte:02x}");
        text
    });
    let key = path.to_string_lossy().into_owned();
    Ok((image, OutputFile { key, bytes: content.len() as u64, sha256 }))
}

/// `FILE[=SCALE]`; what follows the last `=` is the scale if it is a number, else part of the file's name.
fn read_lora(argument: &str) -> anyhow::Result<LoraChoice> {
    let split = argument.rsplit_once('=').and_then(|(file, scale)| Some((file, scale.parse().ok()?)));
    let (file, scale) = split.unwrap_or((argument, 1.0));
    let adapter = LoraAdapter::load(Path::new(file)).context("--lora")?;
    Ok(LoraChoice { adapter: Arc::new(adapter), scale })
}

/// Hours of work must not end at a folder that does not exist.
fn check_writable(output: &Path) -> anyhow::Result<()> {
    let dir = match output.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    if !dir.is_dir() {
        bail!("--output: {} is not a folder", dir.display());
    }
    Ok(())
}

/// The parameters as a video of the server's has them.
fn video_params(
    params: &GenerationParams,
    image: Option<(RgbImage, OutputFile)>,
    fps: u32,
) -> queue::VideoParams {
    queue::VideoParams {
        prompt: params.prompt.clone(),
        negative_prompt: params.negative_prompt.clone(),
        width: params.width as u32,
        height: params.height as u32,
        num_frames: params.num_frames as u32,
        fps,
        num_inference_steps: params.num_inference_steps as u32,
        guidance_scale: params.guidance_scale,
        use_dynamic_cfg: params.use_dynamic_cfg,
        scheduler: params.scheduler.to_string(),
        seed: params.seed,
        lora: params.lora.iter().map(lora_of_video).collect(),
        image: image.map(|(_, file)| file),
    }
}

/// An adapter as a video of the server's has it: named by its file.
fn lora_of_video(LoraChoice { adapter, scale }: &LoraChoice) -> queue::Lora {
    let name = adapter.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
    queue::Lora { name, scale: *scale, sha256: adapter.digest().to_owned() }
}

fn write_mp4(path: &Path, video: VideoFrames, options: &media::EncodeOptions) -> anyhow::Result<()> {
    let (width, height, count) = (video.width as u32, video.height as u32, video.num_frames as u32);
    let frames = media::Frames::new(video.rgb, width, height, count)?;
    let mp4 = media::encode_mp4(&frames, options)?;
    std::fs::write(path, mp4).with_context(|| format!("{}: cannot be written", path.display()))
}

/// Set by the first Ctrl-C; the run then ends at its next check. A second one ends the process at once.
fn interrupted_by_ctrl_c() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the first signal finds the flag unset and only sets it.
        signal_hook::flag::register_conditional_shutdown(signal, 130, interrupted.clone())?;
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    Ok(interrupted)
}
