//! `cogvideox-server convert`: SAT's checkpoints to a folder in diffusers' layout.
//!
//! The converting is the model crate's; this names the files.

use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use cogvideox::ModelForm;
use cogvideox::convert::Conversion;

use crate::{config, new_folder};

/// What to convert.
#[derive(Debug, Args)]
pub struct Convert {
    /// SAT's transformer, `mp_rank_00_model_states.pt`.
    #[arg(long, value_name = "FILE")]
    transformer: PathBuf,
    /// SAT's VAE, `3d-vae.pt`.
    #[arg(long, value_name = "FILE")]
    vae: PathBuf,
    /// A folder with T5-XXL's encoder: config.json and model*.safetensors. Linked where possible, else copied.
    #[arg(long, value_name = "DIR")]
    text_encoder: PathBuf,
    /// A folder with spiece.model and what belongs to it; the text encoder's if not given.
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// 2b, 5b, 5b-i2v, 1.5-5b or 1.5-5b-i2v.
    #[arg(long)]
    form: ModelForm,
    /// A config.json for a transformer of other sizes than the published form's.
    #[arg(long, value_name = "FILE")]
    transformer_config: Option<PathBuf>,
    /// A config.json for a VAE of other sizes than the published one.
    #[arg(long, value_name = "FILE")]
    vae_config: Option<PathBuf>,
    /// Store the transformer in f32, f16 or bf16; as in the checkpoint if not given.
    #[arg(long, hide_possible_values = true)]
    dtype: Option<config::DType>,
    /// The folder to write, which must not exist yet.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

impl Convert {
    /// Converts and writes.
    ///
    /// # Errors
    /// The file or tensor that is not as the form needs it; then nothing is left behind.
    pub(crate) fn run(&self, stdout: &mut impl Write) -> anyhow::Result<()> {
        let dtype = match self.dtype {
            None => None,
            Some(config::DType::F32) => Some(candle_core::DType::F32),
            Some(config::DType::F16) => Some(candle_core::DType::F16),
            Some(config::DType::Bf16) => Some(candle_core::DType::BF16),
            Some(other) => bail!("--dtype: expected f32, f16 or bf16, found {other}"),
        };
        let conversion = Conversion {
            transformer: self.transformer.clone(),
            vae: self.vae.clone(),
            text_encoder: self.text_encoder.clone(),
            tokenizer: self.tokenizer.clone().unwrap_or_else(|| self.text_encoder.clone()),
            form: self.form,
            transformer_config: self.transformer_config.clone(),
            vae_config: self.vae_config.clone(),
            dtype,
        };
        new_folder::write(&self.output, |unfinished, report| conversion.write(unfinished, report))?;
        writeln!(stdout, "{}", self.output.display())?;
        Ok(())
    }
}
