//! Which memory mode a job runs in, found by running it where only memory is counted.
//!
//! A plan is not an estimate: the candidates, from the fastest to the smallest, run with the model's real shapes on
//! devices that compute nothing (`device::Device::planner`), and the first whose peak fits each is taken. What the
//! libraries and the driver hold beside tensors is a reserve. Must not know files or requests.

use std::fmt;

use candle_core::{DType, Tensor as HostTensor};
use device::{Capability, Device, Settings};

use super::Precision;
use super::load::{Configs, GpuOptions, Placement, Sources, build};
use super::streaming::Residence;
use super::transformer::TransformerMemory;
use crate::pipeline::Components;
use crate::transformer::TransformerInput;
use crate::{Error, Result};

/// What the driver's context, the loaded kernels and the libraries' own memory take beside tensors: an allowance,
/// to be replaced by a measurement.
const RESERVE_BYTES: usize = 512 << 20;
/// What stays to the host beside what is pinned: its system, the frames of a video, their encoding.
const HOST_RESERVE_BYTES: usize = 1 << 30;
/// More than any device has.
const BOUNDLESS_BYTES: usize = 1 << 46;

/// A device that computes nothing, refuses nothing, and counts what is asked of it.
pub fn counting_device(capability: Capability) -> Device {
    Device::planner(capability, BOUNDLESS_BYTES, Settings::default())
}

/// How the parts of a pipeline use a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The text encoder's layers.
    pub text_encoder: Residence,
    /// The transformer's blocks.
    pub transformer: Residence,
    /// Both prompts of the guidance one after the other.
    pub sequential_guidance: bool,
    /// Rows of a feed-forward's hidden layer at a time.
    pub ff_rows: usize,
    /// The VAE decodes in overlapping tiles, which changes pixels slightly.
    pub vae_tiling: bool,
}

impl MemoryPlan {
    /// Everything stays, nothing is split.
    pub const RESIDENT: Self = Self {
        text_encoder: Residence::Resident,
        transformer: Residence::Resident,
        sequential_guidance: false,
        ff_rows: usize::MAX,
        vae_tiling: false,
    };

    /// From the fastest to the smallest. A whole frame's decoding takes more than any step of the transformer, so that
    /// steps are split only where the VAE is tiled, or blocks are streamed.
    pub fn candidates() -> Vec<Self> {
        let resident = Self::RESIDENT;
        let streamed_text = Self { text_encoder: Residence::Streamed, ..resident };
        let tiled = Self { vae_tiling: true, ..streamed_text };
        let split = Self { ff_rows: 8192, ..tiled };
        let smallest_resident = Self { sequential_guidance: true, ff_rows: 4096, ..split };
        let streamed = Self { transformer: Residence::Streamed, ..split };
        vec![
            resident,
            streamed_text,
            tiled,
            split,
            smallest_resident,
            Self { vae_tiling: false, ..streamed },
            streamed,
            Self { transformer: Residence::Streamed, ..smallest_resident },
        ]
    }

    /// The same where parts lie on different devices: each part is as large as its own device allows.
    fn candidates_apart(transformers: usize) -> Vec<Self> {
        use Residence::{Resident, Streamed};
        let steps =
            [(Resident, usize::MAX), (Resident, 8192), (Resident, 4096), (Streamed, 8192), (Streamed, 4096)];
        let rest = [(Resident, false), (Streamed, false), (Resident, true), (Streamed, true)];
        steps
            .into_iter()
            .flat_map(|(transformer, ff_rows)| {
                rest.map(|(text_encoder, vae_tiling)| Self {
                    text_encoder,
                    transformer,
                    // Two devices have one prompt each anyway.
                    sequential_guidance: ff_rows == 4096 && transformers == 1,
                    ff_rows,
                    vae_tiling,
                })
            })
            .collect()
    }

    pub(super) fn transformer_memory(&self) -> TransformerMemory {
        TransformerMemory {
            residence: self.transformer,
            sequential_guidance: self.sequential_guidance,
            ff_rows: self.ff_rows,
        }
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |residence| match residence {
            Residence::Resident => "resident",
            Residence::Streamed => "streamed",
        };
        write!(f, "text encoder {}, transformer {}", place(self.text_encoder), place(self.transformer))?;
        if self.sequential_guidance {
            f.write_str(", guidance one after the other")?;
        }
        if self.ff_rows != usize::MAX {
            write!(f, ", feed-forward by {} rows", self.ff_rows)?;
        }
        write!(f, ", VAE {}", if self.vae_tiling { "tiled" } else { "whole" })
    }
}

/// A plan that fits, with the numbers that it was chosen by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenPlan {
    /// The first that fits.
    pub plan: MemoryPlan,
    /// Of each device, in the order of [`Placement::devices`].
    pub devices: Vec<DeviceMemory>,
    /// Of the host, pinned for what is streamed.
    pub host: DeviceMemory,
}

/// The plans of a model that is loaded.
#[derive(Clone, Debug)]
pub struct Plans {
    /// The one it was loaded with.
    pub chosen: ChosenPlan,
    /// The smallest that the host has room for, for a second try where memory was short.
    pub smallest: MemoryPlan,
}

/// What a plan needs of a device, or of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Bytes of tensors at most, of the model's own video.
    pub peak_bytes: usize,
    /// Bytes of the device that were free.
    pub free_bytes: usize,
}

impl DeviceMemory {
    /// Whether that is there, beside what others need.
    fn fits(&self, reserve_bytes: usize) -> bool {
        self.peak_bytes == 0 || self.peak_bytes <= self.free_bytes.saturating_sub(reserve_bytes)
    }
}

impl fmt::Display for DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peak {} MiB, free {} MiB", self.peak_bytes >> 20, self.free_bytes >> 20)
    }
}

/// What there is to plan with.
#[derive(Clone, Debug)]
pub struct FreeMemory {
    /// Of each device, in the order of [`Placement::devices`].
    pub devices_bytes: Vec<usize>,
    /// Of the host; none if it does not tell.
    pub host_bytes: Option<usize>,
}

impl FreeMemory {
    /// What is free now.
    ///
    /// # Errors
    /// The devices'.
    pub fn now(placement: &Placement) -> Result<Self> {
        let devices = placement.devices().into_iter().map(|device| Ok(device.memory()?.0));
        let host_bytes = device::host_memory::available_bytes();
        Ok(Self { devices_bytes: devices.collect::<Result<_>>()?, host_bytes })
    }
}

impl ChosenPlan {
    fn fits(&self) -> bool {
        self.devices.iter().all(|device| device.fits(RESERVE_BYTES)) && self.host.fits(HOST_RESERVE_BYTES)
    }

    /// Whether it needs less than another of some device, and nowhere more.
    fn is_smaller_than(&self, other: &Self) -> bool {
        let pairs = || self.devices.iter().zip(&other.devices).map(|(a, b)| (a.peak_bytes, b.peak_bytes));
        pairs().all(|(mine, others)| mine <= others) && pairs().any(|(mine, others)| mine < others)
    }
}

impl fmt::Display for ChosenPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory plan: {}", self.plan)?;
        self.devices.iter().try_for_each(|device| write!(f, "; {device}"))?;
        if self.host.peak_bytes > 0 {
            write!(f, "; pinned on the host {} MiB", self.host.peak_bytes >> 20)?;
        }
        Ok(())
    }
}

/// What memory is planned for.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Latent frames, rows and columns.
    pub latents: [usize; 3],
    /// Tokens of a prompt.
    pub text_tokens: usize,
    /// Steps, each with its rows of the adaptive norms.
    pub num_inference_steps: usize,
    /// Whether a negative prompt is computed with.
    pub guidance: bool,
}

/// What a job needs.
#[derive(Clone, Debug)]
pub struct Needs {
    /// Bytes of tensors at most, on each device, in the order of [`Placement::devices`].
    pub peak_bytes: Vec<usize>,
    /// Bytes of the host's memory that are pinned.
    pub host_bytes: usize,
}

/// Finds plans for a model.
pub struct Planner<'a> {
    pub(super) configs: &'a Configs,
    /// What the pipeline computes in.
    pub dtype: DType,
    /// Of the transformer's blocks.
    pub precision: Precision,
    /// Which parts lie together, and on devices of which capabilities, which decide between kernels.
    pub placement: Placement,
}

impl Planner<'_> {
    /// What a whole job needs with this plan.
    ///
    /// # Errors
    /// None but those of shapes that the model cannot run.
    pub fn needs(&self, plan: &MemoryPlan, job: &Job) -> Result<Needs> {
        let stand_ins =
            self.placement.devices().into_iter().map(|device| counting_device(device.capability()));
        let devices: Vec<Device> = stand_ins.collect();
        let placement = self.placement.on(&devices);
        let sources = Sources::random(&placement);
        let options = GpuOptions { placement, precision: self.precision };
        let components = build(self.configs, sources, self.dtype, &options, plan)?;
        run(&components, self.dtype, plan, job)?;
        Ok(Needs {
            peak_bytes: devices.iter().map(|device| device.usage().peak_bytes).collect(),
            host_bytes: devices.iter().map(|device| device.usage().pinned_bytes).sum(),
        })
    }

    /// All plans with what is free, from the fastest to the smallest.
    fn plans<'a>(
        &'a self,
        free: &'a FreeMemory,
        job: &'a Job,
    ) -> impl DoubleEndedIterator<Item = Result<ChosenPlan>> + 'a {
        let candidates = match free.devices_bytes[..] {
            [_] => MemoryPlan::candidates(),
            _ => MemoryPlan::candidates_apart(self.placement.transformer.len()),
        };
        candidates.into_iter().map(move |plan| {
            let needs = self.needs(&plan, job)?;
            let devices = needs.peak_bytes.into_iter().zip(&free.devices_bytes);
            let devices = devices.map(|(peak_bytes, &free_bytes)| DeviceMemory { peak_bytes, free_bytes });
            let host_free = free.host_bytes.unwrap_or(usize::MAX);
            let host = DeviceMemory { peak_bytes: needs.host_bytes, free_bytes: host_free };
            Ok(ChosenPlan { plan, devices: devices.collect(), host })
        })
    }

    /// The first plan that fits.
    ///
    /// # Errors
    /// [`Error::NoPlan`] with the numbers if none does.
    pub fn plan(&self, free: &FreeMemory, job: &Job) -> Result<ChosenPlan> {
        first_that_fits(&mut self.plans(free, job))
    }

    /// Loads with the first plan that fits, and with the next smaller one for as long as a device turns out to have less
    /// than it told.
    ///
    /// # Errors
    /// Those of [`Self::plan`] and of `load`; out of memory when the smallest plan was out of it too.
    pub(super) fn load<T>(
        &self,
        free: &FreeMemory,
        job: &Job,
        mut load: impl FnMut(MemoryPlan) -> Result<T>,
    ) -> Result<(T, Plans)> {
        let mut plans = self.plans(free, job);
        let mut chosen = first_that_fits(&mut plans)?;
        let smallest = self.smallest(free, job)?.unwrap_or(chosen.plan);
        loop {
            let full = match load(chosen.plan) {
                Err(full @ Error::Device(device::Error::OutOfMemory(_))) => full,
                loaded => return Ok((loaded?, Plans { chosen, smallest })),
            };
            let next = |plan: &Result<ChosenPlan>| match plan {
                Ok(plan) => plan.fits() && plan.is_smaller_than(&chosen),
                Err(_) => true,
            };
            chosen = plans.find(next).unwrap_or(Err(full))?;
        }
    }

    /// The smallest plan that the host has room for.
    fn smallest(&self, free: &FreeMemory, job: &Job) -> Result<Option<MemoryPlan>> {
        let fits = |plan: &Result<ChosenPlan>| match plan {
            Ok(plan) => plan.host.fits(HOST_RESERVE_BYTES),
            Err(_) => true,
        };
        self.plans(free, job).rev().find(fits).map(|plan| Ok(plan?.plan)).transpose()
    }
}

fn first_that_fits(plans: &mut dyn Iterator<Item = Result<ChosenPlan>>) -> Result<ChosenPlan> {
    let mut smallest = None;
    for plan in plans {
        let plan = plan?;
        if plan.fits() {
            return Ok(plan);
        }
        smallest = Some(plan);
    }
    Err(Error::NoPlan(smallest.as_ref().map_or_else(String::new, shortage)))
}

/// What the smallest plan needs, and what there is.
fn shortage(smallest: &ChosenPlan) -> String {
    let mib = |bytes: usize| bytes >> 20;
    let devices = smallest.devices.iter().map(|DeviceMemory { peak_bytes, free_bytes }| {
        let [peak, reserve, free] = [*peak_bytes, RESERVE_BYTES, *free_bytes].map(mib);
        format!("{peak} MiB and {reserve} MiB for the driver, {free} MiB are free")
    });
    let DeviceMemory { peak_bytes, free_bytes } = smallest.host;
    let [peak, reserve, free] = [peak_bytes, HOST_RESERVE_BYTES, free_bytes].map(mib);
    let host = (!smallest.host.fits(HOST_RESERVE_BYTES)).then(|| {
        format!("of the host's memory {peak} MiB and {reserve} MiB for all else, {free} MiB are free")
    });
    let all: Vec<String> = devices.chain(host).collect();
    format!("the smallest plan needs {}", all.join("; "))
}

/// A whole job, of one step, and the next one's prompt: all steps use the same memory.
fn run(components: &Components, dtype: DType, plan: &MemoryPlan, job: &Job) -> Result<()> {
    let host = candle_core::Device::Cpu;
    let check = &mut || Ok(());
    let prompt = components.text_encoder.forward(&vec![0; job.text_tokens], check)?;
    let batch = if job.guidance { 2 } else { 1 };
    let prompt_embeds = HostTensor::cat(&vec![&prompt; batch], 0)?;
    let config = components.transformer.config();
    let [frames, height, width] = job.latents;
    let positions = components.transformer.positions(frames, height, width)?;
    let timesteps: Vec<usize> = (0..job.num_inference_steps).collect();
    components.transformer.prepare(&timesteps, 0.0)?;
    let dims = (batch, frames, config.in_channels, height, width);
    let input = TransformerInput {
        hidden_states: &HostTensor::zeros(dims, dtype, &host)?,
        encoder_hidden_states: &prompt_embeds,
        timestep: 0,
        ofs: 0.0,
        positions: &positions,
        lora: &[],
    };
    components.transformer.forward(&input, check)?;
    let latents = HostTensor::zeros((1, config.out_channels, frames, height, width), dtype, &host)?;
    let tiling = plan.vae_tiling.then(|| components.vae.default_tiling());
    components.vae.decode_frames(&latents, tiling.as_ref(), &mut |_| Ok(()))?;
    // The next prompt finds there what the transformer keeps between jobs.
    components.text_encoder.forward(&vec![0; job.text_tokens], check)?;
    Ok(())
}

#[cfg(test)]
mod tests;
