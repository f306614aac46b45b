//! `T5EncoderModel` on a device.
//!
//! The same function as [`crate::text_encoder`], from the same files. Its layers may be streamed: a prompt passes
//! through each once, and between prompts they take nothing on the device. In f16 the residual stream is f32 from the first feed-forward on, as in transformers. Must not
//! know the tokenizer.

use candle_core::{DType, Tensor as HostTensor};
use candle_transformers::models::t5::Config as T5Config;
use device::ops::attention::{Attention, Heads};
use device::ops::linear::{Activation, Linear};
use device::ops::{elementwise, t5};
use device::{Device, Dtype, Tensor};

use super::embedding::Embedding;
use super::source::{Scope, Source, dtype_of};
use super::streaming::{Layer, Layers, Residence};
use super::transfer::to_host;
use crate::Result;
use crate::pipeline::TextEncoder;
use crate::text_encoder::position_bias;

/// Weights of an RMS norm.
struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    fn load(scope: &Scope<'_>, config: &T5Config) -> Result<Self> {
        let weight = scope.tensor("weight", &[config.d_model])?;
        Ok(Self { weight, eps: config.layer_norm_epsilon as f32 })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(t5::rms_norm(x, &self.weight, self.eps)?)
    }
}

/// The text encoder.
pub(crate) struct GpuTextEncoder {
    config: T5Config,
    device: Device,
    embed_tokens: Embedding,
    /// `[buckets][heads]`, block 0's, which all blocks use.
    relative_attention_bias: Vec<Vec<f32>>,
    blocks: Layers<Block>,
    final_layer_norm: RmsNorm,
}

impl GpuTextEncoder {
    /// # Errors
    /// Those of the weights, and of the device's memory.
    pub(crate) fn load(
        config: T5Config,
        source: &Source,
        dtype: DType,
        device: &Device,
        residence: Residence,
    ) -> Result<Self> {
        let root = source.root(dtype, device);
        let encoder = root.pp("encoder");
        let table = [config.vocab_size, config.d_model];
        let embed_tokens = if !root.contains("shared.weight") && encoder.contains("embed_tokens.weight") {
            encoder.tensor("embed_tokens.weight", &table)?
        } else {
            encoder.ignore("embed_tokens.weight");
            root.tensor("shared.weight", &table)?
        };
        let embed_tokens = Embedding::new(embed_tokens, residence)?;
        let bias = encoder.pp("block.0.layer.0.SelfAttention.relative_attention_bias");
        let bias = bias.tensor("weight", &[config.relative_attention_num_buckets, config.num_heads])?;
        let bias = bias.to_f32_vec()?.chunks_exact(config.num_heads).map(<[f32]>::to_vec).collect();
        let load_block = |i| Block::load(&encoder.pp("block").pp(i).pp("layer"), &config);
        let model = Self {
            blocks: Layers::load(device, residence, config.num_layers, load_block)?,
            final_layer_norm: RmsNorm::load(&encoder.pp("final_layer_norm"), &config)?,
            relative_attention_bias: bias,
            embed_tokens,
            device: device.clone(),
            config,
        };
        source.finish()?;
        Ok(model)
    }
}

impl TextEncoder for GpuTextEncoder {
    fn d_model(&self) -> usize {
        self.config.d_model
    }

    fn forward(&self, ids: &[u32], check: &mut dyn FnMut() -> Result<()>) -> Result<HostTensor> {
        let tokens = ids.len();
        let bias = position_bias(&self.config, &self.relative_attention_bias, tokens);
        let bias = Tensor::from_slice(&self.device, &[self.config.num_heads, 2 * tokens - 1], &bias)?;
        let mut hidden = self.embed_tokens.rows(ids)?.reshape(&[1, tokens, self.config.d_model])?;
        self.blocks.for_each_once(|_, block| {
            check()?;
            hidden = block.forward(&hidden, &bias)?;
            Ok(())
        })?;
        to_host(&self.final_layer_norm.forward(&hidden)?)
    }
}

/// `T5Block` of an encoder: self-attention, then the gated feed-forward.
struct Block {
    heads: usize,
    attention_norm: RmsNorm,
    qkv: Linear,
    o: Linear,
    ff_norm: RmsNorm,
    wi_0: Linear,
    wi_1: Linear,
    wo: Linear,
    /// In f16 the last projection stays in f32 (transformers' `_keep_in_fp32_modules`).
    wo_dtype: Dtype,
}

impl Block {
    fn load(layers: &Scope<'_>, config: &T5Config) -> Result<Self> {
        let (d_model, d_ff, inner) = (config.d_model, config.d_ff, config.num_heads * config.d_kv);
        let (attention, ff) = (layers.pp("0"), layers.pp("1"));
        let projection = attention.pp("SelfAttention");
        let dense = ff.pp("DenseReluDense");
        let wo = dense.pp("wo");
        let wo = if wo.dtype() == DType::F16 { wo.with_dtype(DType::F32) } else { wo };
        let wo_dtype = dtype_of(wo.dtype())?;
        let [q, k, v] = ["q", "k", "v"].map(|name| projection.pp(name).linear(d_model, inner, false));
        Ok(Self {
            heads: config.num_heads,
            attention_norm: RmsNorm::load(&attention.pp("layer_norm"), config)?,
            qkv: Linear::concat(&[&q?, &k?, &v?])?,
            o: projection.pp("o").linear(inner, d_model, false)?,
            ff_norm: RmsNorm::load(&ff.pp("layer_norm"), config)?,
            wi_0: dense.pp("wi_0").linear(d_model, d_ff, false)?,
            wi_1: dense.pp("wi_1").linear(d_model, d_ff, false)?,
            wo: wo.linear(d_ff, d_model, false)?,
            wo_dtype,
        })
    }

    /// `(1, s, d_model)`; in f16 the result is f32.
    fn forward(&self, hidden: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.attention_norm.forward(hidden)?, Activation::Identity)?;
        let [_, _, width] = qkv.dims_n("attention")?;
        let [q, k, v] = Heads::of_qkv(&qkv)?;
        // T5 does not scale its scores.
        let attention = Attention {
            q,
            k,
            v,
            heads: self.heads,
            head_dim: width / 3 / self.heads,
            scale: 1.0,
            bias: Some(bias),
            score_bound: None,
        };
        let attended = self.o.forward(&attention.forward()?, Activation::Identity)?;
        let hidden = elementwise::promoting_add(hidden, &attended)?;
        t5::clamp_f16_in_place(&hidden)?;
        let normed = self.ff_norm.forward(&hidden)?;
        let gate = self.wi_0.forward(&normed, Activation::Identity)?;
        let gated = t5::gated_gelu(&gate, &self.wi_1.forward(&normed, Activation::Identity)?)?;
        let gated = elementwise::cast(&gated, self.wo_dtype)?;
        Ok(elementwise::promoting_add(&hidden, &self.wo.forward(&gated, Activation::Identity)?)?)
    }
}

impl Layer for Block {
    fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        let linears = [&mut self.qkv, &mut self.o, &mut self.wi_0, &mut self.wi_1, &mut self.wo];
        let norms = [&mut self.attention_norm.weight, &mut self.ff_norm.weight];
        linears.into_iter().flat_map(Linear::tensors_mut).chain(norms).collect()
    }
}
