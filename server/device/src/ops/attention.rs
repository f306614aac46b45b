//! Attention over all keys, without a mask, on strided heads: of separate tensors or of a fused `qkv`.
//!
//! NVIDIA's library attends where `ops::library` says so. Of the own kernels, f16 and bf16 with a `head_dim` of 64 run
//! on tensor cores, everything else plainly. Rounding is PyTorch's: weights
//! are rounded relative to their row's maximum while their sum is not; with a bias (T5) scores, biased scores and
//! normalised weights are rounded. Must not know where queries and keys come from.

use std::f32::consts::LOG2_E;

use super::library;
use crate::launch::{FloatKernels, Global, Launch, float_kernels, kernel_args};
use crate::{Dtype, Error, Result, Tensor};

const OP: &str = "attention";
const PLAIN: FloatKernels = float_kernels!("attention_plain");
/// Threads of every kernel here.
const THREADS: u32 = 128;
const PLAIN_QUERIES: usize = 16;
const PLAIN_KEYS: usize = 32;
const PLAIN_MAX_HEAD_DIM: usize = 256;
/// Those of the models that there are; NVIDIA's library takes more.
const LIBRARY_HEAD_DIMS: [usize; 2] = [64, 128];
const TENSOR_CORE_HEAD_DIM: usize = 64;
const TENSOR_CORE_QUERIES: usize = 128;
/// One tile of queries and two of 64 keys and 64 values each.
const TENSOR_CORE_ROWS: usize = TENSOR_CORE_QUERIES + 4 * 64;
/// What the tensor core's kernel copies at once.
const COPY_BYTES: usize = 16;

kernel_args! {
    struct HeadsArgs {
        data: Global,
        first: u64,
        row: u64,
    }
    struct AttentionArgs {
        q: HeadsArgs,
        k: HeadsArgs,
        v: HeadsArgs,
        out: Global,
        bias: Global,
        seq_q: u32,
        seq_kv: u32,
        head_dim: u32,
        scale: f32,
        offset: f32,
    }
}

/// The heads of q, k or v within the rows of `tensor`, `(b, s, width)`.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// Where they lie.
    pub tensor: &'a Tensor,
    /// The element of a row at which head 0 begins; the others follow.
    pub first: usize,
}

impl<'a> Heads<'a> {
    /// q, k and v of a fused tensor `(b, s, 3 * inner)`.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of dimensions, or a width that is no multiple of 3.
    pub fn of_qkv(qkv: &'a Tensor) -> Result<[Self; 3]> {
        let [_, _, width] = qkv.dims_n(OP)?;
        if !width.is_multiple_of(3) {
            return Err(Error::shape(OP, format!("expected q, k and v of one size, found {width} elements")));
        }
        Ok([0, 1, 2].map(|part| Self { tensor: qkv, first: part * width / 3 }))
    }

    fn args(&self) -> HeadsArgs {
        let row = self.tensor.dims().last().copied().unwrap_or(0);
        HeadsArgs { data: self.tensor.global(), first: self.first as u64, row: row as u64 }
    }

    /// Of head 0 of the first row.
    #[cfg(feature = "cuda")]
    pub(super) fn address(&self) -> u64 {
        self.tensor.address() + (self.first * self.tensor.dtype().bytes()) as u64
    }

    /// Whether every head of every row begins on a boundary of [`COPY_BYTES`].
    fn is_aligned(&self) -> bool {
        let HeadsArgs { data, first, row } = self.args();
        let elements = (COPY_BYTES / self.tensor.dtype().bytes()) as u64;
        data.address.is_multiple_of(COPY_BYTES as u64)
            && first.is_multiple_of(elements)
            && row.is_multiple_of(elements)
    }
}

/// `softmax(scale * q k^T + bias) v` for each head.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Queries.
    pub q: Heads<'a>,
    /// Keys.
    pub k: Heads<'a>,
    /// Values, as many as keys.
    pub v: Heads<'a>,
    /// Of each of the three.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// f32 `(heads, 2 * s - 1)`, added to the scores by the distance from query to key: from the key furthest before
    /// the query to the one furthest after it. There are then as many queries as keys.
    pub bias: Option<&'a Tensor>,
    /// What no `|scale * q k|` exceeds, if that is known, as by [`super::qk_norm_rope::score_bound`]. If it is tight
    /// enough for the dtype, no maximum is sought. A bound that does not hold makes results infinite.
    pub score_bound: Option<f32>,
}

/// The sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    seq_q: usize,
    seq_kv: usize,
}

impl Attention<'_> {
    /// `(b, seq_q, heads * head_dim)` in the queries' dtype.
    ///
    /// # Errors
    /// [`Error::Shape`] for tensors that do not fit together, a `head_dim` above 256, or no keys;
    /// [`Error::OutOfMemory`].
    pub fn forward(&self) -> Result<Tensor> {
        let sizes = self.sizes()?;
        let tensor = self.q.tensor;
        let plain = PLAIN.of(OP, tensor.dtype())?;
        let dims = [sizes.batch, sizes.seq_q, self.heads * self.head_dim];
        let out = Tensor::empty(tensor.device(), &dims, tensor.dtype())?;
        if library::attend(self, &out)? {
            return Ok(out);
        }
        let (kernel, queries, shared_bytes, offset) = match self.tensor_core_kernel() {
            Some((kernel, offset)) => {
                let shared_bytes = TENSOR_CORE_ROWS * TENSOR_CORE_HEAD_DIM * tensor.dtype().bytes();
                (kernel, TENSOR_CORE_QUERIES, shared_bytes, offset)
            }
            None => (plain, PLAIN_QUERIES, plain_shared_bytes(self.head_dim), 0.0),
        };
        let args = AttentionArgs {
            q: self.q.args(),
            k: self.k.args(),
            v: self.v.args(),
            out: out.global(),
            bias: self.bias.map_or(Global::ABSENT, Tensor::global),
            seq_q: sizes.seq_q as u32,
            seq_kv: sizes.seq_kv as u32,
            head_dim: self.head_dim as u32,
            scale: self.scale,
            offset,
        };
        // Neighbouring blocks are of one head, whose keys and values they then find in the cache.
        let grid = [sizes.seq_q.div_ceil(queries) as u32, self.heads as u32, sizes.batch as u32];
        let launch = Launch { grid, ..Launch::new(kernel, 0, THREADS) }.shared(shared_bytes);
        tensor.device().launch(&launch, &args)?;
        Ok(out)
    }

    fn sizes(&self) -> Result<Sizes> {
        let [batch, seq_q, _] = self.q.tensor.dims_n(OP)?;
        let [_, seq_kv, _] = self.k.tensor.dims_n(OP)?;
        let dtype = self.q.tensor.dtype();
        for (name, part, seq) in [("q", self.q, seq_q), ("k", self.k, seq_kv), ("v", self.v, seq_kv)] {
            let [found_batch, found_seq, width] = part.tensor.dims_n(OP)?;
            let fits = (found_batch, found_seq, part.tensor.dtype()) == (batch, seq, dtype);
            if !fits || part.first + self.heads * self.head_dim > width {
                let expected =
                    format!("{dtype} ({batch}, {seq}, {}) from {}", self.heads * self.head_dim, part.first);
                let found = format!("{} {:?}", part.tensor.dtype(), part.tensor.dims());
                return Err(Error::shape(OP, format!("{name}: expected {expected}, found {found}")));
            }
            self.q.tensor.device().expect_same(OP, part.tensor.device())?;
        }
        if !(1..=PLAIN_MAX_HEAD_DIM).contains(&self.head_dim) || seq_kv == 0 {
            let message =
                format!("expected a head_dim of 1 to 256 and keys, found {} and {seq_kv}", self.head_dim);
            return Err(Error::shape(OP, message));
        }
        if let Some(bias) = self.bias {
            let expected = [self.heads, (2 * seq_q).saturating_sub(1)];
            if bias.dims() != expected || bias.dtype() != Dtype::F32 || seq_q != seq_kv {
                let found = format!("{} {:?} for {seq_kv} keys", bias.dtype(), bias.dims());
                return Err(Error::shape(OP, format!("bias: expected f32 {expected:?}, found {found}")));
            }
            self.q.tensor.device().expect_same(OP, bias.device())?;
        }
        Ok(Sizes { batch, seq_q, seq_kv })
    }

    /// Whether it is of a kind that NVIDIA's library attends to.
    pub(super) fn suits_library(&self) -> bool {
        let half = matches!(self.q.tensor.dtype(), Dtype::F16 | Dtype::Bf16);
        let keys = self.k.tensor.dims().get(1).copied().unwrap_or(0);
        // PyTorch keeps sequences of one key from cuDNN (`sdp_utils.cpp`, check_cudnn_tensor_shapes).
        half && keys > 1
            && self.bias.is_none()
            && LIBRARY_HEAD_DIMS.contains(&self.head_dim)
            && [self.q, self.k, self.v].iter().all(Heads::is_aligned)
    }

    /// What NVIDIA's library is asked for this call; none if it is not asked.
    ///
    /// # Errors
    /// As of [`Self::forward`].
    #[cfg(feature = "cuda")]
    pub fn graph(&self) -> Result<Option<crate::cudnn::SdpaGraph>> {
        let Sizes { batch, seq_q, seq_kv } = self.sizes()?;
        if !self.suits_library() {
            return Ok(None);
        }
        let Self { heads, head_dim, scale, .. } = *self;
        let strides = |part: Heads<'_>, seq: usize| {
            let row = part.tensor.dims().last().copied().unwrap_or(0);
            [seq * row, head_dim, row, 1]
        };
        Ok(Some(crate::cudnn::SdpaGraph {
            batch,
            heads,
            seq_q,
            seq_kv,
            head_dim,
            dtype: self.q.tensor.dtype(),
            scale,
            q_strides: strides(self.q, seq_q),
            k_strides: strides(self.k, seq_kv),
            v_strides: strides(self.v, seq_kv),
            o_strides: crate::cudnn::bshd_strides(seq_q, heads, head_dim),
        }))
    }

    /// The kernel on tensor cores that can take this, and its offset.
    fn tensor_core_kernel(&self) -> Option<(&'static str, f32)> {
        // A maximum of products is one of scores only if the scale is positive.
        let fits = self.head_dim == TENSOR_CORE_HEAD_DIM && self.bias.is_none() && self.scale > 0.0;
        if !fits || ![self.q, self.k, self.v].iter().all(Heads::is_aligned) {
            return None;
        }
        let dtype = self.q.tensor.dtype();
        let offset = self.score_bound.and_then(|bound| fixed_offset(dtype, bound * LOG2_E));
        match (dtype, offset) {
            (Dtype::F16, None) => Some(("attention_f16", 0.0)),
            (Dtype::Bf16, None) => Some(("attention_bf16", 0.0)),
            (Dtype::F16, Some(offset)) => Some(("attention_bounded_f16", offset)),
            (Dtype::Bf16, Some(offset)) => Some(("attention_bounded_bf16", offset)),
            _ => None,
        }
    }
}

/// What to subtract from scores instead of their maximum, both in units of log2, when none exceeds `bound`; none if
/// weights could then lose what they keep relative to their maximum.
///
/// f16: weights of scores at the bound become 2^15, half of what f16 holds, so that the rounding of scores and of the
/// bound cannot make one infinite. A row's largest weight is that of a score of at least `-bound`, and has to be at
/// least 1, as it is with the online softmax, whose weights f16 cuts off at 2^-24: so `2 * bound` may be 15.
///
/// bf16 has the exponents of f32: weights stand around 1, and up to 2^50 either way neither they nor sums of them,
/// over any number of keys and times any value a model has, come near the ends of f32 at 2^-126 and 2^128.
fn fixed_offset(dtype: Dtype, bound: f32) -> Option<f32> {
    match dtype {
        Dtype::F16 => (2.0 * bound <= 15.0).then_some(bound - 15.0),
        _ => (bound <= 50.0).then_some(0.0),
    }
}

/// Queries, keys in rows of an odd length, and values, in f32.
fn plain_shared_bytes(head_dim: usize) -> usize {
    let weights = PLAIN_QUERIES * PLAIN_KEYS;
    size_of::<f32>()
        * (PLAIN_QUERIES * head_dim + PLAIN_KEYS * (head_dim | 1) + PLAIN_KEYS * head_dim + weights)
}
