//! Every convolution kernel and window against a sum in `f64`.

use super::{Case, FLOATS, Numbers, Outcome, dot, half_unit, rounded};
use crate::ops::conv::{Conv3d, Window};
use crate::{Device, Dtype, Result, Tensor};

/// Channels in and out, the kernel's size, the input's frames, height and width.
#[derive(Clone, Copy, Debug)]
struct Shape {
    channels: [usize; 2],
    kernel: [usize; 3],
    input: [usize; 3],
}

const fn shape(channels: [usize; 2], kernel: [usize; 3], input: [usize; 3]) -> Shape {
    Shape { channels, kernel, input }
}

pub(super) fn add(cases: &mut Vec<Case>) {
    // Few output channels; many; with channels in eights, tensor cores in half precision.
    for (window, shape) in [
        (Window::SAME, shape([5, 7], [3, 3, 3], [4, 5, 7])),
        (Window::DOUBLING, shape([3, 9], [1, 3, 3], [2, 3, 4])),
        (Window::SAME, shape([4, 67], [3, 3, 3], [3, 5, 7])),
        (Window::HALVING, shape([6, 18], [1, 3, 3], [2, 6, 5])),
        (Window::POINTWISE, shape([12, 20], [1, 1, 1], [1, 3, 3])),
        (Window::SAME, shape([8, 24], [2, 3, 3], [2, 9, 17])),
        (Window::HALVING, shape([8, 8], [1, 3, 3], [2, 7, 6])),
        (Window::DOUBLING, shape([16, 8], [1, 3, 3], [1, 3, 5])),
        (Window::SAME, shape([16, 8], [3, 3, 3], [4, 5, 6])),
        (Window::HALVING, shape([8, 16], [1, 3, 3], [3, 8, 6])),
        (Window::POINTWISE, shape([40, 136], [1, 1, 1], [1, 3, 3])),
    ] {
        for dtype in FLOATS {
            for extras in [false, true] {
                let plain = ["", " with bias and residual"][usize::from(extras)];
                let [i, o] = shape.channels;
                let name = format!("conv {dtype} {i} to {o}, {:?} on {:?}{plain}", shape.kernel, shape.input);
                cases.push(Case::new(name, move |device| compare(device, shape, window, dtype, extras)));
            }
        }
    }
}

fn compare(device: &Device, shape: Shape, window: Window, dtype: Dtype, extras: bool) -> Result<Outcome> {
    let Shape { channels: [channels, outs], kernel: [kt, kh, kw], input: [frames, height, width] } = shape;
    let mut numbers = Numbers::new(11);
    let mut draw = |dims: &[usize]| -> Result<(Tensor, Vec<f32>)> {
        let values = numbers.take(dims.iter().product(), dtype);
        Ok((Tensor::from_f32(device, dims, dtype, &values)?, values))
    };
    let (input, x) = draw(&[frames, height, width, channels])?;
    let (weight, w) = draw(&[outs, kt, kh, kw, channels])?;
    let (bias, b) = draw(&[outs])?;
    let conv = Conv3d::new(weight, extras.then_some(bias))?;
    let unbiased = conv.forward(&input, window, None)?;
    let (residual, r) = draw(unbiased.dims())?;
    let out = if extras { conv.forward(&input, window, Some(&residual))? } else { unbiased };

    let [_, out_height, out_width, _] = out.dims_n::<4>("reference")?;
    let mut expected = Vec::with_capacity(out.len());
    for (index, residual) in r.iter().enumerate() {
        let (o, pixel) = (index % outs, index / outs);
        let at = [pixel / out_width / out_height, pixel / out_width % out_height, pixel % out_width];
        let mut sum = if extras { f64::from(b[o]) } else { 0.0 };
        for (tap, from) in taps(shape.kernel, window, [height, width], at) {
            let weights = (o * kt * kh * kw + tap) * channels;
            sum += dot(&x[from * channels..][..channels], &w[weights..][..channels]);
        }
        let sum = rounded(sum as f32, dtype);
        expected.push(if extras { rounded(sum + residual, dtype) } else { sum });
    }
    // A sum in `f32` loses a little before it is rounded.
    Ok(Outcome::same_roundings(&out.to_f32_vec()?, &expected, dtype, 2.0 * half_unit(dtype) + 1e-6))
}

/// Taps of a kernel for the output pixel `at` (frame, row, column), each with the pixel of an input of this height and
/// width that it meets; none where it meets padding.
pub(super) fn taps(
    [kt, kh, kw]: [usize; 3],
    window: Window,
    [height, width]: [usize; 2],
    [frame, row, column]: [usize; 3],
) -> impl Iterator<Item = (usize, usize)> {
    let along = move |axis: usize, at: usize, tap: usize| {
        (at * window.stride + tap).wrapping_sub(window.padding[axis][0]) >> usize::from(window.enlarged)
    };
    (0..kt * kh * kw).filter_map(move |tap| {
        let (y, x) = (along(0, row, tap / kw % kh), along(1, column, tap % kw));
        let inside = y < height && x < width;
        inside.then(|| (tap, ((frame + tap / kw / kh) * height + y) * width + x))
    })
}
