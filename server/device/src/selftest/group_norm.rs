//! Group norm with and without a condition, against moments in `f64` and the same roundings.

use super::{Case, FLOATS, Numbers, Outcome, half_unit, rounded};
use crate::ops::group_norm::GroupNorm;
use crate::{Device, Dtype, Result, Tensor};

const EPS: f64 = 1e-6;
/// Of a chunk that comes in pieces.
const PIECE_FRAMES: usize = 2;

/// Channels and groups, frames, height and width, and those of the condition.
#[derive(Clone, Copy)]
struct Shape {
    channels: usize,
    groups: usize,
    size: [usize; 3],
    latents: Option<[usize; 3]>,
}

pub(super) fn add(cases: &mut Vec<Case>) {
    for (channels, groups, size, latents) in [
        (6, 2, [3, 5, 7], None),
        (12, 2, [9, 4, 6], Some([3, 2, 3])),
        (16, 4, [8, 4, 6], Some([2, 2, 3])),
        (16, 1, [1, 3, 37], Some([1, 1, 5])),
        (48, 4, [3, 2, 5], None),
        // More blocks than one for the pixels, and for the channels.
        (300, 2, [2, 7, 10], Some([2, 7, 10])),
        (2056, 257, [1, 10, 13], None),
    ] {
        let shape = Shape { channels, groups, size, latents };
        for dtype in FLOATS {
            let name = format!("group norm {dtype} {channels} in {groups}, {size:?} by {latents:?}");
            cases.push(Case::new(name, move |device| compare(device, shape, dtype)));
        }
    }
}

fn compare(device: &Device, shape: Shape, dtype: Dtype) -> Result<Outcome> {
    let Shape { channels, groups, size: [frames, height, width], latents } = shape;
    let mut numbers = Numbers::new(5);
    let mut draw = |dims: &[usize], offset: f32| -> Result<(Tensor, Vec<f32>)> {
        let values: Vec<f32> =
            (0..dims.iter().product()).map(|_| rounded(numbers.next() + offset, dtype)).collect();
        Ok((Tensor::from_f32(device, dims, dtype, &values)?, values))
    };
    let dims = [frames, height, width, channels];
    // Far from 0, where squares of the values themselves would lose what matters.
    let (x, values) = draw(&dims, 9.0)?;
    let (weight, w) = draw(&[channels], 0.5)?;
    let (bias, b) = draw(&[channels], 0.0)?;
    let condition = match latents {
        Some([t, h, w]) => Some(draw(&[t, h, w, 2 * channels], 1.0)?),
        None => None,
    };
    // Behind two frames that others fill.
    let padded = Tensor::zeros(device, &[frames + 2, height, width, channels], dtype)?;
    let pieces =
        (0..frames).step_by(PIECE_FRAMES).map(|first| x.slice(first, PIECE_FRAMES.min(frames - first)));
    let pieces = pieces.collect::<Result<Vec<_>>>()?;
    let norm = GroupNorm::new(weight, bias, groups, EPS)?.measure(&pieces)?;
    for (index, piece) in pieces.iter().enumerate() {
        let first = index * PIECE_FRAMES;
        let out = padded.slice(2 + first, piece.dims()[0])?;
        norm.silu_into(piece, first, condition.as_ref().map(|(tensor, _)| tensor), &out)?;
    }

    let group_len = channels / groups;
    let mut moments = vec![[0f64; 2]; groups];
    for (index, value) in values.iter().enumerate() {
        let [sum, squares] = &mut moments[index % channels / group_len];
        *sum += f64::from(*value);
        *squares += f64::from(*value).powi(2);
    }
    let count = (values.len() / groups) as f64;
    let mut expected = vec![0f32; 2 * height * width * channels];
    for (index, value) in values.iter().enumerate() {
        let (channel, pixel) = (index % channels, index / channels);
        let [sum, squares] = moments[channel / group_len];
        let mean = sum / count;
        let factor = f64::from(w[channel]) / (squares / count - mean * mean + EPS).sqrt();
        let (scale, shift) = (factor as f32, (f64::from(b[channel]) - mean * factor) as f32);
        let mut y = rounded(value.mul_add(scale, shift), dtype);
        if let (Some((_, condition)), Some([lt, lh, lw])) = (&condition, latents) {
            let (px, py, frame) = (pixel % width, pixel / width % height, pixel / width / height);
            let latent = match frame {
                0 => 0,
                _ if frames % 2 == 1 => 1 + (frame - 1) * (lt - 1) / (frames - 1),
                _ => frame * lt / frames,
            };
            let at = ((latent * lh + py * lh / height) * lw + px * lw / width) * 2 * channels + channel;
            y = rounded(rounded(y * condition[at], dtype) + condition[at + channels], dtype);
        }
        expected.push(rounded(y / (1.0 + (-y).exp()), dtype));
    }
    let bound = if dtype == Dtype::F32 { 4e-6 } else { 8.0 * half_unit(dtype) };
    Ok(Outcome::same_roundings(&padded.to_f32_vec()?, &expected, dtype, bound))
}
