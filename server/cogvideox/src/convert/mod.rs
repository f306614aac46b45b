//! SAT's checkpoints to a folder in diffusers' layout.
//!
//! SAT is what the authors train with. A checkpoint of `torch.save` is mapped and described (`torch`, which runs
//! nothing of it), its tensors get diffusers' names (`sat`), and are written one at a time; what the folder must hold
//! is what loading it asks for. Must not know where checkpoints come from.

mod converted;
mod pickle;
mod sat;
mod torch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::DType;
use safetensors::Dtype;
use serde_json::{Value, json};

use self::converted::Converted;
use self::sat::Part;
use self::torch::TorchFile;
use crate::folder::{self, DIFFUSERS_VERSION, Report, make_folder, take_files, write_config, write_json};
use crate::gpu::demand::{self, Demand};
use crate::params::ModelForm;
use crate::text_encoder::read_t5_config;
use crate::tokenizer::Tokenizer;
use crate::transformer::TransformerConfig;
use crate::vae::VaeConfig;
use crate::weights::TRANSFORMERS_STEM;
use crate::{Error, PipelineClass, Result, inspection};

/// Of the local header that a zip begins with.
const ZIP_MAGIC: [u8; 4] = *b"PK\x03\x04";
/// What the pipelines read of a tokenizer's folder.
const TOKENIZER_FILES: [&str; 4] =
    ["added_tokens.json", "special_tokens_map.json", "spiece.model", "tokenizer_config.json"];

/// What to convert.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// SAT's `mp_rank_00_model_states.pt`.
    pub transformer: PathBuf,
    /// SAT's `3d-vae.pt`.
    pub vae: PathBuf,
    /// A folder with the T5 encoder of transformers.
    pub text_encoder: PathBuf,
    /// A folder with its tokenizer.
    pub tokenizer: PathBuf,
    /// Which decides the configurations.
    pub form: ModelForm,
    /// A `config.json` for the transformer instead of the published form's; of that form too.
    pub transformer_config: Option<PathBuf>,
    /// A `config.json` for the VAE instead of the published form's.
    pub vae_config: Option<PathBuf>,
    /// What the transformer is stored in; as in the checkpoint if not given.
    pub dtype: Option<DType>,
}

/// What of a model a checkpoint of SAT is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SatComponent {
    /// `mp_rank_00_model_states.pt`.
    Transformer,
    /// `3d-vae.pt`.
    Vae,
}

/// Says what of SAT's a file is; none for a file that is no zip, and so not of `torch.save`.
///
/// # Errors
/// [`Error::Io`]; [`Error::Weights`] for another zip, or a damaged one.
pub fn recognise(path: &Path) -> Result<Option<SatComponent>> {
    let mut magic = Vec::new();
    File::open(path)
        .and_then(|file| file.take(ZIP_MAGIC.len() as u64).read_to_end(&mut magic))
        .map_err(|source| Error::io(path, source))?;
    if magic != ZIP_MAGIC {
        return Ok(None);
    }
    let file = TorchFile::open(path)?;
    let holds = |name: &str| file.tensors.keys().any(|key| key.ends_with(name));
    if holds("mixins.patch_embed.proj.weight") {
        Ok(Some(SatComponent::Transformer))
    } else if holds("decoder.mid.block_1.conv1.conv.weight") {
        Ok(Some(SatComponent::Vae))
    } else {
        Err(Error::weights(path, "expected SAT's transformer or VAE, found another checkpoint of torch.save"))
    }
}

impl Conversion {
    /// Writes the folder `out`, which is empty or does not exist yet. All that can be told from headers is looked at
    /// before anything is written; `report` is told of what takes long.
    ///
    /// # Errors
    /// The file or tensor that is not as the form needs it; [`Error::Io`].
    pub fn write(&self, out: &Path, report: Report<'_>) -> Result<()> {
        let (transformer, vae) = (self.transformer_config()?, self.vae_config()?);
        Tokenizer::load(&self.tokenizer)?;
        let text_encoder = demand::text_encoder(&read_t5_config(&self.text_encoder.join("config.json"))?)?;
        inspection::check(&self.text_encoder, TRANSFORMERS_STEM, &text_encoder)?;
        let (transformer_file, vae_file) = (TorchFile::open(&self.transformer)?, TorchFile::open(&self.vae)?);
        let transformer_tensors = self.transformer_tensors(&transformer_file, &transformer)?;
        let vae_tensors = self.vae_tensors(&vae_file, &vae)?;
        transformer_file.verify("check transformer", report)?;
        vae_file.verify("check vae", report)?;

        make_folder(out)?;
        take_files(&self.text_encoder, &out.join("text_encoder"), |name| {
            name == "config.json" || (name.starts_with("model") && name.contains(".safetensors"))
        })?;
        take_files(&self.tokenizer, &out.join("tokenizer"), |name| TOKENIZER_FILES.contains(&name))?;
        make_folder(&out.join("scheduler"))?;
        write_json(&out.join("scheduler/scheduler_config.json"), &scheduler_config(self.form))?;
        write_json(&out.join("model_index.json"), &model_index(self.form))?;
        let written = &out.join("transformer");
        folder::write_component(written, transformer_tensors, "write transformer", report)?;
        write_config(&out.join("transformer"), "CogVideoXTransformer3DModel", &transformer)?;
        folder::write_component(&out.join("vae"), vae_tensors, "write vae", report)?;
        write_config(&out.join("vae"), "AutoencoderKLCogVideoX", &vae)?;
        inspection::inspect(out).faults.into_iter().next().map_or(Ok(()), Err)
    }

    fn transformer_tensors<'a>(
        &self,
        file: &'a TorchFile,
        config: &TransformerConfig,
    ) -> Result<BTreeMap<String, Converted<'a>>> {
        let learned = config.use_learned_positional_embeddings;
        let parts = |name: &str| {
            let parts = sat::transformer(name)?;
            // Without it the table is the fixed sincos one, which is computed.
            Some(
                parts
                    .into_iter()
                    .filter(|part| learned || part.name != "patch_embed.pos_embedding")
                    .collect(),
            )
        };
        let dtype = self.dtype.map(stored_dtype).transpose()?;
        self.converted(file, sat::TRANSFORMER_PREFIX, &demand::transformer(config)?, dtype, parts)
    }

    fn vae_tensors<'a>(
        &self,
        file: &'a TorchFile,
        config: &VaeConfig,
    ) -> Result<BTreeMap<String, Converted<'a>>> {
        let levels = config.block_out_channels.len();
        self.converted(file, "", &demand::vae(config)?, None, |name| sat::vae(name, levels))
    }

    /// The tensors of `file` under diffusers' names, each as `demand` has it.
    fn converted<'a>(
        &self,
        file: &'a TorchFile,
        prefix: &str,
        demand: &Demand,
        dtype: Option<Dtype>,
        parts: impl Fn(&str) -> Option<Vec<Part>>,
    ) -> Result<BTreeMap<String, Converted<'a>>> {
        let (fault, form) = (|message: String| Error::weights(&file.path, message), self.form.name());
        let mut tensors = BTreeMap::new();
        for (key, tensor) in &file.tensors {
            // A checkpoint of the whole training holds other models too.
            let Some(name) = key.strip_prefix(prefix) else { continue };
            let parts =
                parts(name).ok_or_else(|| fault(format!("tensor {key} is of no layer of a {form}")))?;
            for part in parts {
                if !inspection::is_weight(tensor.dtype) {
                    let found = tensor.dtype;
                    return Err(fault(format!(
                        "tensor {key} is stored as {found:?}, expected F32, F16, BF16 or F64"
                    )));
                }
                let found = Converted::new(file, tensor, &part, dtype).ok_or_else(|| {
                    let (shape, of) = (&tensor.shape, part.of);
                    fault(format!("tensor {key} has shape {shape:?}, expected rows that split into {of}"))
                })?;
                let expected = demand.get(&part.name).ok_or_else(|| {
                    fault(format!("tensor {key} would be {}, which a {form} does not have", part.name))
                })?;
                if *expected != found.shape {
                    return Err(fault(format!(
                        "tensor {key} gives {} the shape {:?}, expected {expected:?} for a {form}",
                        part.name, found.shape
                    )));
                }
                tensors.insert(part.name, found);
            }
        }
        match demand.keys().find(|name| !tensors.contains_key(*name)) {
            None => Ok(tensors),
            Some(name) => Err(fault(format!("no tensor in it gives {name}, which a {form} has"))),
        }
    }

    fn transformer_config(&self) -> Result<TransformerConfig> {
        let Some(path) = &self.transformer_config else {
            return Ok(published_transformer(self.form));
        };
        let config = TransformerConfig::load(path)?;
        let (found, expected) = (ModelForm::of(self.form.pipeline_class(), &config), self.form);
        if found != expected {
            let (found, expected) = (found.name(), expected.name());
            return Err(Error::config(
                path,
                format!("expected the configuration of a {expected}, found a {found}'s"),
            ));
        }
        Ok(config)
    }

    fn vae_config(&self) -> Result<VaeConfig> {
        if let Some(path) = &self.vae_config {
            return VaeConfig::load(path);
        }
        let mut config = VaeConfig::default();
        if self.form != ModelForm::Cogvideox2b {
            config.scaling_factor = 0.7;
        }
        config.invert_scale_latents = self.form.is_1_5();
        Ok(config)
    }
}

fn stored_dtype(dtype: DType) -> Result<Dtype> {
    match dtype {
        DType::F32 => Ok(Dtype::F32),
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::BF16),
        other => Err(Error::UnsupportedDtype(format!("expected f32, f16 or bf16, found {}", other.as_str()))),
    }
}

/// As diffusers' script writes it.
fn published_transformer(form: ModelForm) -> TransformerConfig {
    let small = TransformerConfig::default();
    if form == ModelForm::Cogvideox2b {
        return small;
    }
    let config = TransformerConfig {
        num_attention_heads: 48,
        num_layers: 42,
        in_channels: if form.takes_image() { 32 } else { 16 },
        use_rotary_positional_embeddings: true,
        use_learned_positional_embeddings: form == ModelForm::Cogvideox5bI2v,
        ..small
    };
    if !form.is_1_5() {
        return config;
    }
    TransformerConfig {
        patch_size_t: Some(2),
        patch_bias: false,
        sample_height: 300,
        sample_width: 300,
        sample_frames: 81,
        ofs_embed_dim: form.takes_image().then_some(512),
        ..config
    }
}

fn scheduler_config(form: ModelForm) -> Value {
    json!({
        "_class_name": "CogVideoXDDIMScheduler", "_diffusers_version": DIFFUSERS_VERSION,
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.000_85, "clip_sample": false,
        "clip_sample_range": 1.0, "num_train_timesteps": 1000, "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": true, "sample_max_value": 1.0, "set_alpha_to_one": true,
        "snr_shift_scale": if form == ModelForm::Cogvideox2b { 3.0 } else { 1.0 },
        "steps_offset": 0, "timestep_spacing": "trailing", "trained_betas": null,
    })
}

fn model_index(form: ModelForm) -> Value {
    let class = match form.pipeline_class() {
        PipelineClass::TextToVideo => "CogVideoXPipeline",
        PipelineClass::ImageToVideo => "CogVideoXImageToVideoPipeline",
    };
    json!({
        "_class_name": class, "_diffusers_version": DIFFUSERS_VERSION,
        "scheduler": ["diffusers", "CogVideoXDDIMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    })
}
