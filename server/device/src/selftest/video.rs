//! Frames halved, tiles faded, bytes: to the last bit where the roundings are prescribed.

use super::{Case, FLOATS, Numbers, Outcome, half_unit, rounded};
use crate::ops::video::{Side, fade_in_place, halve_frames, rgb};
use crate::{Device, Dtype, Result, Tensor};

pub(super) fn add(cases: &mut Vec<Case>) {
    for dtype in FLOATS {
        for frames in [1, 4, 5] {
            let name = format!("frames halved {dtype} {frames}");
            cases.push(Case::new(name, move |device| halved(device, dtype, frames)));
        }
        for side in [Side::Above, Side::Left] {
            let name = format!("fade {dtype} {side:?}");
            cases.push(Case::new(name, move |device| faded(device, dtype, side)));
        }
        cases.push(Case::new(format!("rgb {dtype}"), move |device| bytes(device, dtype)));
    }
}

fn halved(device: &Device, dtype: Dtype, frames: usize) -> Result<Outcome> {
    let len = 3 * 5 * 6;
    let values = Numbers::new(8).take(frames * len, dtype);
    let x = Tensor::from_f32(device, &[frames, 3, 5, 6], dtype, &values)?;
    let frame = |index: usize| &values[index * len..][..len];
    let mut expected = Vec::new();
    let single = frames % 2;
    if single == 1 {
        expected.extend_from_slice(frame(0));
    }
    for index in (single..frames).step_by(2) {
        let pairs = frame(index).iter().zip(frame(index + 1));
        expected.extend(pairs.map(|(a, b)| rounded((a + b) * 0.5, dtype)));
    }
    Ok(Outcome::exact(&halve_frames(&x)?.to_f32_vec()?, &expected))
}

fn faded(device: &Device, dtype: Dtype, side: Side) -> Result<Outcome> {
    let (frames, height, width, channels, extent) = (2, 5, 7, 3, 3);
    // The neighbour is longer in the direction in which it lies.
    let [before_height, before_width] = if side == Side::Above { [6, width] } else { [height, 9] };
    let mut numbers = Numbers::new(9);
    let mut draw = |height, width| -> Result<(Tensor, Vec<f32>)> {
        let values = numbers.take(frames * height * width * channels, dtype);
        Ok((Tensor::from_f32(device, &[frames, height, width, channels], dtype, &values)?, values))
    };
    let (before, first) = draw(before_height, before_width)?;
    let (tile, mut expected) = draw(height, width)?;
    fade_in_place(&before, &tile, side, extent)?;
    for (i, value) in expected.iter_mut().enumerate() {
        let (c, x, y, t) = (
            i % channels,
            i / channels % width,
            i / channels / width % height,
            i / channels / width / height,
        );
        let index = if side == Side::Above { y } else { x };
        if index >= extent {
            continue;
        }
        let (by, bx) = if side == Side::Above {
            (before_height - extent + y, x)
        } else {
            (y, before_width - extent + x)
        };
        let other = first[((t * before_height + by) * before_width + bx) * channels + c];
        let weight = index as f64 / extent as f64;
        let (from, to) = (other * (1.0 - weight) as f32, *value * weight as f32);
        *value = rounded(rounded(from, dtype) + rounded(to, dtype), dtype);
    }
    let found = tile.to_f32_vec()?;
    if dtype != Dtype::F32 {
        return Ok(Outcome::exact(&found, &expected));
    }
    // A GPU may multiply and add at once.
    let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
    Ok(Outcome::relative(&found, &expected, 2.0 * half_unit(dtype)))
}

fn bytes(device: &Device, dtype: Dtype) -> Result<Outcome> {
    let mut numbers = Numbers::new(10);
    let channels = 4;
    // Some beyond the ends.
    let values: Vec<f32> = (0..301 * channels).map(|_| rounded(numbers.next() * 1.2, dtype)).collect();
    let x = Tensor::from_f32(device, &[7, 43, channels], dtype, &values)?;
    let colours = values.chunks_exact(channels).flat_map(|pixel| &pixel[..3]);
    let expected: Vec<u8> = colours
        .map(|x| rounded(rounded(x * 0.5, dtype) + 0.5, dtype).clamp(0.0, 1.0))
        .map(|unit| (unit * 255.0).round_ties_even() as u8)
        .collect();
    Ok(Outcome::exact(&rgb(&x)?.to_vec::<u8>()?, &expected))
}
