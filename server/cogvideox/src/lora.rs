//! Adapters by low rank (`LoRA`): small changes of the transformer's weights, from a file of their own.
//!
//! An adapter adds `scale * alpha / rank * up x down` to the weights of attention and feed-forward layers. Files of
//! diffusers and PEFT name their tensors below `transformer.`; exports of SAT have the same names without it. The
//! transformer's own weights stay as they are, so that adapters change from one video to the next without loading the
//! model again, and any number is active at once: a CPU merges what it needs into a copy of one layer at a time, a GPU
//! multiplies by the two factors beside the layer.
//! Relies on candle for storage; must not know where a folder of adapters is or who asked for one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::SafeTensors;
use serde_json::Value;

use crate::digest::sha256;
use crate::transformer::TransformerConfig;
use crate::{Error, Result};

/// How far a scale may lie from zero: beyond it every adapter gives noise.
pub const MAX_SCALE: f64 = 10.0;

/// Before the names of the transformer's tensors in a pipeline's adapter.
const PREFIX: &str = "transformer.";
/// Where diffusers keeps the adapter's PEFT configuration in a file's metadata.
const METADATA_KEY: &str = "lora_adapter_metadata";

/// One adapter as a run is asked to apply it.
#[derive(Clone, Debug)]
pub struct LoraChoice {
    /// What to apply.
    pub adapter: Arc<LoraAdapter>,
    /// How strongly; 1 is as the file says it was trained.
    pub scale: f64,
}

/// The layers of a block that adapters change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LoraTarget {
    ToQ,
    ToK,
    ToV,
    ToOut,
    FeedForwardIn,
    FeedForwardOut,
}

impl LoraTarget {
    fn named(name: &str) -> Option<Self> {
        match name {
            "attn1.to_q" => Some(Self::ToQ),
            "attn1.to_k" => Some(Self::ToK),
            "attn1.to_v" => Some(Self::ToV),
            "attn1.to_out.0" => Some(Self::ToOut),
            "ff.net.0.proj" => Some(Self::FeedForwardIn),
            "ff.net.2" => Some(Self::FeedForwardOut),
            _ => None,
        }
    }

    /// Features in and out.
    fn features(self, inner_dim: usize) -> [usize; 2] {
        match self {
            Self::FeedForwardIn => [inner_dim, 4 * inner_dim],
            Self::FeedForwardOut => [4 * inner_dim, inner_dim],
            _ => [inner_dim, inner_dim],
        }
    }
}

/// What is added to one layer's weight: `strength * up x down`.
#[derive(Debug)]
struct LowRank {
    /// As in the file.
    name: String,
    /// `(rank, in_features)` in `f32`.
    down: Tensor,
    /// `(out_features, rank)` in `f32`.
    up: Tensor,
    /// `alpha / rank`.
    strength: f64,
}

/// The tensors of one layer while a file is read.
#[derive(Default)]
struct Parts {
    down: Option<Tensor>,
    up: Option<Tensor>,
    alpha: Option<f64>,
}

/// An adapter's file in memory.
#[derive(Debug)]
pub struct LoraAdapter {
    path: PathBuf,
    digest: String,
    layers: BTreeMap<(usize, LoraTarget), LowRank>,
}

impl LoraAdapter {
    /// Reads a safetensors file of diffusers, PEFT or SAT. Where it states no alpha, a diffusers file acts with
    /// strength 1, as in diffusers (a file trained with an alpha below its rank is then too strong at scale 1), and a
    /// SAT export with 1 / rank, which is what SAT trains with.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Weights`] naming the tensor that is damaged, alone, or of a layer that adapters are
    /// not applied to.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
        let fault = |message: String| Error::weights(path, message);
        let whole = |e: &dyn std::fmt::Display| fault(format!("not a whole safetensors file: {e}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| whole(&e))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| whole(&e))?;
        let config = match header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA_KEY)) {
            Some(text) => AlphaConfig::parse(text).map_err(fault)?,
            None => AlphaConfig::default(),
        };
        let mut parts: BTreeMap<String, Parts> = BTreeMap::new();
        for (key, view) in tensors.tensors() {
            let (layer, part) = split_key(&key).ok_or_else(|| {
                fault(format!(
                    "tensor {key} is none of an adapter: expected .lora_A.weight, .lora_B.weight or .alpha"
                ))
            })?;
            let tensor = view.load(&Device::Cpu)?.to_dtype(DType::F32)?;
            let entry = parts.entry(layer.to_owned()).or_default();
            match part {
                Part::Down => entry.down = Some(tensor),
                Part::Up => entry.up = Some(tensor),
                Part::Alpha if tensor.elem_count() == 1 => {
                    entry.alpha = Some(f64::from(tensor.flatten_all()?.to_vec1::<f32>()?[0]));
                }
                Part::Alpha => {
                    return Err(fault(format!(
                        "tensor {key}: expected one value, found {:?}",
                        tensor.dims()
                    )));
                }
            }
        }
        if parts.is_empty() {
            return Err(fault("holds no tensor".to_owned()));
        }
        let mut layers = BTreeMap::new();
        for (name, parts) in parts {
            let place = place(&name).ok_or_else(|| fault(not_applied(&name)))?;
            let layer = LowRank::new(&name, parts, &config).map_err(fault)?;
            if let Some(other) = layers.insert(place, layer) {
                return Err(fault(format!("layer {name} stands twice, also as {}", other.name)));
            }
        }
        Ok(Self { path: path.to_owned(), digest: sha256(&bytes), layers })
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The SHA-256 of the file in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How many layers it changes.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The ranks of its layers, each once, the smallest first.
    pub fn ranks(&self) -> Vec<usize> {
        let ranks: BTreeSet<usize> = self.layers.values().map(|layer| layer.down.dims()[0]).collect();
        ranks.into_iter().collect()
    }

    /// # Errors
    /// [`Error::Weights`] naming the first layer that a transformer of `config` does not have, or has otherwise.
    pub fn check(&self, config: &TransformerConfig) -> Result<()> {
        for (&(block, target), layer) in &self.layers {
            if block >= config.num_layers {
                let blocks = config.num_layers;
                return Err(Error::weights(
                    &self.path,
                    format!("layer {}: the model has {blocks} blocks, 0 to {}", layer.name, blocks - 1),
                ));
            }
            let expected = target.features(config.inner_dim());
            let found = [layer.down.dim(1)?, layer.up.dim(0)?];
            if found != expected {
                return Err(Error::weights(
                    &self.path,
                    format!(
                        "layer {}: made for {} features in and {} out, the model has {} and {}",
                        layer.name, found[0], found[1], expected[0], expected[1]
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl LowRank {
    fn new(name: &str, parts: Parts, config: &AlphaConfig) -> std::result::Result<Self, String> {
        let Parts { down: Some(down), up: Some(up), alpha } = parts else {
            return Err(format!("layer {name}: expected both lora_A and lora_B, found one of them"));
        };
        let (&[rank, _], &[_, up_rank]) = (down.dims(), up.dims()) else {
            let (a, b) = (down.dims(), up.dims());
            return Err(format!("layer {name}: expected matrices, found lora_A {a:?} and lora_B {b:?}"));
        };
        if rank != up_rank || rank == 0 {
            return Err(format!("layer {name}: lora_A has rank {rank}, lora_B {up_rank}"));
        }
        let sat_export = !name.starts_with(PREFIX);
        let default = if sat_export { 1.0 } else { rank as f64 };
        let alpha = alpha.or_else(|| config.alpha(name)).unwrap_or(default);
        if !alpha.is_finite() {
            return Err(format!("layer {name}: alpha is {alpha}"));
        }
        let divisor = if config.rank_stabilized { (rank as f64).sqrt() } else { rank as f64 };
        Ok(Self { name: name.to_owned(), down, up, strength: alpha / divisor })
    }
}

/// The PEFT configuration in a file's metadata, as far as it decides the strength.
#[derive(Default)]
struct AlphaConfig {
    lora_alpha: Option<f64>,
    /// By the end of a layer's name.
    alpha_pattern: BTreeMap<String, f64>,
    /// `alpha / sqrt(rank)` instead of `alpha / rank`.
    rank_stabilized: bool,
}

impl AlphaConfig {
    fn parse(text: &str) -> std::result::Result<Self, String> {
        let json: Value = serde_json::from_str(text).map_err(|e| format!("{METADATA_KEY}: not JSON: {e}"))?;
        let get = |key: &str| json.get(format!("{PREFIX}{key}")).filter(|value| !value.is_null());
        if get("use_dora").and_then(Value::as_bool) == Some(true) {
            return Err(format!("{METADATA_KEY}: expected plain LoRA, found DoRA"));
        }
        let number = |key: &str, value: &Value| {
            value.as_f64().ok_or_else(|| format!("{METADATA_KEY}: {key}: expected a number, found {value}"))
        };
        let lora_alpha = get("lora_alpha").map(|value| number("lora_alpha", value)).transpose()?;
        let pattern = get("alpha_pattern").and_then(Value::as_object).into_iter().flatten();
        let alpha_pattern = pattern
            .map(|(key, value)| Ok((key.clone(), number(key, value)?)))
            .collect::<std::result::Result<_, String>>()?;
        let rank_stabilized = get("use_rslora").and_then(Value::as_bool) == Some(true);
        Ok(Self { lora_alpha, alpha_pattern, rank_stabilized })
    }

    fn alpha(&self, name: &str) -> Option<f64> {
        let of_layer = self.alpha_pattern.iter().find(|(end, _)| {
            name.strip_suffix(end.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        });
        of_layer.map(|(_, alpha)| *alpha).or(self.lora_alpha)
    }
}

#[derive(Clone, Copy)]
enum Part {
    Down,
    Up,
    Alpha,
}

/// A tensor's layer and what of it the tensor is, in PEFT's names and in diffusers' older ones.
fn split_key(key: &str) -> Option<(&str, Part)> {
    let ends = [
        (".lora_A.weight", Part::Down),
        (".lora_B.weight", Part::Up),
        (".lora_A.default.weight", Part::Down),
        (".lora_B.default.weight", Part::Up),
        (".lora.down.weight", Part::Down),
        (".lora.up.weight", Part::Up),
        (".alpha", Part::Alpha),
    ];
    ends.into_iter().find_map(|(end, part)| Some((key.strip_suffix(end)?, part)))
}

/// Block and layer of a name such as `transformer.transformer_blocks.3.attn1.to_q`.
fn place(name: &str) -> Option<(usize, LoraTarget)> {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    let (block, target) = name.strip_prefix("transformer_blocks.")?.split_once('.')?;
    Some((block.parse().ok()?, LoraTarget::named(target)?))
}

fn not_applied(name: &str) -> String {
    format!(
        "layer {name} is not one that adapters are applied to: expected transformer_blocks.N with attn1.to_q, \
         attn1.to_k, attn1.to_v, attn1.to_out.0, ff.net.0.proj or ff.net.2"
    )
}

/// Of every adapter, whether it fits a transformer and its scale is sound.
///
/// # Errors
/// [`Error::InvalidParams`] for a scale, otherwise those of [`LoraAdapter::check`].
pub(crate) fn check(choices: &[LoraChoice], config: &TransformerConfig) -> Result<()> {
    for LoraChoice { adapter, scale } in choices {
        // Also refuses NaN, which lies in no range.
        if !(-MAX_SCALE..=MAX_SCALE).contains(scale) {
            return Err(Error::invalid(
                "lora",
                format!("expected a scale of -{MAX_SCALE} to {MAX_SCALE}, found {scale}"),
            ));
        }
        adapter.check(config)?;
    }
    Ok(())
}

/// The sum of what `choices` add to a layer's weight, `(out_features, in_features)` in `f32`; none if nothing.
pub(crate) fn delta(choices: &[LoraChoice], block: usize, target: LoraTarget) -> Result<Option<Tensor>> {
    let mut sum: Option<Tensor> = None;
    for LoraChoice { adapter, scale } in choices {
        let Some(layer) = adapter.layers.get(&(block, target)) else { continue };
        let delta = (layer.up.matmul(&layer.down)? * (scale * layer.strength))?;
        sum = Some(match sum {
            Some(sum) => (sum + delta)?,
            None => delta,
        });
    }
    Ok(sum)
}

/// What adapters add to layers that stand side by side, as one product `up x down` with the strengths in `up`.
pub(crate) struct Factors {
    /// The sum of all ranks.
    pub(crate) rank: usize,
    /// `(rank, in_features)`.
    pub(crate) down: Vec<f32>,
    /// `(out_features of all layers, rank)`.
    pub(crate) up: Vec<f32>,
}

/// The factors of all that `choices` add to the layers `targets` of a block, which have one input and outputs of one
/// size; none if nothing.
pub(crate) fn factors(
    choices: &[LoraChoice],
    block: usize,
    targets: &[LoraTarget],
) -> Result<Option<Factors>> {
    let (mut downs, mut ups) = (Vec::new(), Vec::new());
    for (index, &target) in targets.iter().enumerate() {
        for LoraChoice { adapter, scale } in choices {
            let Some(layer) = adapter.layers.get(&(block, target)) else { continue };
            let (outputs, after) = (layer.up.dim(0)?, targets.len() - 1 - index);
            let up = (&layer.up * (scale * layer.strength))?;
            downs.push(layer.down.clone());
            // Zeros for the other layers' outputs.
            ups.push(up.pad_with_zeros(0, index * outputs, after * outputs)?);
        }
    }
    if downs.is_empty() {
        return Ok(None);
    }
    let (down, up) = (Tensor::cat(&downs, 0)?, Tensor::cat(&ups, 1)?);
    let values = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
    Ok(Some(Factors { rank: down.dim(0)?, down: values(&down)?, up: values(&up)? }))
}
