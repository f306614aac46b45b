//! `bench --quality`: how far 8 bits lead the latents from those of the model's own dtype, step by step.
//!
//! The comparing is the model crate's; this chooses the memory plan and prints. Must not know how steps are computed.

use std::io::Write;
use std::path::Path;

use anyhow::bail;
use candle_core::DType;
use cogvideox::gpu::bench::first_plan;
use cogvideox::gpu::quality::{Quality, StepError, Subject};
use cogvideox::gpu::{FreeMemory, GpuOptions, Placement, Precision};
use cogvideox::{CogVideoXPipeline, ModelForm};
use device::Device;
use serde_json::json;

use super::Bench;
use crate::gpu::DeviceName;

/// Of the first noise.
const SEED: u64 = 42;

impl Bench {
    /// Denoises twice and prints a line for each step.
    ///
    /// # Errors
    /// A dtype without 8 bits; the device's, and those of a model folder's files.
    pub(super) fn compare(
        &self,
        name: DeviceName,
        precision: Precision,
        stdout: &mut impl Write,
    ) -> anyhow::Result<()> {
        if precision == Precision::Dense {
            bail!("--quality: expected --dtype fp8, int8 or int8-weight-only");
        }
        let (subject, dtype) = self.subject()?;
        let device = self.open(name)?;
        let placement = Placement::single(device.clone());
        let plan = match subject {
            Subject::Preset(preset) => {
                let free = FreeMemory::now(&placement)?;
                first_plan(preset, dtype, Precision::Dense, &device, &free)?.plan
            }
            Subject::Folder(dir) => {
                let options = GpuOptions { placement, precision: Precision::Dense };
                CogVideoXPipeline::choose_plan(dir, dtype, &options)?.plan
            }
        };
        self.print(stdout, &self.heading(subject, dtype, precision, &device))?;
        let num_inference_steps = self.steps;
        let quality = Quality { subject, dtype, plan, device, num_inference_steps, seed: SEED };
        if !self.json {
            writeln!(stdout, "{:>6}{:>18}{:>14}", "step", "relative error", "max abs")?;
        }
        let mut written = Ok(());
        quality.compare(precision, &mut |error| {
            if written.is_ok() {
                written = self.print_step(stdout, &error);
            }
            Ok(())
        })?;
        written
    }

    fn subject(&self) -> anyhow::Result<(Subject<'_>, DType)> {
        if let Some(dir) = &self.model {
            let dtype = ModelForm::read(dir)?.half_dtype();
            return Ok((Subject::Folder(dir), dtype));
        }
        let preset = self.preset()?;
        Ok((Subject::Preset(preset), preset.dtype()))
    }

    fn heading(
        &self,
        subject: Subject<'_>,
        dtype: DType,
        precision: Precision,
        device: &Device,
    ) -> serde_json::Value {
        let model = match subject {
            Subject::Preset(preset) => format!("{}, random weights", preset.name()),
            Subject::Folder(dir) => Path::display(dir).to_string(),
        };
        json!({
            "model": model, "precision": format!("{precision:?}"), "compared_with": dtype.as_str(),
            "device": device.name(), "num_inference_steps": self.steps, "seed": SEED,
        })
    }

    fn print_step(&self, stdout: &mut impl Write, error: &StepError) -> anyhow::Result<()> {
        let StepError { step, relative, max_abs } = error;
        if self.json {
            writeln!(stdout, "{}", json!({ "step": step, "relative_error": relative, "max_abs": max_abs }))?;
        } else {
            writeln!(stdout, "{step:>6}{relative:>18.6}{max_abs:>14.6}")?;
        }
        Ok(stdout.flush()?)
    }
}
