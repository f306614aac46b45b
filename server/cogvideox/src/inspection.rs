//! What is in a model's folder, and all that is wrong with it at once.
//!
//! Loading stops at the first fault; this goes on and lists every file and tensor that is missing or not as the
//! configuration asks for. Only headers are read. What a component must hold is what loading it asks for
//! ([`crate::gpu`]'s models, built where nothing is computed). Must not know how it is shown.

use std::collections::BTreeMap;
use std::path::Path;

use crate::gpu::demand::{self, Demand};
use crate::gpu::{Configs, MemoryPlan, Precision, Residence};
use crate::params::{ModelDefaults, ModelForm};
use crate::pipeline_config::PipelineIndex;
use crate::scheduler::Scheduler;
use crate::text_encoder::read_t5_config;
use crate::tokenizer::Tokenizer;
use crate::transformer::TransformerConfig;
use crate::vae::VaeConfig;
use crate::weights::{
    DIFFUSERS_STEM, EightBitDtype, Listing, StoredTensor, TRANSFORMERS_STEM, list, scale_name, weight_name,
};
use crate::{Error, Result};

/// A component's weights.
#[derive(Clone, Debug)]
pub struct Component {
    /// The folder's name.
    pub name: &'static str,
    /// Safetensors files that could be read.
    pub files: usize,
    /// Of those files.
    pub bytes: u64,
    /// Tensors in them.
    pub tensors: usize,
    /// Their elements.
    pub parameters: u64,
    /// Bytes of tensors by the dtype that they are stored in, as safetensors names it.
    pub bytes_of_dtype: BTreeMap<String, u64>,
    /// What weights are stored in, if some are in 8 bits.
    pub eight_bit: Option<EightBitDtype>,
}

/// What a mode of computing takes of a GPU's memory.
#[derive(Clone, Debug)]
pub struct MemoryMode {
    /// Of the blocks' weights; [`Precision::Dense`] is the form's own 16 bits.
    pub precision: Precision,
    /// The plan in a word: resident, tiled or streamed.
    pub name: &'static str,
    /// The plan.
    pub plan: MemoryPlan,
    /// Bytes of tensors at most, of the model's own video.
    pub peak_bytes: usize,
}

/// A folder in diffusers' layout, as far as it could be read.
#[derive(Debug)]
pub struct Inspection {
    /// None if the configurations do not tell.
    pub form: Option<ModelForm>,
    /// Those whose folder holds weights.
    pub components: Vec<Component>,
    /// By precision and plan; none where a configuration cannot be read.
    pub memory: Vec<MemoryMode>,
    /// Why the folder cannot be served; empty if it can.
    pub faults: Vec<Error>,
}

/// Looks at a model's folder, and goes on after what is wrong.
pub fn inspect(dir: &Path) -> Inspection {
    let mut found = Inspection { form: None, components: Vec::new(), memory: Vec::new(), faults: Vec::new() };
    let index = found.note(PipelineIndex::read(dir));
    found.note(Tokenizer::load(&dir.join("tokenizer")));
    found.note(Scheduler::load(&dir.join("scheduler")));
    let text_encoder = found.note(read_t5_config(&dir.join("text_encoder/config.json")));
    let transformer = found.note(TransformerConfig::load(&dir.join("transformer/config.json")));
    let vae = found.note(VaeConfig::load(&dir.join("vae/config.json")));

    let demand = text_encoder.as_ref().and_then(|config| found.note(demand::text_encoder(config)));
    found.component(dir, "text_encoder", TRANSFORMERS_STEM, demand);
    let demand = transformer.as_ref().and_then(|config| found.note(demand::transformer(config)));
    found.component(dir, "transformer", DIFFUSERS_STEM, demand);
    let demand = vae.as_ref().and_then(|config| found.note(demand::vae(config)));
    found.component(dir, "vae", DIFFUSERS_STEM, demand);

    if let (Some(index), Some(config)) = (index, &transformer) {
        found.form = Some(ModelForm::of(index.class, config));
    }
    if let (Some(form), Some(text_encoder), Some(transformer), Some(vae)) =
        (found.form, text_encoder, transformer, vae)
    {
        let configs = Configs { text_encoder, transformer, vae };
        let stored = found.components.iter().find_map(|component| component.eight_bit);
        let modes = memory_modes(&configs, form, stored);
        found.memory = found.note(modes).unwrap_or_default();
    }
    found
}

/// Everything on the device; the VAE in tiles and the text encoder streamed; everything streamed and split.
fn plans() -> [(&'static str, MemoryPlan); 3] {
    let tiled = MemoryPlan {
        text_encoder: Residence::Streamed,
        ff_rows: 8192,
        vae_tiling: true,
        ..MemoryPlan::RESIDENT
    };
    let streamed =
        MemoryPlan { transformer: Residence::Streamed, sequential_guidance: true, ff_rows: 4096, ..tiled };
    [("resident", MemoryPlan::RESIDENT), ("tiled", tiled), ("streamed", streamed)]
}

fn memory_modes(
    configs: &Configs,
    form: ModelForm,
    stored: Option<EightBitDtype>,
) -> Result<Vec<MemoryMode>> {
    let (defaults, dtype) = (ModelDefaults::of(form, &configs.transformer), form.half_dtype());
    let mut modes = Vec::new();
    let precisions = match stored {
        None => &[Precision::Dense, Precision::Int8, Precision::Fp8][..],
        Some(EightBitDtype::Int8) => &[Precision::Dense, Precision::Int8],
        Some(EightBitDtype::Fp8) => &[Precision::Dense, Precision::Fp8],
    };
    for &precision in precisions {
        let peaks = demand::peaks(configs, &defaults, dtype, precision, &plans().map(|(_, plan)| plan))?;
        modes.extend(plans().into_iter().zip(peaks).map(|((name, plan), peak_bytes)| MemoryMode {
            precision,
            name,
            plan,
            peak_bytes,
        }));
    }
    Ok(modes)
}

impl Inspection {
    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.faults.push(error)).ok()
    }

    fn component(&mut self, dir: &Path, name: &'static str, stem: &str, demand: Option<Demand>) {
        let mut listing = list(&dir.join(name), stem);
        self.faults.append(&mut listing.faults);
        if let Some(path) = &listing.path {
            if let Some(demand) = demand {
                self.faults.extend(differences(&listing, path, &demand));
            }
            self.components.push(Component::of(name, &listing));
        }
    }
}

impl Component {
    fn of(name: &'static str, listing: &Listing) -> Self {
        let mut bytes_of_dtype = BTreeMap::new();
        let mut parameters = 0;
        for tensor in listing.tensors.values() {
            *bytes_of_dtype.entry(format!("{:?}", tensor.dtype)).or_insert(0) += tensor.bytes as u64;
            parameters += tensor.shape.iter().product::<usize>() as u64;
        }
        let eight_bit = listing.tensors.values().find_map(|tensor| EightBitDtype::of_stored(tensor.dtype));
        let (files, bytes, tensors) = (listing.files, listing.bytes, listing.tensors.len());
        Self { name, files, bytes, tensors, parameters, bytes_of_dtype, eight_bit }
    }
}

/// Tensors that are known and not needed: T5's table under its second name, and the fixed sincos table that diffusers
/// once stored.
const OPTIONAL: [&str; 2] = [EMBED_TOKENS, "patch_embed.pos_embedding"];
const EMBED_TOKENS: &str = "encoder.embed_tokens.weight";
const SHARED: &str = "shared.weight";

/// Looks at one component's files alone.
///
/// # Errors
/// The first difference to `demand`.
pub(crate) fn check(dir: &Path, stem: &str, demand: &Demand) -> Result<()> {
    let mut listing = list(dir, stem);
    let mut faults = std::mem::take(&mut listing.faults);
    if let Some(path) = &listing.path {
        faults.extend(differences(&listing, path, demand));
    }
    faults.into_iter().next().map_or(Ok(()), Err)
}

/// How what is stored differs from what the model asks for.
fn differences(listing: &Listing, path: &Path, demand: &Demand) -> Vec<Error> {
    let mut faults = Vec::new();
    for (name, expected) in demand {
        let alias = || (name == SHARED).then(|| listing.tensors.get(EMBED_TOKENS)).flatten();
        match listing.tensors.get(name).or_else(alias) {
            None => faults.push(Error::MissingTensor {
                path: path.to_owned(),
                name: name.clone(),
                expected: expected.clone(),
            }),
            Some(tensor) if tensor.shape != *expected => faults.push(Error::TensorShape {
                path: tensor.path.clone(),
                name: name.clone(),
                expected: expected.clone(),
                found: tensor.shape.clone(),
            }),
            Some(tensor) if is_weight(tensor.dtype) => {}
            Some(tensor) if EightBitDtype::of_stored(tensor.dtype).is_some() => {
                faults.extend(scales_fault(listing, name, tensor));
            }
            Some(tensor) => {
                let message = format!(
                    "tensor {name} is stored as {:?}, expected F32, F16, BF16, F64, or I8 or F8_E4M3 with scales",
                    tensor.dtype
                );
                faults.push(Error::weights(&tensor.path, message));
            }
        }
    }
    let eight_bit = |weight: &str| {
        let stored = listing.tensors.get(weight).map(|tensor| tensor.dtype);
        demand.contains_key(weight) && stored.and_then(EightBitDtype::of_stored).is_some()
    };
    let belongs = |name: &str| {
        demand.contains_key(name) || OPTIONAL.contains(&name) || weight_name(name).is_some_and(eight_bit)
    };
    faults.extend(listing.tensors.iter().filter(|(name, _)| !belongs(name)).map(|(name, tensor)| {
        Error::weights(&tensor.path, format!("tensor {name} belongs to no layer of this model"))
    }));
    faults
}

/// What is wrong with the scales of a weight that is stored in 8 bits.
fn scales_fault(listing: &Listing, weight: &str, stored: &StoredTensor) -> Option<Error> {
    let (name, expected) = (scale_name(weight), stored.shape.iter().take(1).copied().collect::<Vec<_>>());
    let Some(scales) = listing.tensors.get(&name) else {
        return Some(Error::MissingTensor { path: stored.path.clone(), name, expected });
    };
    if scales.shape != expected {
        let (path, found) = (scales.path.clone(), scales.shape.clone());
        return Some(Error::TensorShape { path, name, expected, found });
    }
    (scales.dtype != safetensors::Dtype::F32).then(|| {
        let message = format!("tensor {name} is stored as {:?}, expected F32", scales.dtype);
        Error::weights(&scales.path, message)
    })
}

/// Whether loading takes it as it is.
pub(crate) fn is_weight(dtype: safetensors::Dtype) -> bool {
    use safetensors::Dtype::{BF16, F16, F32, F64};
    matches!(dtype, F32 | F16 | BF16 | F64)
}
