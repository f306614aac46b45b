//! Latents as patches, patches and text as one sequence, and back. Knows the order of elements, not what they mean.

use super::rows::{Expected, RowGrid, vectors};
use crate::launch::{FloatKernels, Global, Launch, float_kernels, kernel_args};
use crate::{Error, Result, Tensor};

const PATCHES: FloatKernels = float_kernels!("patches");
const JOIN_TOKENS: FloatKernels = float_kernels!("join_tokens");
const VIDEO_PART: FloatKernels = float_kernels!("video_part");
const THREADS: u32 = 256;

kernel_args! {
    struct PatchArgs {
        video: Global,
        tokens: Global,
        frames: u32,
        rows: u32,
        columns: u32,
        channels: u32,
        patch_frames: u32,
        patch: u32,
        to_video: u32,
    }

    struct JoinArgs {
        text: Global,
        video: Global,
        out: Global,
        positions: Global,
        tokens: u32,
        text_len: u32,
        size: u32,
        blocks_per_row: u32,
        vectors: u32,
    }

    struct VideoPartArgs {
        x: Global,
        out: Global,
        tokens: u32,
        text_len: u32,
        size: u32,
        blocks_per_row: u32,
        vectors: u32,
    }
}

/// The size of a patch, in latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Along time.
    pub frames: usize,
    /// Along height and width.
    pub size: usize,
}

/// Patches of a video along each axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchGrid {
    /// Along time.
    pub frames: usize,
    /// Along height.
    pub rows: usize,
    /// Along width.
    pub columns: usize,
}

impl PatchGrid {
    fn tokens(self) -> usize {
        self.frames * self.rows * self.columns
    }
}

/// `(b, f, c, h, w)` to `(b, tokens, c * patch.frames * patch.size^2)`, the channel slowest within a patch.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not divide into patches; [`Error::OutOfMemory`].
pub fn patchify(video: &Tensor, patch: Patch) -> Result<Tensor> {
    let [b, f, c, h, w] = video.dims_n("patchify")?;
    let divides = |size: usize, patch: usize| patch > 0 && size.is_multiple_of(patch);
    if !(divides(f, patch.frames) && divides(h, patch.size) && divides(w, patch.size)) {
        let message = format!("{f} x {h} x {w} latents do not divide into {patch:?}");
        return Err(Error::shape("patchify", message));
    }
    let grid = PatchGrid { frames: f / patch.frames, rows: h / patch.size, columns: w / patch.size };
    let values = c * patch.frames * patch.size * patch.size;
    let tokens = Tensor::empty(video.device(), &[b, grid.tokens(), values], video.dtype())?;
    let kernel = PATCHES.of("patchify", video.dtype())?;
    rearrange(kernel, video, &tokens, grid, patch, false)?;
    Ok(tokens)
}

/// The inverse of [`patchify`]: `(b, tokens, c * patch.frames * patch.size^2)` to `(b, f, c, h, w)`.
///
/// # Errors
/// [`Error::Shape`] for another number of tokens than `grid`'s, or values that are not whole channels;
/// [`Error::OutOfMemory`].
pub fn unpatchify(tokens: &Tensor, grid: PatchGrid, patch: Patch) -> Result<Tensor> {
    let [b, count, values] = tokens.dims_n("unpatchify")?;
    let channel = patch.frames * patch.size * patch.size;
    if count != grid.tokens() || channel == 0 || !values.is_multiple_of(channel) {
        let message = format!("{:?} are not channels of {patch:?} in {grid:?}", tokens.dims());
        return Err(Error::shape("unpatchify", message));
    }
    let (h, w) = (grid.rows * patch.size, grid.columns * patch.size);
    let dims = [b, grid.frames * patch.frames, values / channel, h, w];
    let video = Tensor::empty(tokens.device(), &dims, tokens.dtype())?;
    let kernel = PATCHES.of("unpatchify", tokens.dtype())?;
    rearrange(kernel, &video, tokens, grid, patch, true)?;
    Ok(video)
}

fn rearrange(
    kernel: &'static str,
    video: &Tensor,
    tokens: &Tensor,
    grid: PatchGrid,
    patch: Patch,
    to_video: bool,
) -> Result<()> {
    let args = PatchArgs {
        video: video.global(),
        tokens: tokens.global(),
        frames: grid.frames as u32,
        rows: grid.rows as u32,
        columns: grid.columns as u32,
        channels: video.dims()[2] as u32,
        patch_frames: patch.frames as u32,
        patch: patch.size as u32,
        to_video: u32::from(to_video),
    };
    video.device().launch(&Launch::over(kernel, tokens.len(), THREADS), &args)
}

/// Text `[b, t, d]` and video `[b, v, d]` as one sequence `[b, t + v, d]`, plus `positions` `[t + v, d]` where there are
/// any (or `[1, t + v, d]`).
///
/// # Errors
/// [`Error::Shape`] if dtypes, sizes or devices differ; [`Error::OutOfMemory`].
pub fn join(text: &Tensor, video: &Tensor, positions: Option<&Tensor>) -> Result<Tensor> {
    let op = "join";
    let ([b, text_len, size], [_, video_len, _]) = (text.dims_n(op)?, video.dims_n(op)?);
    let like_text = Expected::like(op, text);
    like_text.check("video", video, &[b, video_len, size])?;
    let tokens = text_len + video_len;
    let leading = positions.is_some_and(|positions| positions.dims().len() == 3);
    let dims = [1, tokens, size];
    like_text.check_some("positions", positions, if leading { &dims } else { &dims[1..] })?;
    let out = Tensor::empty(text.device(), &[b, tokens, size], text.dtype())?;
    let mut tensors = vec![text, video, &out];
    tensors.extend(positions);
    let vectors = vectors(size, &tensors);
    let grid = RowGrid::new(b * tokens, size, vectors);
    let args = JoinArgs {
        text: text.global(),
        video: video.global(),
        out: out.global(),
        positions: positions.map_or(Global::ABSENT, Tensor::global),
        tokens: tokens as u32,
        text_len: text_len as u32,
        size: size as u32,
        blocks_per_row: grid.blocks_per_row,
        vectors: u32::from(vectors),
    };
    out.device().launch(&grid.launch(JOIN_TOKENS.of(op, out.dtype())?), &args)?;
    Ok(out)
}

/// The video tokens `[b, v, d]` of a sequence `[b, text_len + v, d]`. Of one video they share the sequence's memory.
///
/// # Errors
/// [`Error::Shape`] for more text than tokens; [`Error::OutOfMemory`].
pub fn video_part(x: &Tensor, text_len: usize) -> Result<Tensor> {
    let op = "video_part";
    let [b, tokens, size] = x.dims_n(op)?;
    let Some(video_len) = tokens.checked_sub(text_len) else {
        return Err(Error::shape(op, format!("{text_len} text tokens of {tokens}")));
    };
    let kernel = VIDEO_PART.of(op, x.dtype())?;
    if b == 1 {
        return x.reshape(&[tokens, size])?.slice(text_len, video_len)?.reshape(&[1, video_len, size]);
    }
    let out = Tensor::empty(x.device(), &[b, video_len, size], x.dtype())?;
    let vectors = vectors(size, &[x, &out]);
    let grid = RowGrid::new(b * video_len, size, vectors);
    let args = VideoPartArgs {
        x: x.global(),
        out: out.global(),
        tokens: tokens as u32,
        text_len: text_len as u32,
        size: size as u32,
        blocks_per_row: grid.blocks_per_row,
        vectors: u32::from(vectors),
    };
    out.device().launch(&grid.launch(kernel), &args)?;
    Ok(out)
}
