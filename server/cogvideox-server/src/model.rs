//! A model of this process: where it is, how it computes and where, and what the API is told of it.
//!
//! Translation only, between the words of the configuration, the model crate and the API. Must not know the worker.

use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::bail;
use api::{FrameLattice, ModelCard, Size, StepRule};
use candle_core::{DType, Device};
use cogvideox::gpu::{GpuOptions, MemoryPlan, Placement, Plans, Precision};
use cogvideox::scheduler::SchedulerKind;
use cogvideox::{CogVideoXPipeline, ModelDescription, ModelForm};

use crate::config::{self, DeviceSpec, Model, ModelPath, NamedModel};
use crate::gpu::{self, Opened, PartDevices};
use crate::model_files::folder_name;

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
    /// What it computes in, as configured.
    dtype: config::DType,
    /// Where it computes.
    pub(crate) device: DeviceSpec,
    /// Where some of it computes instead, of a GPU.
    pub(crate) part_devices: PartDevices,
    /// Of each GPU's memory.
    pub(crate) memory_limit_bytes: Option<usize>,
}

/// A pipeline and what it computes on.
pub(crate) struct Loaded {
    pub(crate) pipeline: CogVideoXPipeline,
    /// None on the processor.
    pub(crate) gpus: Option<Gpus>,
}

/// The GPUs of a pipeline, and how their memory is used.
pub(crate) struct Gpus {
    pub(crate) placement: Placement,
    pub(crate) plans: Plans,
}

impl Gpus {
    /// Each once.
    pub(crate) fn devices(&self) -> Vec<&device::Device> {
        self.placement.devices()
    }
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
            part_devices: PartDevices { text_encoder: model.text_encoder_device, vae: model.vae_device },
            memory_limit_bytes: (limit_mib > 0).then_some(limit_mib << 20),
        }
    }

    /// Another model, in the same manner where it says none of its own.
    pub(crate) fn of(&self, further: &NamedModel) -> Self {
        let dtype = further.dtype.unwrap_or(self.dtype);
        Self { path: further.path.clone(), dtype, ..self.clone() }
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
        let Some(Opened { placement, .. }) = self.open_gpus()? else {
            return Ok(Loaded { pipeline: self.load_on_cpu()?, gpus: None });
        };
        let (dir, (dtype, precision)) = (self.gpu_folder()?, self.computing()?);
        let options = GpuOptions { placement, precision };
        let (pipeline, plans) = CogVideoXPipeline::load_where_it_fits(dir, dtype, &options)?;
        Ok(Loaded { pipeline, gpus: Some(Gpus { placement: options.placement, plans }) })
    }

    /// The GPUs that it computes on; none on the processor.
    ///
    /// # Errors
    /// A device that this binary cannot use.
    pub(crate) fn open_gpus(&self) -> anyhow::Result<Option<Opened>> {
        let settings = device::Settings { memory_limit_bytes: self.memory_limit_bytes, ..Default::default() };
        gpu::open(self.device, self.part_devices, settings)
    }

    fn load_on_cpu(&self) -> anyhow::Result<CogVideoXPipeline> {
        let (dtype, precision) = self.computing()?;
        if precision != Precision::Dense {
            bail!("dtype {}: for GPUs only; on cpu use f32, f16 or bf16", self.dtype);
        }
        Ok(match &self.path {
            ModelPath::Demo => CogVideoXPipeline::demo(dtype, &Device::Cpu)?,
            ModelPath::Folder(dir) => CogVideoXPipeline::load(dir, dtype, &Device::Cpu)?,
        })
    }

    /// The whole pipeline once more, on GPUs that are open and with a given plan.
    ///
    /// # Errors
    /// Those of [`ModelSource::load`].
    pub(crate) fn load_again(
        &self,
        placement: &Placement,
        plan: MemoryPlan,
    ) -> anyhow::Result<CogVideoXPipeline> {
        let (dtype, precision) = self.computing()?;
        let options = GpuOptions { placement: placement.clone(), precision };
        Ok(CogVideoXPipeline::load_on_gpu(self.gpu_folder()?, dtype, &options, plan)?)
    }

    pub(crate) fn gpu_folder(&self) -> anyhow::Result<&Path> {
        match &self.path {
            ModelPath::Demo => bail!("device {}: the demo model runs on cpu only", self.device),
            ModelPath::Folder(dir) => Ok(dir),
        }
    }

    fn form(&self) -> cogvideox::Result<ModelForm> {
        match &self.path {
            ModelPath::Demo => Ok(ModelDescription::demo()?.form),
            ModelPath::Folder(dir) => ModelForm::read(dir),
        }
    }

    /// What a model of this form computes in, here.
    fn dtype(&self, form: ModelForm) -> cogvideox::Result<config::DType> {
        Ok(match (self.dtype, self.device, &self.path) {
            (config::DType::Auto, DeviceSpec::Cpu, _) | (config::DType::Auto, _, ModelPath::Demo) => {
                config::DType::F32
            }
            (config::DType::Auto, _, ModelPath::Folder(dir)) => {
                match CogVideoXPipeline::stored_precision(dir)? {
                    Precision::Dense if form.half_dtype() == DType::F16 => config::DType::F16,
                    Precision::Dense => config::DType::Bf16,
                    Precision::Fp8 => config::DType::Fp8,
                    Precision::Int8 | Precision::Int8WeightOnly => config::DType::Int8,
                }
            }
            (said, _, _) => said,
        })
    }

    /// What tensors are in beside 8-bit weights, and the weights of the transformer's blocks.
    pub(crate) fn computing(&self) -> cogvideox::Result<(DType, Precision)> {
        let form = self.form()?;
        let dtype = self.dtype(form)?;
        let dense = match dtype {
            config::DType::F32 => DType::F32,
            config::DType::F16 => DType::F16,
            config::DType::Bf16 => DType::BF16,
            _ => form.half_dtype(),
        };
        Ok((dense, gpu::precision(dtype)))
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
    ///
    /// # Errors
    /// Weights whose dtype matters and cannot be read.
    pub(crate) fn card(&self, description: &ModelDescription) -> cogvideox::Result<ModelCard> {
        let defaults = &description.defaults;
        let size = Size { width: defaults.width as u32, height: defaults.height as u32 };
        let max_steps = description.scheduler.config().num_train_timesteps as u32;
        Ok(ModelCard {
            id: self.id(),
            created: self.created(),
            owned_by: "cogvideox-server".to_owned(),
            dtype: self.dtype(description.form)?.to_string(),
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
        })
    }
}

/// Equally spaced counts, ascending.
fn frame_lattice(counts: &[usize]) -> FrameLattice {
    let (min, max) = (counts.first().copied().unwrap_or(1), counts.last().copied().unwrap_or(1));
    let stride = counts.get(1).map_or(1, |second| second - min);
    FrameLattice { min: min as u32, max: max as u32, stride: stride as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dtype(form: &str, dtype: config::DType, device: DeviceSpec) -> config::DType {
        let path = ModelPath::Folder(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../cogvideox/tests/golden").join(form),
        );
        let part_devices = PartDevices::default();
        let source = ModelSource { path, dtype, device, part_devices, memory_limit_bytes: None };
        source.dtype(source.form().unwrap()).unwrap()
    }

    #[test]
    fn what_is_not_said_is_f32_on_a_processor_and_as_published_on_a_gpu() {
        use config::DType::{Auto, Bf16, F16, F32};
        assert_eq!(dtype("2b", Auto, DeviceSpec::Cpu), F32);
        assert_eq!(dtype("2b", Auto, DeviceSpec::Cuda(0)), F16);
        assert_eq!(dtype("5b", Auto, DeviceSpec::CudaPair([0, 1])), Bf16);
        assert_eq!(dtype("5b", F32, DeviceSpec::Cuda(0)), F32);
    }
}
