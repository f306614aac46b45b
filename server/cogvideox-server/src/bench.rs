//! `cogvideox-server bench`: how fast a model's parts run at the published shapes, with random weights.
//!
//! The measuring is the model crate's; this decides what is measured and prints it, part by part, so that a run that is
//! cut short keeps what it had. On the device `plan` nothing runs: the memory of every plan is counted. With `--quality`
//! it is not speed that is measured but what 8 bits cost. Must not know requests.

mod ceiling;
mod quality;

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail};
use candle_core::DType;
use clap::{Args, ValueEnum};
use cogvideox::gpu::bench::{Bench as Measuring, Loading, first_plan, loading, plan_needs};
use cogvideox::gpu::{ChosenPlan, FreeMemory, Needs, Placement, Precision, Preset, counting_device};
use device::{Capability, Device, Settings};
use serde_json::json;

use self::ceiling::Ceiling;
use crate::config;
use crate::gpu::{self, DeviceName};

/// Steps of the published videos.
const STEPS: f64 = 50.0;
/// A part of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// A denoising step, and its attention and linear layers alone.
    Transformer,
    /// The decoding of the video.
    Vae,
    /// The encoding of both prompts.
    Text,
    /// Reading weights from a disk; only where it is asked for, as it writes a file.
    Load,
}

/// What matrix products, attention and convolutions are computed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Algorithms {
    /// What NVIDIA's libraries propose first, as the server does: it is the same in every process.
    Proposed,
    /// The fastest of what they propose, measured when a shape first comes.
    Measured,
    /// This program's own kernels, without the libraries.
    Own,
}

/// Where, if anywhere.
#[derive(Debug, Clone, Copy)]
enum Target {
    Plan,
    On(DeviceName),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "plan" { Ok(Self::Plan) } else { text.parse().map(Self::On) }
    }
}

/// Measure a published model's parts with random weights, or what 8 bits cost in quality.
#[derive(Debug, Args)]
pub struct Bench {
    /// 2b, 5b, 1.5-5b, or tiny for a machine without a GPU.
    #[arg(long, required_unless_present = "model")]
    preset: Option<Preset>,
    /// Draw the weights on the device: speed depends on shapes, not on values.
    #[arg(long, required_unless_present = "model")]
    random_weights: bool,
    /// Denoise in the model's own dtype and in --dtype fp8, int8 or int8-weight-only from the same noise, and print
    /// how far the latents are apart after each of --steps steps.
    #[arg(long, conflicts_with = "stages")]
    quality: bool,
    /// With --quality: a model's folder in diffusers' layout instead of random weights.
    #[arg(long, value_name = "DIR", requires = "quality", conflicts_with_all = ["preset", "random_weights"])]
    model: Option<PathBuf>,
    /// What the model computes in; as published if not given.
    #[arg(long)]
    dtype: Option<config::DType>,
    /// Steps that are timed, after one that is not; with --quality, of the whole denoising.
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// The GPU's memory that may be used, as in 8GiB.
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<config::MemoryLimit>,
    /// What is measured; everything but load if not given.
    #[arg(long, value_delimiter = ',')]
    stages: Vec<Stage>,
    /// Of the file that --stages load writes, in --scratch.
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    load_size: config::MemoryLimit,
    /// A folder on the disk that models come from, for --stages load; the system's for temporary files if not given.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// cuda or cuda:N; plan, to count the memory of every plan, or of the first within --memory-limit; emulator in a program built with it.
    #[arg(long, value_name = "DEVICE", default_value = "cuda")]
    device: Target,
    /// Whose algorithms are measured.
    #[arg(long, value_enum, default_value_t = Algorithms::Proposed)]
    algorithms: Algorithms,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Measures and prints.
    ///
    /// # Errors
    /// A device that cannot be used, or has too little memory for any plan.
    pub(crate) fn run(&self, stdout: &mut impl Write) -> anyhow::Result<()> {
        let precision = self.dtype.map_or(Precision::Dense, gpu::precision);
        match self.device {
            Target::Plan if self.quality => bail!("--quality: nothing is computed on the device plan"),
            Target::Plan if !self.stages.is_empty() || self.algorithms != Algorithms::Proposed => {
                bail!("--stages, --algorithms: nothing is computed on the device plan")
            }
            Target::On(name) if self.quality => self.compare(name, precision, stdout),
            Target::Plan => self.print_plans(precision, stdout),
            Target::On(name) => self.measure(name, precision, stdout),
        }
    }

    fn preset(&self) -> anyhow::Result<Preset> {
        self.preset.context("--preset: expected one of a published model")
    }

    fn dtype(&self, preset: Preset) -> DType {
        match self.dtype {
            Some(config::DType::F32) => DType::F32,
            Some(config::DType::F16) => DType::F16,
            Some(config::DType::Bf16) => DType::BF16,
            _ => preset.dtype(),
        }
    }

    fn print_plans(&self, precision: Precision, stdout: &mut impl Write) -> anyhow::Result<()> {
        let preset = self.preset()?;
        // An H100's capability decides between kernels.
        let device = counting_device(Capability::HOPPER);
        let dtype = self.dtype(preset);
        let plans = match self.memory_limit_bytes() {
            None => plan_needs(preset, dtype, precision, &device)?,
            Some(limit_bytes) => {
                // This machine's own memory is not that of the one planned for.
                let free = FreeMemory { devices_bytes: vec![limit_bytes], host_bytes: None };
                let ChosenPlan { plan, devices, host } =
                    first_plan(preset, dtype, precision, &device, &free)?;
                let peak_bytes = devices.iter().map(|memory| memory.peak_bytes).collect();
                vec![(plan, Needs { peak_bytes, host_bytes: host.peak_bytes })]
            }
        };
        for (plan, Needs { peak_bytes, host_bytes }) in plans {
            let peak_bytes = peak_bytes.into_iter().max().unwrap_or(0);
            if self.json {
                let plan = plan.to_string();
                writeln!(
                    stdout,
                    "{}",
                    json!({ "plan": plan, "peak_bytes": peak_bytes, "host_bytes": host_bytes })
                )?;
            } else {
                writeln!(stdout, "{:>8} MiB, host {:>5} MiB  {plan}", peak_bytes >> 20, host_bytes >> 20)?;
            }
        }
        Ok(())
    }

    fn measure(&self, name: DeviceName, precision: Precision, stdout: &mut impl Write) -> anyhow::Result<()> {
        let preset = self.preset()?;
        let (dtype, device) = (self.dtype(preset), self.open(name)?);
        let free = FreeMemory::now(&Placement::single(device.clone()))?;
        let ChosenPlan { plan, devices, .. } = first_plan(preset, dtype, precision, &device, &free)?;
        let name = device.name().to_owned();
        self.print(
            stdout,
            &json!({
                "preset": preset.name(), "dtype": dtype.as_str(), "precision": format!("{precision:?}"),
                "device": name, "libraries": device.library_notes(), "plan": plan.to_string(),
                "whole_job_peak_bytes_counted": devices.iter().map(|memory| memory.peak_bytes).max(),
            }),
        )?;
        if self.stages.contains(&Stage::Load) {
            self.measure_loading(&device, stdout)?;
        }
        let bench = Measuring { preset, dtype, precision, plan, device };
        if self.wants(Stage::Text) {
            let text = bench.text_encode()?;
            let line =
                json!({ "text_encode_seconds": text.seconds, "text_encode_peak_bytes": text.peak_bytes });
            self.print(stdout, &line)?;
        }
        if self.wants(Stage::Transformer) {
            self.measure_transformer(&bench, stdout)?;
        }
        if self.wants(Stage::Vae) {
            let vae = bench.vae_decode()?;
            let line = json!({ "vae_decode_seconds": vae.seconds, "vae_decode_peak_bytes": vae.peak_bytes });
            self.print(stdout, &line)?;
        }
        Ok(())
    }

    fn open(&self, name: DeviceName) -> anyhow::Result<Device> {
        let measured_algorithms = self.algorithms == Algorithms::Measured;
        let own_kernels = self.algorithms == Algorithms::Own;
        let memory_limit_bytes = self.memory_limit_bytes();
        gpu::open_named(name, Settings { memory_limit_bytes, measured_algorithms, own_kernels })
    }

    fn memory_limit_bytes(&self) -> Option<usize> {
        self.memory_limit.map(|limit| (limit.mib as usize) << 20)
    }

    fn measure_transformer(&self, bench: &Measuring, stdout: &mut impl Write) -> anyhow::Result<()> {
        let (step, is_finite) = bench.transformer_step(self.steps)?;
        let flops = bench.linear_flops() + bench.attention_flops();
        self.print(
            stdout,
            &json!({
                "seconds_per_step": step.seconds, "tflops": flops / step.seconds / 1e12,
                "peak_bytes": step.peak_bytes, "output_is_finite": is_finite, "extrapolated_seconds_50_steps": step.seconds * STEPS,
            }),
        )?;
        let (attention, linear) = (bench.attention()?.seconds, bench.linear()?.seconds);
        let rest = step.seconds - attention - linear;
        self.print(stdout, &json!({
            "attention_seconds": attention, "attention_tflops": bench.attention_flops() / attention / 1e12,
            "linear_seconds": linear, "linear_tflops": bench.linear_flops() / linear / 1e12,
            "rest_seconds": rest, "rest_share_of_step": rest / step.seconds,
        }))?;
        if let Some(ceiling) = Ceiling::of(bench.device.name(), bench.dtype, bench.precision) {
            self.print(
                stdout,
                &json!({ "share_of_floor": {
                    "attention": bench.attention_flops() / ceiling.attention_flops / attention,
                    "linear": bench.linear_flops() / ceiling.linear_flops / linear,
                    "rest": bench.rest_bytes() / ceiling.bytes_per_second / rest,
                }}),
            )?;
        }
        Ok(())
    }

    fn measure_loading(&self, device: &Device, stdout: &mut impl Write) -> anyhow::Result<()> {
        let scratch = self.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let Loading { disk, bus, loading, loading_cached } =
            loading(device, &scratch, (self.load_size.mib as usize) << 20)?;
        self.print(
            stdout,
            &json!({
                "disk_gb_per_second": disk / 1e9, "bus_gb_per_second": bus / 1e9,
                "loading_gb_per_second": loading / 1e9, "loading_share_of_the_slower": loading / disk.min(bus),
                "loading_cached_gb_per_second": loading_cached / 1e9,
                "loading_cached_share_of_bus": loading_cached / bus,
            }),
        )
    }

    fn wants(&self, stage: Stage) -> bool {
        self.stages.is_empty() || self.stages.contains(&stage)
    }

    /// One object as a line of JSON, or its fields a line each.
    fn print(&self, stdout: &mut impl Write, values: &serde_json::Value) -> anyhow::Result<()> {
        match values.as_object() {
            Some(fields) if !self.json => {
                for (name, value) in fields {
                    writeln!(stdout, "{name:<32} {value}")?;
                }
            }
            _ => writeln!(stdout, "{values}")?,
        }
        Ok(stdout.flush()?)
    }
}
