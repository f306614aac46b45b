//! One block of the transformer on a device: joint attention and feed-forward, with what stands between fused.
//!
//! The residual stream is updated in place; the norm that begins the next half is computed in the same pass as the
//! gated sum that ends this one. Adaptive norms come as rows of tables. Must not know timesteps.

use device::Tensor;
use device::ops::attention::{Attention, Heads};
use device::ops::linear::{Activation, Linear};
use device::ops::norm::{self, GatedAdd, Norm, ShiftScale, Streams};
use device::ops::qk_norm_rope::{self, QkNormRope};

use super::Precision;
use super::adapters::BlockAdapters;
use super::source::Scope;
use super::streaming::Layer;
use crate::Result;
use crate::transformer::TransformerConfig;

/// LayerNorm eps of queries and keys (diffusers passes `eps=1e-6` to `Attention`).
const QK_NORM_EPS: f32 = 1e-6;

/// Chunks of an adaptive norm's row, `[video, text]`: shift, scale, gate, `c_shift`, `c_scale`, `c_gate`
/// (`CogVideoXLayerNormZero`).
pub(super) const SHIFT: [usize; 2] = [0, 3];
pub(super) const SCALE: [usize; 2] = [1, 4];
const GATE: [usize; 2] = [2, 5];

/// Weight and bias of a LayerNorm; none where it has no parameters.
pub(super) struct NormWeights {
    affine: Option<[Tensor; 2]>,
    eps: f32,
}

impl NormWeights {
    pub(super) fn load(scope: &Scope<'_>, size: usize, eps: f32, affine: bool) -> Result<Self> {
        let affine = if affine {
            Some([scope.tensor("weight", &[size])?, scope.tensor("bias", &[size])?])
        } else {
            None
        };
        Ok(Self { affine, eps })
    }

    pub(super) fn norm(&self) -> Norm<'_> {
        let [weight, bias] = match &self.affine {
            Some([weight, bias]) => [Some(weight), Some(bias)],
            None => [None, None],
        };
        Norm { weight, bias, eps: self.eps }
    }

    fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.affine.iter_mut().flatten()
    }
}

/// A block's weights but those of its adaptive norms' linear layers.
pub(super) struct Block {
    norm1: NormWeights,
    to_qkv: Linear,
    norm_q: [Tensor; 2],
    norm_k: [Tensor; 2],
    to_out: Linear,
    norm2: NormWeights,
    ff_in: Linear,
    ff_out: Linear,
}

/// What a block is given besides the states.
pub(super) struct BlockInput<'a> {
    pub(super) heads: usize,
    /// Rows of both adaptive norms, `(1, 6 * inner)` each.
    pub(super) rows: [Tensor; 2],
    /// Cosines and sines of the video tokens.
    pub(super) rotary: Option<(&'a Tensor, &'a Tensor)>,
    pub(super) streams: Streams,
    /// What no score exceeds.
    pub(super) score_bound: f32,
    /// Rows of the feed-forward's hidden layer at a time.
    pub(super) ff_rows: usize,
    /// What is added beside the linear layers.
    pub(super) adapters: &'a BlockAdapters,
}

impl Block {
    pub(super) fn load(scope: &Scope<'_>, config: &TransformerConfig, precision: Precision) -> Result<Self> {
        let (dim, head_dim) = (config.inner_dim(), config.attention_head_dim);
        let (attn, ff) = (scope.pp("attn1"), scope.pp("ff").pp("net"));
        let [q, k, v] = ["to_q", "to_k", "to_v"]
            .map(|name| attn.pp(name).quantised_linear([dim, dim], config.attention_bias, precision));
        let norm = |name| {
            NormWeights::load(
                &scope.pp(name).pp("norm"),
                dim,
                config.norm_eps as f32,
                config.norm_elementwise_affine,
            )
        };
        let qk_norm = |name| -> Result<[Tensor; 2]> {
            let scope = attn.pp(name);
            Ok([scope.tensor("weight", &[head_dim])?, scope.tensor("bias", &[head_dim])?])
        };
        Ok(Self {
            norm1: norm("norm1")?,
            to_qkv: Linear::concat(&[&q?, &k?, &v?])?,
            norm_q: qk_norm("norm_q")?,
            norm_k: qk_norm("norm_k")?,
            to_out: attn.pp("to_out").pp(0).quantised_linear([dim, dim], true, precision)?,
            norm2: norm("norm2")?,
            ff_in: ff.pp(0).pp("proj").quantised_linear([dim, 4 * dim], true, precision)?,
            ff_out: ff.pp(2).quantised_linear([4 * dim, dim], true, precision)?,
        })
    }

    /// What no score of this block exceeds: queries and keys are normed.
    pub(super) fn score_bound(&self) -> Result<f32> {
        let values = |[weight, bias]: &[Tensor; 2]| -> Result<[Vec<f32>; 2]> {
            Ok([weight.to_f32_vec()?, bias.to_f32_vec()?])
        };
        let ([q_weight, q_bias], [k_weight, k_bias]) = (values(&self.norm_q)?, values(&self.norm_k)?);
        Ok(qk_norm_rope::score_bound((&q_weight, &q_bias), (&k_weight, &k_bias)))
    }

    /// Updates the states `x`, `(b, text + video, inner)`.
    pub(super) fn forward(&self, x: &Tensor, input: &BlockInput<'_>) -> Result<()> {
        let [first, second] = &input.rows;
        let streams = input.streams;
        let normed = norm::modulated(x, &self.norm1.norm(), &shift_scale(first), streams)?;
        let attended = self.attend(&normed, input)?;
        drop(normed);
        let sum = GatedAdd { x, y: &attended, table: first, gate: GATE };
        norm::gated_add_modulated_into(&sum, &self.norm2.norm(), &shift_scale(second), streams, &attended)?;
        // The normed states now stand where the attention's result did, and the feed-forward's follow them there.
        self.feed_forward(&attended, input)?;
        Ok(norm::gated_add_in_place(&GatedAdd { x, y: &attended, table: second, gate: GATE }, streams)?)
    }

    fn attend(&self, normed: &Tensor, input: &BlockInput<'_>) -> Result<Tensor> {
        let adapters = input.adapters;
        let qkv = self.to_qkv.adapted(normed, adapters.to_qkv.as_ref(), Activation::Identity)?;
        let [_, _, width] = qkv.dims_n("attention")?;
        let head_dim = width / 3 / input.heads;
        qk_norm_rope::in_place(
            &qkv,
            &QkNormRope {
                heads: input.heads,
                head_dim,
                norm_q: (&self.norm_q[0], &self.norm_q[1]),
                norm_k: (&self.norm_k[0], &self.norm_k[1]),
                eps: QK_NORM_EPS,
                rotary: input.rotary,
                text_len: input.streams.text_len,
            },
        )?;
        let [q, k, v] = Heads::of_qkv(&qkv)?;
        let attention = Attention {
            q,
            k,
            v,
            heads: input.heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            bias: None,
            score_bound: Some(input.score_bound),
        };
        let attended = attention.forward()?;
        drop(qkv);
        Ok(self.to_out.adapted(&attended, adapters.to_out.as_ref(), Activation::Identity)?)
    }

    /// In place and a few rows at a time: the hidden layer is four times as wide as everything else.
    fn feed_forward(&self, states: &Tensor, input: &BlockInput<'_>) -> Result<()> {
        let (ff_in, ff_out) = (input.adapters.ff_in.as_ref(), input.adapters.ff_out.as_ref());
        let [batch, tokens, inner] = states.dims_n("feed-forward")?;
        let rows = batch * tokens;
        let states = states.reshape(&[rows, inner])?;
        for first in (0..rows).step_by(input.ff_rows.max(1)) {
            let states = states.slice(first, input.ff_rows.min(rows - first))?;
            let hidden = self.ff_in.adapted(&states, ff_in, Activation::GeluTanh)?;
            self.ff_out.adapted_into(&hidden, ff_out, Activation::Identity, &states)?;
        }
        Ok(())
    }
}

fn shift_scale(row: &Tensor) -> ShiftScale<'_> {
    ShiftScale { table: row, shift: SHIFT, scale: SCALE }
}

impl Layer for Block {
    fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        let linears = [&mut self.to_qkv, &mut self.to_out, &mut self.ff_in, &mut self.ff_out];
        let norms = [&mut self.norm1, &mut self.norm2].into_iter().flat_map(NormWeights::tensors_mut);
        let qk_norms = self.norm_q.iter_mut().chain(&mut self.norm_k);
        linears.into_iter().flat_map(Linear::tensors_mut).chain(norms).chain(qk_norms).collect()
    }
}
