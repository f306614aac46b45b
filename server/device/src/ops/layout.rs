//! Elements moved without looking at them: channels to the end and back, boxes of pixels cut out and put in.
//!
//! Videos are `[frames, height, width, channels]`. Knows sizes of elements only.

use crate::launch::{Global, Launch, kernel_args};
use crate::{Error, Result, Tensor};

const THREADS: usize = 256;

kernel_args! {
    struct BoxArgs {
        from: Global,
        to: Global,
        from_height: u32,
        from_width: u32,
        to_height: u32,
        to_width: u32,
        from_y: u32,
        from_x: u32,
        to_y: u32,
        to_x: u32,
        columns: u32,
        units: u32,
        enlarged: u32,
    }

    struct TransposeArgs {
        from: Global,
        to: Global,
        rows: u64,
        columns: u64,
        to_rows: u64,
        to_columns: u64,
    }
}

/// `[n, ..., padded_channels]` of `x` `[n, channels, ...]`; channels that `x` lacks are 0.
///
/// Turns latents and pictures of the pipeline's layouts, and convolutions' weights, into this crate's.
///
/// # Errors
/// [`Error::Shape`] for elements of one byte or fewer channels asked for, [`Error::OutOfMemory`].
pub fn channels_last(x: &Tensor, padded_channels: usize) -> Result<Tensor> {
    const OP: &str = "channels_last";
    let &[n, channels, ref rest @ ..] = x.dims() else {
        return Err(Error::shape(OP, format!("expected [n, channels, ...], found {:?}", x.dims())));
    };
    if padded_channels < channels {
        return Err(Error::shape(OP, format!("{channels} channels do not fit {padded_channels}")));
    }
    let dims: Vec<usize> = [n].into_iter().chain(rest.iter().copied()).chain([padded_channels]).collect();
    let pixels = rest.iter().product();
    transpose(OP, x, &dims, [channels, pixels], [pixels, padded_channels])
}

/// `[n, channels, ...]` of `x` `[n, ..., at least channels]`.
///
/// # Errors
/// [`Error::Shape`] for elements of one byte or more channels asked for, [`Error::OutOfMemory`].
pub fn channels_first(x: &Tensor, channels: usize) -> Result<Tensor> {
    const OP: &str = "channels_first";
    let &[n, ref rest @ .., padded_channels] = x.dims() else {
        return Err(Error::shape(OP, format!("expected [n, ..., channels], found {:?}", x.dims())));
    };
    if padded_channels < channels {
        return Err(Error::shape(OP, format!("expected {channels} channels, found {padded_channels}")));
    }
    let dims: Vec<usize> = [n, channels].into_iter().chain(rest.iter().copied()).collect();
    let pixels = rest.iter().product();
    transpose(OP, x, &dims, [pixels, padded_channels], [channels, pixels])
}

/// Matrices of `from` rows and columns to their transposes of `to` rows and columns.
fn transpose(
    op: &'static str,
    x: &Tensor,
    dims: &[usize],
    from: [usize; 2],
    to: [usize; 2],
) -> Result<Tensor> {
    let kernel = match x.dtype().bytes() {
        2 => "layout_transpose_2",
        4 => "layout_transpose_4",
        _ => return Err(Error::shape(op, format!("expected elements of 2 or 4 bytes, found {}", x.dtype()))),
    };
    let out = Tensor::empty(x.device(), dims, x.dtype())?;
    let args = TransposeArgs {
        from: x.global(),
        to: out.global(),
        rows: from[0] as u64,
        columns: from[1] as u64,
        to_rows: to[0] as u64,
        to_columns: to[1] as u64,
    };
    x.device().launch(&Launch::over(kernel, out.len(), THREADS as u32), &args)?;
    Ok(out)
}

/// A copy of the pixels of `x` from row `top` and column `left` on.
///
/// # Errors
/// [`Error::Shape`] beyond the end, [`Error::OutOfMemory`].
pub fn crop(x: &Tensor, [top, left]: [usize; 2], [height, width]: [usize; 2]) -> Result<Tensor> {
    let [frames, _, _, channels] = x.dims_n::<4>("crop")?;
    let out = Tensor::empty(x.device(), &[frames, height, width, channels], x.dtype())?;
    let place = Place { from: [top, left], to: [0, 0], size: [height, width], enlarged: false };
    copy_box("crop", x, &out, place)?;
    Ok(out)
}

/// Overwrites the pixels of `whole` from row `top` and column `left` on with the first `height` rows and `width`
/// columns of `x`.
///
/// # Errors
/// [`Error::Shape`] beyond an end, or for videos of another length.
pub fn paste_into(
    x: &Tensor,
    [height, width]: [usize; 2],
    whole: &Tensor,
    [top, left]: [usize; 2],
) -> Result<()> {
    let place = Place { from: [0, 0], to: [top, left], size: [height, width], enlarged: false };
    copy_box("paste", x, whole, place)
}

/// Every pixel of `x` twice in height and in width.
///
/// # Errors
/// [`Error::Shape`], [`Error::OutOfMemory`].
pub fn enlarge(x: &Tensor) -> Result<Tensor> {
    let [frames, height, width, channels] = x.dims_n::<4>("enlarge")?;
    let size = [2 * height, 2 * width];
    let out = Tensor::empty(x.device(), &[frames, size[0], size[1], channels], x.dtype())?;
    copy_box("enlarge", x, &out, Place { from: [0, 0], to: [0, 0], size, enlarged: true })?;
    Ok(out)
}

/// Which pixels go where: rows and columns.
#[derive(Clone, Copy, Debug)]
struct Place {
    from: [usize; 2],
    to: [usize; 2],
    /// In the target.
    size: [usize; 2],
    enlarged: bool,
}

fn copy_box(op: &'static str, from: &Tensor, to: &Tensor, place: Place) -> Result<()> {
    from.device().expect_same(op, to.device())?;
    let [frames, from_height, from_width, channels] = from.dims_n::<4>(op)?;
    let [_, to_height, to_width, _] = to.dims_n::<4>(op)?;
    let scale = usize::from(place.enlarged);
    let fits = |axis: usize, from_len: usize, to_len: usize| {
        place.from[axis] + place.size[axis].div_ceil(1 << scale) <= from_len
            && place.to[axis] + place.size[axis] <= to_len
    };
    if (to.dims()[0], to.dims()[3], to.dtype()) != (frames, channels, from.dtype())
        || !fits(0, from_height, to_height)
        || !fits(1, from_width, to_width)
    {
        let message = format!(
            "{place:?} does not fit {} {:?} and {} {:?}",
            from.dtype(),
            from.dims(),
            to.dtype(),
            to.dims()
        );
        return Err(Error::shape(op, message));
    }
    let pixel_bytes = channels * from.dtype().bytes();
    let aligned = [from, to].iter().all(|tensor| tensor.address().is_multiple_of(16));
    let (kernel, unit) = match from.dtype().bytes() {
        _ if aligned && pixel_bytes.is_multiple_of(16) => ("layout_box_16", 16),
        2 => ("layout_box_2", 2),
        4 => ("layout_box_4", 4),
        _ => {
            return Err(Error::shape(
                op,
                format!("expected elements of 2 or 4 bytes, found {}", from.dtype()),
            ));
        }
    };
    let units = pixel_bytes / unit;
    let [rows, columns] = place.size;
    if columns * units > i32::MAX as usize || rows.max(frames) > 65_535 {
        return Err(Error::shape(op, format!("{:?} is too large", to.dims())));
    }
    let global = |tensor: &Tensor| Global { len: (tensor.bytes() / unit) as u64, ..tensor.global() };
    let args = BoxArgs {
        from: global(from),
        to: global(to),
        from_height: from_height as u32,
        from_width: from_width as u32,
        to_height: to_height as u32,
        to_width: to_width as u32,
        from_y: place.from[0] as u32,
        from_x: place.from[1] as u32,
        to_y: place.to[0] as u32,
        to_x: place.to[1] as u32,
        columns: columns as u32,
        units: units as u32,
        enlarged: scale as u32,
    };
    let launch = Launch {
        grid: [(columns * units).div_ceil(THREADS) as u32, rows as u32, frames as u32],
        ..Launch::new(kernel, 1, THREADS as u32)
    };
    from.device().launch(&launch, &args)
}
