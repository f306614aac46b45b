//! `ops::patch` against loops over coordinates; nothing is computed but the sum with the positions.

use super::{Case, FLOATS, Numbers, Outcome, rounded};
use crate::ops::patch::{Patch, PatchGrid, join, patchify, unpatchify, video_part};
use crate::{Device, Dtype, Result, Tensor};

pub(super) fn add(cases: &mut Vec<Case>) {
    for dtype in FLOATS {
        for patch in
            [Patch { frames: 1, size: 2 }, Patch { frames: 2, size: 2 }, Patch { frames: 1, size: 3 }]
        {
            let name = format!("{dtype} {}x{}", patch.frames, patch.size);
            cases.push(Case::new(format!("patchify {name}"), move |device| {
                let on_device = Tensor::from_f32(device, &VIDEO, dtype, &video(dtype))?;
                Ok(Outcome::exact(
                    &patchify(&on_device, patch)?.to_f32_vec()?,
                    &patches(&video(dtype), patch),
                ))
            }));
            cases.push(Case::new(format!("unpatchify {name}"), move |device| {
                let grid = grid(patch);
                let values = VIDEO[2] * patch.frames * patch.size * patch.size;
                let dims = [VIDEO[0], grid.frames * grid.rows * grid.columns, values];
                let tokens = Tensor::from_f32(device, &dims, dtype, &patches(&video(dtype), patch))?;
                let found = unpatchify(&tokens, grid, patch)?;
                let right_dims = Outcome::exact(found.dims(), &VIDEO).error;
                let values = Outcome::exact(&found.to_f32_vec()?, &video(dtype));
                Ok(Outcome { error: values.error + right_dims, bound: values.bound })
            }));
        }
        for size in [13, 24] {
            for positions in [false, true] {
                cases.push(Case::new(format!("join {dtype} {size} positions {positions}"), move |device| {
                    joined(device, dtype, size, positions)
                }));
            }
            for batch in [1, 3] {
                cases.push(Case::new(format!("video part {dtype} {batch}x{size}"), move |device| {
                    parted(device, dtype, batch, size)
                }));
            }
        }
    }
}

/// `(b, f, c, h, w)`, all different but for the batch and the channels.
const VIDEO: [usize; 5] = [2, 4, 3, 6, 12];

fn video(dtype: Dtype) -> Vec<f32> {
    Numbers::new(3).take(VIDEO.iter().product(), dtype)
}

fn grid(patch: Patch) -> PatchGrid {
    let [_, f, _, h, w] = VIDEO;
    PatchGrid { frames: f / patch.frames, rows: h / patch.size, columns: w / patch.size }
}

/// The tokens' elements in their order, each from its place in the video.
fn patches(video: &[f32], patch: Patch) -> Vec<f32> {
    let [b, f, c, h, w] = VIDEO;
    let (grid, p) = (grid(patch), patch.size);
    let mut tokens = Vec::with_capacity(video.len());
    for (batch, frame) in pairs(b, grid.frames) {
        for (row, column) in pairs(grid.rows, grid.columns) {
            for (channel, t) in pairs(c, patch.frames) {
                for (y, x) in pairs(p, p) {
                    let plane = (batch * f + frame * patch.frames + t) * c + channel;
                    tokens.push(video[(plane * h + row * p + y) * w + column * p + x]);
                }
            }
        }
    }
    tokens
}

fn pairs(outer: usize, inner: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..outer).flat_map(move |i| (0..inner).map(move |j| (i, j)))
}

fn joined(device: &Device, dtype: Dtype, size: usize, positions: bool) -> Result<Outcome> {
    let (batch, text_len, video_len) = (2, 3, 4);
    let mut numbers = Numbers::new(4);
    let text = numbers.take(batch * text_len * size, dtype);
    let video = numbers.take(batch * video_len * size, dtype);
    let table = numbers.take((text_len + video_len) * size, dtype);
    let upload = |dims: &[usize], values: &[f32]| Tensor::from_f32(device, dims, dtype, values);
    let table_on_device = upload(&[1, text_len + video_len, size], &table)?;
    let found = join(
        &upload(&[batch, text_len, size], &text)?,
        &upload(&[batch, video_len, size], &video)?,
        positions.then_some(&table_on_device),
    )?;
    let mut expected = Vec::new();
    for (text, video) in text.chunks_exact(text_len * size).zip(video.chunks_exact(video_len * size)) {
        let sum = |(x, position): (&f32, &f32)| if positions { rounded(x + position, dtype) } else { *x };
        expected.extend(text.iter().chain(video).zip(&table).map(sum));
    }
    Ok(Outcome::exact(&found.to_f32_vec()?, &expected))
}

fn parted(device: &Device, dtype: Dtype, batch: usize, size: usize) -> Result<Outcome> {
    let (text_len, video_len) = (3, 5);
    let values = Numbers::new(8).take(batch * (text_len + video_len) * size, dtype);
    let x = Tensor::from_f32(device, &[batch, text_len + video_len, size], dtype, &values)?;
    let sequences = values.chunks_exact((text_len + video_len) * size);
    let expected: Vec<f32> = sequences.flat_map(|sequence| &sequence[text_len * size..]).copied().collect();
    Ok(Outcome::exact(&video_part(&x, text_len)?.to_f32_vec()?, &expected))
}
