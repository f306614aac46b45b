//! `CogVideoXBlock`: joint attention and feed-forward, both behind adaptive norms.
//!
//! Text and video tokens are one sequence throughout; they share every weight and differ in the modulation only.
//! Relies on [`crate::ops`]; must not know embeddings or patches.

use std::borrow::Cow;

use candle_core::Tensor;

use super::config::TransformerConfig;
use crate::Result;
use crate::lora::{self, LoraChoice, LoraTarget};
use crate::ops::attention::{Attention, RotaryTables};
use crate::ops::linear::{Activation, Linear};
use crate::ops::norm::{LayerNorm, Modulation, ShiftScale, Streams, gated_add};
use crate::weights::WeightScope;

/// LayerNorm eps of queries and keys (diffusers passes `eps=1e-6` to `Attention`).
const QK_NORM_EPS: f64 = 1e-6;

/// `CogVideoXLayerNormZero`: a norm with shift, scale and gate for each stream from the timestep.
struct AdaptiveNorm {
    linear: Linear,
    norm: LayerNorm,
}

/// Chunks of the linear layer's output, `[video, text]`: shift, scale, gate, `c_shift`, `c_scale`, `c_gate`.
const SHIFT: [usize; 2] = [0, 3];
const SCALE: [usize; 2] = [1, 4];
const GATE: [usize; 2] = [2, 5];

impl AdaptiveNorm {
    fn load(scope: &WeightScope<'_>, config: &TransformerConfig) -> Result<Self> {
        let dim = config.inner_dim();
        Ok(Self {
            linear: Linear::load(&scope.pp("linear"), config.time_embed_dim, 6 * dim, true)?,
            norm: LayerNorm::load(&scope.pp("norm"), dim, config.norm_eps, config.norm_elementwise_affine)?,
        })
    }

    /// The normed and modulated states, and the modulation for the gate.
    fn forward(&self, x: &Tensor, silu_emb: &Tensor, streams: Streams) -> Result<(Tensor, Modulation)> {
        let values = Modulation::new(&self.linear.forward(silu_emb)?, 6)?;
        let shift_scale = ShiftScale { values: &values, shift: SHIFT, scale: SCALE };
        let normed = self.norm.modulated(x, streams, shift_scale)?;
        Ok((normed, values))
    }
}

/// What every block of a forward is given besides the states.
pub(super) struct BlockInput<'a> {
    /// SiLU of the timestep's embedding, `(1, time_embed_dim)`.
    pub(super) silu_emb: &'a Tensor,
    pub(super) rotary: Option<&'a RotaryTables>,
    pub(super) streams: Streams,
    pub(super) lora: &'a [LoraChoice],
}

/// A layer of block `index` with the run's adapters, or as it is where none changes it.
fn adapted<'a>(
    linear: &'a Linear,
    index: usize,
    targets: &[LoraTarget],
    lora: &[LoraChoice],
) -> Result<Cow<'a, Linear>> {
    let deltas = targets.iter().map(|&target| lora::delta(lora, index, target));
    let deltas = deltas.collect::<Result<Vec<_>>>()?;
    if deltas.iter().all(Option::is_none) {
        return Ok(Cow::Borrowed(linear));
    }
    Ok(Cow::Owned(linear.merged(&deltas)?))
}

pub(super) struct Block {
    norm1: AdaptiveNorm,
    to_qkv: Linear,
    norm_q: LayerNorm,
    norm_k: LayerNorm,
    to_out: Linear,
    norm2: AdaptiveNorm,
    ff_in: Linear,
    ff_out: Linear,
    heads: usize,
}

impl Block {
    pub(super) fn load(scope: &WeightScope<'_>, config: &TransformerConfig) -> Result<Self> {
        let (dim, head_dim) = (config.inner_dim(), config.attention_head_dim);
        let (attn, ff) = (scope.pp("attn1"), scope.pp("ff").pp("net"));
        let qkv = ["to_q", "to_k", "to_v"]
            .map(|name| Linear::load(&attn.pp(name), dim, dim, config.attention_bias));
        let [q, k, v] = qkv;
        Ok(Self {
            norm1: AdaptiveNorm::load(&scope.pp("norm1"), config)?,
            to_qkv: Linear::concat(&[q?, k?, v?])?,
            norm_q: LayerNorm::load(&attn.pp("norm_q"), head_dim, QK_NORM_EPS, true)?,
            norm_k: LayerNorm::load(&attn.pp("norm_k"), head_dim, QK_NORM_EPS, true)?,
            to_out: Linear::load(&attn.pp("to_out").pp(0), dim, dim, true)?,
            norm2: AdaptiveNorm::load(&scope.pp("norm2"), config)?,
            ff_in: Linear::load(&ff.pp(0).pp("proj"), dim, 4 * dim, true)?,
            ff_out: Linear::load(&ff.pp(2), 4 * dim, dim, true)?,
            heads: config.num_attention_heads,
        })
    }

    /// `(b, text + video, inner)` to the same; `index` is the block's own, for its adapters.
    pub(super) fn forward(&self, index: usize, x: &Tensor, input: &BlockInput<'_>) -> Result<Tensor> {
        let adapted = |linear, targets: &[LoraTarget]| adapted(linear, index, targets, input.lora);
        let to_qkv = adapted(&self.to_qkv, &[LoraTarget::ToQ, LoraTarget::ToK, LoraTarget::ToV])?;
        let (normed, modulation) = self.norm1.forward(x, input.silu_emb, input.streams)?;
        let attention = Attention {
            heads: self.heads,
            norm_q: &self.norm_q,
            norm_k: &self.norm_k,
            rotary: input.rotary,
            streams: input.streams,
        };
        let attended = attention.forward(&to_qkv.forward(&normed)?)?;
        let attended = adapted(&self.to_out, &[LoraTarget::ToOut])?.forward(&attended)?;
        let x = gated_add(x, &attended, input.streams, &modulation, GATE)?;

        let (normed, modulation) = self.norm2.forward(&x, input.silu_emb, input.streams)?;
        let ff_in = adapted(&self.ff_in, &[LoraTarget::FeedForwardIn])?;
        let hidden = ff_in.forward_with(&normed, Activation::GeluTanh)?;
        let ff_out = adapted(&self.ff_out, &[LoraTarget::FeedForwardOut])?;
        Ok(gated_add(&x, &ff_out.forward(&hidden)?, input.streams, &modulation, GATE)?)
    }
}
