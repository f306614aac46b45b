//! The autoencoder's work on frames: their number halved, tiles faded into each other, bytes.
//!
//! Videos are `[frames, height, width, channels]`. Rounds where diffusers rounds. Must not know the autoencoder.

use crate::launch::{FloatKernels, Global, Launch, float_kernels, kernel_args};
use crate::{Dtype, Error, Result, Tensor};

const MEAN: FloatKernels = float_kernels!("video_mean_of_pairs");
const FADE: FloatKernels = float_kernels!("video_fade");
const RGB: FloatKernels = float_kernels!("video_rgb");
const THREADS: usize = 256;

kernel_args! {
    struct MeanArgs {
        x: Global,
        out: Global,
        frame_len: u64,
        single_first: u32,
    }

    struct FadeArgs {
        before: Global,
        tile: Global,
        before_height: u32,
        before_width: u32,
        height: u32,
        width: u32,
        channels: u32,
        before_y: u32,
        before_x: u32,
        columns: u32,
        extent: u32,
        across: u32,
    }

    struct RgbArgs {
        x: Global,
        out: Global,
        pixels: u64,
        channels: u32,
    }
}

/// The means of pairs of frames, of an odd number the first one alone.
///
/// # Errors
/// [`Error::Shape`], [`Error::OutOfMemory`].
pub fn halve_frames(x: &Tensor) -> Result<Tensor> {
    const OP: &str = "halve_frames";
    let [frames, height, width, channels] = x.dims_n::<4>(OP)?;
    let kernel = MEAN.of(OP, x.dtype())?;
    let out_frames = frames.div_ceil(2);
    if out_frames > 65_535 {
        return Err(Error::shape(OP, format!("{frames} frames are too many")));
    }
    let out = Tensor::empty(x.device(), &[out_frames, height, width, channels], x.dtype())?;
    let frame_len = height * width * channels;
    let launch = Launch {
        grid: [frame_len.div_ceil(THREADS) as u32, out_frames as u32, 1],
        ..Launch::new(kernel, 1, THREADS as u32)
    };
    let args = MeanArgs {
        x: x.global(),
        out: out.global(),
        frame_len: frame_len as u64,
        single_first: (frames % 2) as u32,
    };
    x.device().launch(&launch, &args)?;
    Ok(out)
}

/// In which direction a tile's neighbour lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// In the row of tiles above.
    Above,
    /// Before it in its row.
    Left,
}

/// Fades the first `extent` rows or columns of `tile` in from the last ones of its neighbour, as diffusers does.
///
/// # Errors
/// [`Error::Shape`] for tiles that do not lie side by side.
pub fn fade_in_place(before: &Tensor, tile: &Tensor, side: Side, extent: usize) -> Result<()> {
    const OP: &str = "fade";
    before.device().expect_same(OP, tile.device())?;
    let kernel = FADE.of(OP, tile.dtype())?;
    let [frames, before_height, before_width, _] = before.dims_n::<4>(OP)?;
    let [_, height, width, channels] = tile.dims_n::<4>(OP)?;
    let mut expected = tile.dims().to_vec();
    let axis = if side == Side::Above { 1 } else { 2 };
    expected[axis] = before.dims()[axis];
    if before.dims() != expected || before.dtype() != tile.dtype() {
        return Err(Error::shape(OP, format!("{:?} is not beside {:?}", before.dims(), tile.dims())));
    }
    let extent = extent.min(before.dims()[axis]).min(tile.dims()[axis]);
    let [rows, columns] = if side == Side::Above { [extent, width] } else { [height, extent] };
    if columns * channels > i32::MAX as usize || rows.max(frames) > 65_535 {
        return Err(Error::shape(OP, format!("{:?} is too large", tile.dims())));
    }
    let launch = Launch {
        grid: [(columns * channels).div_ceil(THREADS) as u32, rows as u32, frames as u32],
        ..Launch::new(kernel, 1, THREADS as u32)
    };
    let args = FadeArgs {
        before: before.global(),
        tile: tile.global(),
        before_height: before_height as u32,
        before_width: before_width as u32,
        height: height as u32,
        width: width as u32,
        channels: channels as u32,
        before_y: (before_height - rows) as u32,
        before_x: (before_width - columns) as u32,
        columns: columns as u32,
        extent: extent as u32,
        across: (side == Side::Left).into(),
    };
    tile.device().launch(&launch, &args)
}

/// Bytes `[..., 3]` of the first three channels of `x`, colours in -1 to 1, as diffusers' image processor rounds them.
///
/// # Errors
/// [`Error::Shape`] for fewer channels, [`Error::OutOfMemory`].
pub fn rgb(x: &Tensor) -> Result<Tensor> {
    const OP: &str = "rgb";
    let kernel = RGB.of(OP, x.dtype())?;
    let mut dims = x.dims().to_vec();
    let Some(last) = dims.last_mut().filter(|channels| **channels >= 3) else {
        return Err(Error::shape(OP, format!("expected three channels at least, found {:?}", x.dims())));
    };
    let channels = std::mem::replace(last, 3);
    let out = Tensor::empty(x.device(), &dims, Dtype::U8)?;
    let pixels = out.len() / 3;
    let args = RgbArgs { x: x.global(), out: out.global(), pixels: pixels as u64, channels: channels as u32 };
    x.device().launch(&Launch::over(kernel, pixels, THREADS as u32), &args)?;
    Ok(out)
}
