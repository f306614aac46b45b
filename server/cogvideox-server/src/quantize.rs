//! `cogvideox-server quantize`: a model's folder once more, with its large weights stored in 8 bits. The quantising is
//! the model crate's.

use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use cogvideox::quantize::{EightBitDtype, Quantization};

use crate::{config, new_folder};

/// What to quantise, and where to.
#[derive(Debug, Args)]
pub struct Quantize {
    /// A model folder in diffusers' layout.
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// What to store the weights of the transformer's blocks in: int8 or fp8.
    #[arg(long, hide_possible_values = true)]
    dtype: config::DType,
    /// The folder to write, which must not exist yet; what stays as it is is linked where possible, else copied.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

impl Quantize {
    /// Quantises and writes.
    ///
    /// # Errors
    /// What is wrong with the model; then nothing is left behind.
    pub(crate) fn run(&self, stdout: &mut impl Write) -> anyhow::Result<()> {
        let dtype = match self.dtype {
            config::DType::Int8 => EightBitDtype::Int8,
            config::DType::Fp8 => EightBitDtype::Fp8,
            other => bail!("--dtype: expected int8 or fp8, found {other}"),
        };
        let quantization = Quantization { model: self.model.clone(), dtype };
        new_folder::write(&self.output, |unfinished, report| quantization.write(unfinished, report))?;
        writeln!(stdout, "{}", self.output.display())?;
        Ok(())
    }
}
