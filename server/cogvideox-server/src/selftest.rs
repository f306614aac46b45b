//! `cogvideox-server selftest`: every kernel against its reference, on the device that an operator names.
//!
//! The cases are the device crate's; this prints what they find. Must not know models.

use std::io::Write;

use anyhow::bail;
use clap::Args;
use device::selftest::{Case, Outcome, Sizes, sampled_cases};
use device::{Device, Settings};

use crate::gpu::{self, DeviceName};

/// Check every kernel against its reference on a device.
#[derive(Debug, Args)]
pub struct Selftest {
    /// cuda or cuda:N; emulator in a program built with it.
    #[arg(long, value_name = "DEVICE", default_value = "cuda")]
    device: DeviceName,
    /// Leave NVIDIA's libraries aside, so that the own kernels that they replace run.
    #[arg(long)]
    own_kernels: bool,
    /// At the sizes of 5B, where samples of the results are compared, instead of small and odd ones. Takes 4 GiB.
    #[arg(long)]
    real_sizes: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Selftest {
    /// Runs all cases, also after one failed.
    ///
    /// # Errors
    /// A device that cannot be used, or that is lost; else how many cases failed.
    pub(crate) fn run(&self, stdout: &mut impl Write) -> anyhow::Result<()> {
        let device =
            gpu::open_named(self.device, Settings { own_kernels: self.own_kernels, ..Settings::default() })?;
        for note in device.library_notes() {
            if self.json {
                writeln!(stdout, "{}", serde_json::json!({ "library": note }))?;
            } else {
                writeln!(stdout, "{note}")?;
            }
        }
        let cases =
            if self.real_sizes { sampled_cases(Sizes::COGVIDEOX_5B) } else { device::selftest::cases() };
        let mut failed = 0;
        for case in &cases {
            failed += usize::from(!self.run_case(case, &device, stdout)?);
            stdout.flush()?;
        }
        if failed > 0 {
            bail!("{failed} of {} cases failed on {}", cases.len(), device.name());
        }
        Ok(())
    }

    fn run_case(&self, case: &Case, device: &Device, stdout: &mut impl Write) -> anyhow::Result<bool> {
        let found = case.run(device);
        if let Err(error @ device::Error::Lost(_)) = found {
            return Err(anyhow::Error::new(error).context(format!("case {}", case.name)));
        }
        let passed = found.as_ref().is_ok_and(Outcome::passed);
        if self.json {
            // An infinite error is null in JSON.
            let (error, bound) = found.as_ref().map_or((None, None), |o| (Some(o.error), Some(o.bound)));
            let mut line = serde_json::json!({
                "name": case.name, "passed": passed, "error": error, "bound": bound,
            });
            if let Err(reason) = &found {
                line["reason"] = reason.to_string().into();
            }
            writeln!(stdout, "{line}")?;
        } else {
            let word = if passed { "ok" } else { "FAILED" };
            match &found {
                Ok(Outcome { error, bound }) => {
                    writeln!(stdout, "{:<64} error {error:<10.3e} bound {bound:<10.3e} {word}", case.name)?;
                }
                Err(reason) => writeln!(stdout, "{:<64} {reason} {word}", case.name)?,
            }
        }
        Ok(passed)
    }
}
