//! Which memory mode a job runs in, found by running it where only memory is counted.
//!
//! A plan is not an estimate: the candidates, from the fastest to the smallest, run with the model's real shapes on a
//! device that computes nothing (`device::Device::planner`), and the first whose peak fits is taken. What the
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
/// More than any device has: a planner that refuses nothing.
pub(super) const BOUNDLESS_BYTES: usize = 1 << 46;

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
#[derive(Clone, Copy, Debug)]
pub struct ChosenPlan {
    /// The first that fits.
    pub plan: MemoryPlan,
    /// Bytes of tensors at most, of the model's own video.
    pub peak_bytes: usize,
    /// Bytes of the device that were free.
    pub free_bytes: usize,
}

impl fmt::Display for ChosenPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plan, peak_bytes, free_bytes } = self;
        write!(f, "memory plan: {plan}; peak {} MiB, free {} MiB", peak_bytes >> 20, free_bytes >> 20)
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

/// Finds plans for a model.
pub struct Planner<'a> {
    pub(super) configs: &'a Configs,
    /// What the pipeline computes in.
    pub dtype: DType,
    /// Of the transformer's blocks.
    pub precision: Precision,
    /// Of the device planned for: it decides between kernels.
    pub capability: Capability,
}

impl Planner<'_> {
    /// Bytes of tensors at most, of a whole job with this plan; and how much of them stays between jobs.
    ///
    /// # Errors
    /// None but those of shapes that the model cannot run.
    pub fn peak_bytes(&self, plan: &MemoryPlan, job: &Job) -> Result<usize> {
        let device = Device::planner(self.capability, BOUNDLESS_BYTES, Settings::default());
        let placement = Placement::single(device.clone());
        let sources = Sources::random(&placement);
        let options = GpuOptions { placement, precision: self.precision };
        let components = build(self.configs, sources, self.dtype, &options, plan)?;
        run(&components, self.dtype, plan, job)?;
        Ok(device.usage().peak_bytes)
    }

    /// The first plan that fits into `free_bytes` of a device.
    ///
    /// # Errors
    /// [`Error::NoPlan`] with the numbers if none fits.
    pub fn plan(&self, free_bytes: usize, job: &Job) -> Result<ChosenPlan> {
        let room = free_bytes.saturating_sub(RESERVE_BYTES);
        let mut least = usize::MAX;
        for plan in MemoryPlan::candidates() {
            let peak_bytes = self.peak_bytes(&plan, job)?;
            if peak_bytes <= room {
                return Ok(ChosenPlan { plan, peak_bytes, free_bytes });
            }
            least = least.min(peak_bytes);
        }
        let mib = |bytes: usize| bytes >> 20;
        Err(Error::NoPlan(format!(
            "the smallest plan needs {} MiB and {} MiB for the driver, {} MiB are free",
            mib(least),
            mib(RESERVE_BYTES),
            mib(free_bytes)
        )))
    }

    /// Loads with the first plan that fits into `free_bytes` of a device, and with the next smaller one for as long as
    /// there turns out to be less.
    ///
    /// # Errors
    /// Those of [`Self::plan`] and of `load`; out of memory when the smallest plan was out of it too.
    pub(super) fn load<T>(
        &self,
        free_bytes: usize,
        job: &Job,
        mut load: impl FnMut(MemoryPlan) -> Result<T>,
    ) -> Result<(T, ChosenPlan)> {
        let mut chosen = self.plan(free_bytes, job)?;
        loop {
            let full = match load(chosen.plan) {
                Err(full @ Error::Device(device::Error::OutOfMemory(_))) => full,
                loaded => return Ok((loaded?, chosen)),
            };
            chosen = match self.plan(chosen.peak_bytes + RESERVE_BYTES - 1, job) {
                Ok(smaller) => ChosenPlan { free_bytes, ..smaller },
                Err(Error::NoPlan(_)) => return Err(full),
                Err(error) => return Err(error),
            };
        }
    }
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
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::gpu::Preset;
    use crate::gpu::bench::plan_peaks;

    const HOPPER: Capability = Capability { major: 9, minor: 0 };

    #[test]
    fn every_candidate_reads_differently() {
        let candidates = MemoryPlan::candidates();
        let texts: HashSet<String> = candidates.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), candidates.len(), "{texts:?}");
    }

    #[test]
    fn every_plan_can_run_the_smallest_preset() {
        let peaks = plan_peaks(Preset::Tiny, Preset::Tiny.dtype(), Precision::Dense, HOPPER).unwrap();
        assert_eq!(peaks.len(), MemoryPlan::candidates().len());
    }

    #[test]
    fn a_device_with_less_memory_than_it_told_gets_the_next_smaller_plan() {
        let configs = Preset::Cogvideox2b.configs();
        let planner =
            Planner { configs: &configs, dtype: DType::F16, precision: Precision::Dense, capability: HOPPER };
        let (job, free_bytes) = (Preset::Cogvideox2b.job(), 24 << 30);
        let out_of_memory = || Error::Device(device::Error::OutOfMemory(String::new()));

        let (mut tried, mut refusals) = (Vec::new(), 2);
        let (loaded, chosen) = planner
            .load(free_bytes, &job, |plan| {
                tried.push(planner.peak_bytes(&plan, &job)?);
                refusals -= 1;
                if refusals < 0 { Ok(plan) } else { Err(out_of_memory()) }
            })
            .unwrap();
        assert!(tried.len() == 3 && tried.is_sorted_by(|larger, smaller| larger > smaller), "{tried:?}");
        assert_eq!(
            (loaded, tried.last(), free_bytes),
            (chosen.plan, Some(&chosen.peak_bytes), chosen.free_bytes)
        );

        let never = planner.load(free_bytes, &job, |_| Err::<(), _>(out_of_memory()));
        assert!(matches!(never, Err(Error::Device(device::Error::OutOfMemory(_)))));
    }

    #[test]
    fn every_candidate_is_the_fastest_for_some_model_and_memory() {
        let mut taken = HashSet::new();
        for preset in [Preset::Cogvideox5b, Preset::Cogvideox15] {
            let mut least = usize::MAX;
            for (plan, bytes) in plan_peaks(preset, preset.dtype(), Precision::Dense, HOPPER).unwrap() {
                if bytes < least {
                    least = bytes;
                    taken.insert(plan.to_string());
                }
            }
        }
        let candidates = MemoryPlan::candidates().into_iter().map(|plan| plan.to_string());
        assert_eq!(candidates.filter(|plan| !taken.contains(plan)).collect::<Vec<_>>(), Vec::<String>::new());
    }

    #[test]
    fn whole_jobs_stay_within_the_memory_that_is_aimed_at() {
        let text_streamed_vae_tiled = MemoryPlan {
            text_encoder: Residence::Streamed,
            ff_rows: 8192,
            vae_tiling: true,
            ..MemoryPlan::RESIDENT
        };
        let transformer_streamed = MemoryPlan { transformer: Residence::Streamed, ..text_streamed_vae_tiled };
        // The goals are 5.5, 3.6, 14, 7.5 and 6 GB; most is met with room, which is not to be lost.
        for (preset, precision, plan, most_mib) in [
            (Preset::Cogvideox2b, Precision::Dense, text_streamed_vae_tiled, 4_600),
            (Preset::Cogvideox2b, Precision::Int8, text_streamed_vae_tiled, 3_350),
            (Preset::Cogvideox5b, Precision::Dense, text_streamed_vae_tiled, 11_200),
            (Preset::Cogvideox5b, Precision::Int8, text_streamed_vae_tiled, 6_650),
            (Preset::Cogvideox5b, Precision::Dense, transformer_streamed, 2_550),
        ] {
            let configs = preset.configs();
            let planner = Planner { configs: &configs, dtype: preset.dtype(), precision, capability: HOPPER };
            let mib = planner.peak_bytes(&plan, &preset.job()).unwrap() >> 20;
            assert!(mib <= most_mib, "{} {precision:?}, {plan}: {mib} MiB", preset.name());
        }
    }
}
