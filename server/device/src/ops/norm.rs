//! LayerNorm, its modulation by the timestep, and the gated residual before it.
//!
//! One block a row. Each step that PyTorch rounds to the tensor's dtype is rounded; the variance is that of the
//! deviations from the mean, as on a CPU. Knows rows and streams, not blocks of a transformer.

use super::rows::{Expected, items, rows, vectors, whole_warps};
use crate::launch::{FloatKernels, Global, Launch, float_kernels, kernel_args};
use crate::{Error, Result, Tensor};

const NORM_ROWS: FloatKernels = float_kernels!("norm_rows");
const MAX_THREADS: usize = 512;
/// Groups of eight elements that a thread keeps in registers.
const GROUPS_PER_THREAD: usize = 2;
/// One total for each warp.
const SCRATCH_BYTES: usize = 32 * 4;

kernel_args! {
    struct NormArgs {
        x: Global,
        y: Global,
        out: Global,
        weight: Global,
        bias: Global,
        gates: Global,
        modulation: Global,
        gate: [u32; 2],
        shift: [u32; 2],
        scale: [u32; 2],
        size: u32,
        tokens: u32,
        text_len: u32,
        vectors: u32,
        eps: f32,
    }
}

/// A LayerNorm's parameters, in the dtype of what is normalised; without weight and bias they are one and zero.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// `[d]`
    pub weight: Option<&'a Tensor>,
    /// `[d]`
    pub bias: Option<&'a Tensor>,
    /// Added to the variance.
    pub eps: f32,
}

/// The two streams of a joint sequence: first the text tokens, then the video tokens.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// Of a sequence, text included.
    pub tokens: usize,
    /// Tokens of text at its head.
    pub text_len: usize,
}

/// Which chunks of `d` elements in a table shift and scale, each `[video, text]`.
#[derive(Clone, Copy, Debug)]
pub struct ShiftScale<'a> {
    /// `chunks * d` elements, the output of an adaptive norm's linear layer for one timestep.
    pub table: &'a Tensor,
    /// Added.
    pub shift: [usize; 2],
    /// Multiplied, plus one.
    pub scale: [usize; 2],
}

/// `x <- x + gate * y` on rows of `d`.
#[derive(Clone, Copy, Debug)]
pub struct GatedAdd<'a> {
    /// `[.., d]`, overwritten by the sum.
    pub x: &'a Tensor,
    /// As `x`.
    pub y: &'a Tensor,
    /// `chunks * d` elements.
    pub table: &'a Tensor,
    /// The chunk that is the gate, `[video, text]`.
    pub gate: [usize; 2],
}

/// The parts of one launch; what is absent is not done.
struct Job<'a> {
    op: &'static str,
    x: &'a Tensor,
    sum: Option<&'a GatedAdd<'a>>,
    norm: Option<(&'a Norm<'a>, &'a Tensor)>,
    modulation: Option<&'a ShiftScale<'a>>,
    streams: Streams,
}

/// `x [.., d]` normalised over `d`.
///
/// # Errors
/// [`Error::Shape`] if dtypes, sizes or devices differ; [`Error::OutOfMemory`].
pub fn layer_norm(x: &Tensor, norm: &Norm<'_>) -> Result<Tensor> {
    let out = Tensor::empty(x.device(), x.dims(), x.dtype())?;
    let streams = Streams { tokens: 1, text_len: 0 };
    Job { op: "layer_norm", x, sum: None, norm: Some((norm, &out)), modulation: None, streams }.run()?;
    Ok(out)
}

/// `norm(x) * (1 + scale) + shift` on rows `[.., d]`, a whole number of sequences, where `shift` and `scale` are chosen
/// by the row's stream.
///
/// # Errors
/// [`Error::Shape`] if dtypes, sizes or devices differ; [`Error::OutOfMemory`].
pub fn modulated(
    x: &Tensor,
    norm: &Norm<'_>,
    modulation: &ShiftScale<'_>,
    streams: Streams,
) -> Result<Tensor> {
    let out = Tensor::empty(x.device(), x.dims(), x.dtype())?;
    let modulation = Some(modulation);
    Job { op: "modulated", x, sum: None, norm: Some((norm, &out)), modulation, streams }.run()?;
    Ok(out)
}

/// The gated sum into `sum.x` alone.
///
/// # Errors
/// [`Error::Shape`] if dtypes, sizes or devices differ.
pub fn gated_add_in_place(sum: &GatedAdd<'_>, streams: Streams) -> Result<()> {
    let op = "gated_add_in_place";
    Job { op, x: sum.x, sum: Some(sum), norm: None, modulation: None, streams }.run()
}

/// The gated sum into `sum.x` and, in the same pass, [`modulated`] of it into `out`, which may be `sum.y`.
///
/// # Errors
/// [`Error::Shape`] if dtypes, sizes or devices differ.
pub fn gated_add_modulated_into(
    sum: &GatedAdd<'_>,
    norm: &Norm<'_>,
    modulation: &ShiftScale<'_>,
    streams: Streams,
    out: &Tensor,
) -> Result<()> {
    let (op, norm, modulation) = ("gated_add_modulated_into", Some((norm, out)), Some(modulation));
    Job { op, x: sum.x, sum: Some(sum), norm, modulation, streams }.run()
}

impl Job<'_> {
    fn run(&self) -> Result<()> {
        let (count, size) = self.check()?;
        let tensors = self.tensors();
        let groups = GROUPS_PER_THREAD * MAX_THREADS;
        let vectors = vectors(size, &tensors) && items(size, true) <= groups;
        let threads = if vectors { items(size, true).div_ceil(GROUPS_PER_THREAD) } else { size };
        let launch =
            Launch::new(NORM_ROWS.of(self.op, self.x.dtype())?, count, whole_warps(threads, MAX_THREADS));
        self.x.device().launch(&launch.shared(SCRATCH_BYTES), &self.args(size, vectors))
    }

    /// Every tensor but `x` is compared with it; the number of rows and their size.
    fn check(&self) -> Result<(usize, usize)> {
        let (count, size) = rows(self.op, self.x)?;
        let like_x = Expected::like(self.op, self.x);
        if let Some(sum) = self.sum {
            like_x.check("y", sum.y, self.x.dims())?;
            self.check_chunks("gates", sum.table, size, &sum.gate)?;
        }
        if let Some((norm, out)) = self.norm {
            like_x.check("out", out, self.x.dims())?;
            like_x.check_some("weight", norm.weight, &[size])?;
            like_x.check_some("bias", norm.bias, &[size])?;
        }
        if let Some(m) = self.modulation {
            self.check_chunks("shift", m.table, size, &m.shift)?;
            self.check_chunks("scale", m.table, size, &m.scale)?;
        }
        let Streams { tokens, text_len } = self.streams;
        if tokens == 0 || !count.is_multiple_of(tokens) || text_len > tokens {
            let message =
                format!("{count} rows are not sequences of {tokens} tokens, {text_len} of them text");
            return Err(Error::shape(self.op, message));
        }
        Ok((count, size))
    }

    fn check_chunks(&self, name: &str, table: &Tensor, size: usize, chunks: &[usize; 2]) -> Result<()> {
        let message = if table.dtype() != self.x.dtype() {
            format!("{name}: expected {}, found {}", self.x.dtype(), table.dtype())
        } else if let Some(chunk) = chunks.iter().find(|chunk| (*chunk + 1) * size > table.len()) {
            format!("{name}: chunk {chunk} of {size} is beyond a table of {}", table.len())
        } else {
            return self.x.device().expect_same(self.op, table.device());
        };
        Err(Error::shape(self.op, message))
    }

    fn tensors(&self) -> Vec<&Tensor> {
        let sum = self.sum.iter().flat_map(|sum| [sum.y, sum.table]);
        let norm = self.norm.iter().flat_map(|(norm, out)| [Some(*out), norm.weight, norm.bias]).flatten();
        let modulation = self.modulation.iter().map(|m| m.table);
        [self.x].into_iter().chain(sum).chain(norm).chain(modulation).collect()
    }

    fn args(&self, size: usize, vectors: bool) -> NormArgs {
        let global = |tensor: Option<&Tensor>| tensor.map_or(Global::ABSENT, Tensor::global);
        let first = |chunks: [usize; 2]| chunks.map(|chunk| (chunk * size) as u32);
        let (norm, out) = self.norm.unzip();
        NormArgs {
            x: self.x.global(),
            y: global(self.sum.map(|sum| sum.y)),
            out: global(out),
            weight: global(norm.and_then(|norm| norm.weight)),
            bias: global(norm.and_then(|norm| norm.bias)),
            gates: global(self.sum.map(|sum| sum.table)),
            modulation: global(self.modulation.map(|m| m.table)),
            gate: first(self.sum.map_or([0; 2], |sum| sum.gate)),
            shift: first(self.modulation.map_or([0; 2], |m| m.shift)),
            scale: first(self.modulation.map_or([0; 2], |m| m.scale)),
            size: size as u32,
            tokens: self.streams.tokens as u32,
            text_len: self.streams.text_len as u32,
            vectors: u32::from(vectors),
            eps: norm.map_or(0.0, |norm| norm.eps),
        }
    }
}
