//! Elements arrive where they belong, and all others stay.

use super::{Case, Numbers, Outcome};
use crate::ops::layout::{channels_first, channels_last, crop, enlarge, paste_into};
use crate::{Device, Dtype, Result, Tensor};

pub(super) fn add(cases: &mut Vec<Case>) {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for channels in [3, 16] {
            let name = format!("{dtype} {channels}");
            cases.push(Case::new(format!("channels last and first {name}"), move |device| {
                transposed(device, dtype, channels)
            }));
            cases.push(Case::new(format!("crop and paste {name}"), move |device| {
                boxes(device, dtype, channels)
            }));
            cases.push(Case::new(format!("enlarge {name}"), move |device| enlarged(device, dtype, channels)));
        }
    }
}

fn transposed(device: &Device, dtype: Dtype, channels: usize) -> Result<Outcome> {
    let (n, pixels, padded) = (2, 35, channels + 5);
    let values = Numbers::new(3).take(n * channels * pixels, dtype);
    let x = Tensor::from_f32(device, &[n, channels, 5, 7], dtype, &values)?;
    let last = channels_last(&x, padded)?;
    let expected: Vec<f32> = (0..n * pixels * padded)
        .map(|i| (i / padded / pixels, i / padded % pixels, i % padded))
        .map(|(i, pixel, c)| if c < channels { values[(i * channels + c) * pixels + pixel] } else { 0.0 })
        .collect();
    let there = Outcome::exact(&last.to_f32_vec()?, &expected);
    let back = Outcome::exact(&channels_first(&last, channels)?.to_f32_vec()?, &values);
    Ok(Outcome { error: there.error + back.error, bound: 0.0 })
}

fn boxes(device: &Device, dtype: Dtype, channels: usize) -> Result<Outcome> {
    let (frames, height, width) = (2, 6, 7);
    let values = Numbers::new(4).take(frames * height * width * channels, dtype);
    let x = Tensor::from_f32(device, &[frames, height, width, channels], dtype, &values)?;
    let part = crop(&x, [1, 2], [4, 5])?;
    let whole = Tensor::zeros(device, &[frames, 5, 9, channels], dtype)?;
    paste_into(&part, [3, 4], &whole, [2, 5])?;
    let expected: Vec<f32> = (0..frames * 5 * 9 * channels)
        .map(|i| (i % channels, i / channels % 9, i / channels / 9 % 5, i / channels / 45))
        .map(|(c, x, y, t)| {
            // The box's row 2 and column 5 hold the crop's first, which are row 1 and column 2 of the source.
            let inside = y >= 2 && x >= 5;
            if inside { values[((t * height + y - 1) * width + x - 3) * channels + c] } else { 0.0 }
        })
        .collect();
    Ok(Outcome::exact(&whole.to_f32_vec()?, &expected))
}

fn enlarged(device: &Device, dtype: Dtype, channels: usize) -> Result<Outcome> {
    let (frames, height, width) = (2, 3, 5);
    let values = Numbers::new(6).take(frames * height * width * channels, dtype);
    let x = Tensor::from_f32(device, &[frames, height, width, channels], dtype, &values)?;
    let expected: Vec<f32> = (0..4 * values.len())
        .map(|i| (i % channels, i / channels % (2 * width), i / channels / (2 * width)))
        .map(|(c, x, row)| {
            let (t, y) = (row / (2 * height), row % (2 * height));
            values[((t * height + y / 2) * width + x / 2) * channels + c]
        })
        .collect();
    Ok(Outcome::exact(&enlarge(&x)?.to_f32_vec()?, &expected))
}
