//! `T5EncoderModel`, as diffusers' CogVideoX pipelines run it.
//!
//! No attention mask: padding is encoded and attended to like any token, in all positions. In `f16` the last
//! projection of each feed-forward stays in `f32` (transformers' `_keep_in_fp32_modules`), which makes the residual
//! stream `f32` from there on; run plainly in `f16`, T5-XXL overflows. Relies on `ops`; must not know the
//! tokenizer or what the embeddings are for.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::t5::Config as T5Config;
use half::f16;
use serde_json::{Map, Value, json};

use crate::ops::linear::Linear;
use crate::ops::t5::{PositionBias, RmsNorm, attention, gated_gelu};
use crate::ops::{from_f32, with_f32};
use crate::pipeline_config::read_config;
use crate::weights::{TRANSFORMERS_STEM, WeightScope, Weights};
use crate::{Error, Result};

/// Far above any T5's, so that products of sizes cannot overflow.
const MAX_SIZE: usize = 1 << 24;

/// Reads `text_encoder/config.json`; keys that it lacks take the defaults of transformers' `T5Config`, which candle's
/// own reader does not know.
pub(crate) fn read_t5_config(path: &Path) -> Result<T5Config> {
    let file = read_config::<Map<String, Value>>(path, &["T5EncoderModel"])?.config;
    let texts = [
        ("model_type", "t5"),
        ("feed_forward_proj", "gated-gelu"),
        // transformers derives the activation from `feed_forward_proj`, but a file that states it wins.
        ("dense_act_fn", "gelu_new"),
    ];
    for (key, expected) in texts {
        let found = match file.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::String(found)) => found.clone(),
            Some(other) => other.to_string(),
        };
        if found != expected {
            return Err(Error::config(path, format!("{key}: expected {expected}, found {found}")));
        }
    }
    if let Some(Value::Bool(false)) = file.get("is_gated_act") {
        return Err(Error::config(path, "is_gated_act: expected true, found false"));
    }
    let Value::Object(mut object) = json!({
        "vocab_size": 32_128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "dropout_rate": 0.1,
        "layer_norm_epsilon": 1e-6, "initializer_factor": 1.0, "feed_forward_proj": "relu",
        "is_encoder_decoder": true, "pad_token_id": 0, "eos_token_id": 1,
    }) else {
        unreachable!("an object literal");
    };
    object.extend(file);
    let config: T5Config = serde_path_to_error::deserialize(Value::Object(object)).map_err(|e| {
        let (key, problem) = (e.path().to_string(), e.into_inner());
        Error::config(path, format!("{key}: {problem}"))
    })?;
    check_t5_config(&config).map_err(|message| Error::config(path, message))?;
    Ok(config)
}

fn check_t5_config(config: &T5Config) -> std::result::Result<(), String> {
    if !config.feed_forward_proj.gated {
        return Err("feed_forward_proj: expected gated-gelu, found relu, transformers' default".to_owned());
    }
    let numbers = [
        ("vocab_size", config.vocab_size, 1),
        ("d_model", config.d_model, 1),
        ("d_kv", config.d_kv, 1),
        ("d_ff", config.d_ff, 1),
        ("num_heads", config.num_heads, 1),
        // Half of them for each direction, and half of those for exact distances.
        ("relative_attention_num_buckets", config.relative_attention_num_buckets, 4),
        (
            "relative_attention_max_distance",
            config.relative_attention_max_distance,
            config.relative_attention_num_buckets / 4 + 1,
        ),
    ];
    match numbers.into_iter().find(|(_, found, least)| !(*least..=MAX_SIZE).contains(found)) {
        Some((key, found, least)) => Err(format!("{key}: expected {least} to {MAX_SIZE}, found {found}")),
        None => Ok(()),
    }
}

/// A small one over the published vocabulary, for the demo model.
pub(crate) fn tiny_t5_config(d_model: usize) -> T5Config {
    T5Config {
        d_model,
        d_kv: d_model / 4,
        d_ff: 2 * d_model,
        num_heads: 4,
        num_layers: 2,
        ..T5Config::default()
    }
}

/// `T5Attention._relative_position_bucket` of a bidirectional encoder; `distance` is key minus query.
fn bucket(config: &T5Config, distance: isize) -> usize {
    let buckets = config.relative_attention_num_buckets / 2;
    let exact = buckets / 2;
    let first = if distance > 0 { buckets } else { 0 };
    let distance = distance.unsigned_abs();
    if distance < exact {
        return first + distance;
    }
    // In f32 and in this order: at powers of two the quotient is a hair from an integer.
    let ln_range = (config.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
    let octaves = (distance as f32 / exact as f32).ln() / ln_range;
    let large = exact + (octaves * (buckets - exact) as f32) as usize;
    first + large.min(buckets - 1)
}

/// What is added to the scores, `[heads][2 * tokens - 1]`: by key minus query, from `1 - tokens` on. `table` is
/// `[buckets][heads]`.
pub(crate) fn position_bias(config: &T5Config, table: &[Vec<f32>], tokens: usize) -> Vec<f32> {
    let reach = tokens as isize - 1;
    (0..config.num_heads)
        .flat_map(|head| (-reach..=reach).map(move |distance| table[bucket(config, distance)][head]))
        .collect()
}

/// The text encoder of a pipeline.
pub struct T5EncoderModel {
    config: T5Config,
    /// `(vocab_size, d_model)`
    embed_tokens: Tensor,
    /// `(relative_attention_num_buckets, num_heads)`, block 0's, which all blocks use.
    relative_attention_bias: Vec<Vec<f32>>,
    blocks: Vec<Block>,
    final_layer_norm: RmsNorm,
    dtype: DType,
}

impl T5EncoderModel {
    /// Reads a `text_encoder/` folder.
    ///
    /// # Errors
    /// [`Error::Config`] for a `config.json` of another architecture; the weight errors of [`Error`] for files that
    /// do not fit it.
    pub fn load(dir: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let config = read_t5_config(&dir.join("config.json"))?;
        let weights = Weights::open(dir, TRANSFORMERS_STEM)?;
        let model = Self::from_weights(config, &weights.root(dtype, device))?;
        weights.finish()?;
        Ok(model)
    }

    pub(crate) fn from_weights(config: T5Config, root: &WeightScope<'_>) -> Result<Self> {
        let encoder = root.pp("encoder");
        let table = [config.vocab_size, config.d_model];
        // One tensor under two names; transformers usually stores the first.
        let embed_tokens = if !root.contains("shared.weight") && encoder.contains("embed_tokens.weight") {
            encoder.tensor("embed_tokens.weight", &table)?
        } else {
            encoder.ignore("embed_tokens.weight");
            root.tensor("shared.weight", &table)?
        };
        let bias = encoder.pp("block.0.layer.0.SelfAttention.relative_attention_bias");
        let bias = bias.tensor("weight", &[config.relative_attention_num_buckets, config.num_heads])?;
        let blocks = (0..config.num_layers)
            .map(|i| Block::load(&encoder.pp("block").pp(i).pp("layer"), &config))
            .collect::<Result<_>>()?;
        let final_layer_norm =
            RmsNorm::load(&encoder.pp("final_layer_norm"), config.d_model, config.layer_norm_epsilon)?;
        let relative_attention_bias = bias.to_dtype(DType::F32)?.to_vec2()?;
        Ok(Self {
            config,
            embed_tokens,
            relative_attention_bias,
            blocks,
            final_layer_norm,
            dtype: root.dtype(),
        })
    }

    /// The width of an embedding.
    pub fn d_model(&self) -> usize {
        self.config.d_model
    }

    /// The dtype that the model runs and answers in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Embeds one padded prompt: `(1, ids, d_model)`.
    ///
    /// `check` is called before each block; its error ends the forward and is passed on.
    ///
    /// # Errors
    /// [`Error::Candle`] for an id beyond the vocabulary.
    pub fn forward(&self, ids: &[u32], check: &mut dyn FnMut() -> Result<()>) -> Result<Tensor> {
        let index = Tensor::new(ids, self.embed_tokens.device())?;
        let mut hidden = self.embed_tokens.index_select(&index, 0)?.unsqueeze(0)?;
        let by_distance = position_bias(&self.config, &self.relative_attention_bias, ids.len());
        let bias = PositionBias { by_distance, tokens: ids.len() };
        for block in &self.blocks {
            check()?;
            hidden = block.forward(&hidden, &bias)?;
        }
        Ok(self.final_layer_norm.forward(&hidden)?)
    }
}

/// `T5Block` of an encoder: self-attention, then the gated feed-forward.
struct Block {
    heads: usize,
    attention_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    ff_norm: RmsNorm,
    wi_0: Linear,
    wi_1: Linear,
    wo: Linear,
}

impl Block {
    fn load(layers: &WeightScope<'_>, config: &T5Config) -> Result<Self> {
        let (d_model, d_ff, inner) = (config.d_model, config.d_ff, config.num_heads * config.d_kv);
        let (attention, ff) = (layers.pp("0"), layers.pp("1"));
        let projection = attention.pp("SelfAttention");
        let dense = ff.pp("DenseReluDense");
        let wo = dense.pp("wo");
        let wo = if wo.dtype() == DType::F16 { wo.with_dtype(DType::F32) } else { wo };
        Ok(Self {
            heads: config.num_heads,
            attention_norm: RmsNorm::load(&attention.pp("layer_norm"), d_model, config.layer_norm_epsilon)?,
            q: Linear::load(&projection.pp("q"), d_model, inner, false)?,
            k: Linear::load(&projection.pp("k"), d_model, inner, false)?,
            v: Linear::load(&projection.pp("v"), d_model, inner, false)?,
            o: Linear::load(&projection.pp("o"), inner, d_model, false)?,
            ff_norm: RmsNorm::load(&ff.pp("layer_norm"), d_model, config.layer_norm_epsilon)?,
            wi_0: Linear::load(&dense.pp("wi_0"), d_model, d_ff, false)?,
            wi_1: Linear::load(&dense.pp("wi_1"), d_model, d_ff, false)?,
            wo: Linear::load(&wo, d_ff, d_model, false)?,
        })
    }

    /// `(b, s, d_model)`; in `f16` the result is `f32`.
    fn forward(&self, hidden: &Tensor, bias: &PositionBias) -> Result<Tensor> {
        let normed = self.attention_norm.forward(hidden)?;
        let (q, k, v) = (self.q.forward(&normed)?, self.k.forward(&normed)?, self.v.forward(&normed)?);
        let attended = self.o.forward(&attention(&q, &k, &v, self.heads, bias)?)?;
        let hidden = clamp_f16(&promoting_add(hidden, &attended)?)?;
        let normed = self.ff_norm.forward(&hidden)?;
        let forwarded =
            self.wo.forward(&gated_gelu(&self.wi_0.forward(&normed)?, &self.wi_1.forward(&normed)?)?)?;
        promoting_add(&hidden, &forwarded)
    }
}

/// A sum in PyTorch's promotion: `f16` plus `f32` is `f32`.
fn promoting_add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() == b.dtype() {
        return Ok((a + b)?);
    }
    Ok((a.to_dtype(DType::F32)? + b.to_dtype(DType::F32)?)?)
}

/// transformers' guard against overflow, which looks at a stream only while it is `f16`.
fn clamp_f16(hidden: &Tensor) -> Result<Tensor> {
    if hidden.dtype() != DType::F16 {
        return Ok(hidden.clone());
    }
    let bound = f16::from_f32(f16::MAX.to_f32() - 1000.0).to_f32();
    let clamped = with_f32(hidden, |values| {
        let overflowed = values.iter().any(|x| x.is_infinite());
        Ok(overflowed.then(|| values.iter().map(|x| x.clamp(-bound, bound)).collect::<Vec<f32>>()))
    })?;
    match clamped {
        Some(values) => Ok(from_f32(values, hidden.dims(), DType::F16)?),
        None => Ok(hidden.clone()),
    }
}
