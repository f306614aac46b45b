//! Convolutions.

use candle_core::{DType, Device};
use pulp::WithSimd;

use super::{DTYPES, Picture, Values, assert_frame, weights};
use crate::ops::Rounding;
use crate::ops::conv::{Conv, split_column, split_columns_shape};
use crate::ops::conv_kernel::{RowConv, Weights};
use crate::ops::frame::{Frame, FrameShape, LANES, Lanes};
use crate::weights::WeightScope;
use crate::{Error, Result};

/// (input channels, output channels, height, width): fewer and more than sixteen, one pixel, several tiles.
const SHAPES: [(usize, usize, usize, usize); 6] =
    [(3, 4, 1, 1), (1, 17, 2, 3), (16, 32, 5, 13), (20, 36, 4, 14), (33, 16, 3, 29), (48, 50, 7, 25)];

struct Layer {
    conv: Conv,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// A layer of random weights that `dtype` can hold.
fn layer(
    shape: &[usize],
    dtype: DType,
    values: &mut Values,
    load: impl Fn(&WeightScope<'_>) -> Result<Conv>,
) -> Layer {
    let rounding = Rounding::of(dtype).unwrap();
    let mut random = |count| values.take(count).into_iter().map(|x| rounding.round(x)).collect::<Vec<_>>();
    let (weight, bias) = (random(shape.iter().product()), random(shape[0]));
    let file = weights(&[("weight", &weight, shape), ("bias", &bias, &shape[..1])]);
    let conv = load(&file.root(dtype, &Device::Cpu)).unwrap();
    Layer { conv, weight, bias }
}

fn run(layer: &Layer, inputs: &[&Frame], output: FrameShape, residual: Option<&Frame>) -> Frame {
    let mut output = Frame::zeros(output);
    layer.conv.run(inputs, &mut output, residual, &mut |_| Ok(())).unwrap();
    output
}

#[test]
fn a_causal_convolution_sums_over_three_frames_and_adds_the_residual() {
    let mut values = Values::new(1);
    for (from, to, height, width) in SHAPES {
        for (dtype, step) in DTYPES {
            let layer =
                layer(&[to, from, 3, 3, 3], dtype, &mut values, |scope| Conv::causal(scope, from, to));
            let shape = FrameShape::new(from, height, width);
            let frames: Vec<Picture> = (0..3).map(|_| Picture::random(shape, &mut values)).collect();
            let bordered: Vec<Frame> = frames.iter().map(|frame| frame.frame(1)).collect();
            let output = layer.conv.output_shape(height, width);
            let residual = Picture::random(output, &mut values);
            let inputs: Vec<&Frame> = bordered.iter().collect();
            let found = run(&layer, &inputs, output, Some(&residual.frame(0)));
            // Sums of up to 27 x 48 products are below 64 here; two roundings.
            assert_frame("causal", &found, 1e-4 + 2.0 * 64.0 * step, |o, y, x| {
                let mut sum = f64::from(layer.bias[o]) + residual.at(o, y as isize, x as isize);
                for i in 0..from {
                    for tap in 0..27 {
                        let (dt, dy, dx) = (tap / 9, tap / 3 % 3, tap % 3);
                        let weight = f64::from(layer.weight[(o * from + i) * 27 + tap]);
                        let (y, x) = ((y + dy) as isize - 1, (x + dx) as isize - 1);
                        sum += weight * frames[dt].at(i, y, x);
                    }
                }
                sum
            });
        }
    }
}

#[test]
fn a_half_precision_result_is_rounded_once_before_the_residual() {
    let mut values = Values::new(2);
    let layer = layer(&[5, 7, 1, 1, 1], DType::BF16, &mut values, |scope| Conv::pointwise(scope, 7, 5));
    let shape = FrameShape::new(7, 3, 11);
    let input = Picture::random(shape, &mut values);
    let output = FrameShape { channels: 5, ..shape };
    let residual = Picture::random(output, &mut values);
    let alone = run(&layer, &[&input.frame(0)], output, None);
    let sum = run(&layer, &[&input.frame(0)], output, Some(&residual.frame(0)));
    for (index, (alone, sum)) in alone.rows().iter().zip(sum.rows()).enumerate() {
        for channel in 0..5 {
            let rounded = Rounding::Bf16.round(alone.0[channel]);
            assert!(rounded.to_bits() == alone.0[channel].to_bits(), "not a bf16 value");
            let added = rounded + residual.values[channel * 33 + index];
            assert!(Rounding::Bf16.round(added).to_bits() == sum.0[channel].to_bits());
        }
    }
}

#[test]
fn upsampling_is_a_convolution_of_the_enlarged_picture() {
    let mut values = Values::new(3);
    for (channels, _, height, width) in SHAPES {
        let layer = layer(&[channels, channels, 3, 3], DType::F32, &mut values, |scope| {
            Conv::upsampling(scope, channels)
        });
        let picture = Picture::random(FrameShape::new(channels, height, width), &mut values);
        let found = run(&layer, &[&picture.frame(1)], layer.conv.output_shape(height, width), None);
        assert_eq!(found.shape(), FrameShape::new(channels, 2 * height, 2 * width));
        assert_frame("upsampling", &found, 1e-4, |o, y, x| {
            let mut sum = f64::from(layer.bias[o]);
            for i in 0..channels {
                for tap in 0..9 {
                    let (y, x) = ((y + tap / 3) as isize - 1, (x + tap % 3) as isize - 1);
                    let weight = f64::from(layer.weight[(o * channels + i) * 9 + tap]);
                    sum += weight * picture.at(i, y.div_euclid(2), x.div_euclid(2));
                }
            }
            sum
        });
    }
}

#[test]
fn downsampling_reads_every_second_pixel_and_pads_right_and_below() {
    let mut values = Values::new(4);
    for (channels, _, height, width) in SHAPES.into_iter().filter(|(_, _, height, _)| *height > 1) {
        let layer = layer(&[channels, channels, 3, 3], DType::F32, &mut values, |scope| {
            Conv::downsampling(scope, channels)
        });
        let picture = Picture::random(FrameShape::new(channels, height, width), &mut values);
        let mut split = Frame::zeros(split_columns_shape(channels, height, width));
        let (split_width, split_len) = (split.shape().width, split.shape().row_len());
        for y in 0..height {
            for (index, pixel) in picture.frame(0).row(y).iter().enumerate() {
                let (block, x) = (index / width, index % width);
                split.rows_mut()[y * split_len + block * split_width + split_column(x, split_width)] = *pixel;
            }
        }
        let found = run(&layer, &[&split], layer.conv.output_shape(height, width), None);
        assert_eq!(found.shape(), FrameShape::new(channels, height / 2, width / 2));
        assert_frame("downsampling", &found, 1e-4, |o, y, x| {
            let mut sum = f64::from(layer.bias[o]);
            for i in 0..channels {
                for tap in 0..9 {
                    let weight = f64::from(layer.weight[(o * channels + i) * 9 + tap]);
                    sum += weight * picture.at(i, (2 * y + tap / 3) as isize, (2 * x + tap % 3) as isize);
                }
            }
            sum
        });
    }
}

/// More taps than a pass takes, so that sums wait in the output between passes, in every width of registers.
#[test]
fn every_register_width_computes_the_same_row() {
    let (taps, blocks, width) = (900, 3, 27);
    let mut values = Values::new(5);
    let mut lanes = |count: usize| -> Vec<Lanes> {
        (0..count).map(|_| Lanes(values.take(LANES).try_into().unwrap())).collect()
    };
    let rows: Vec<Vec<Lanes>> = (0..taps).map(|_| lanes(width)).collect();
    let rows: Vec<&[Lanes]> = rows.iter().map(Vec::as_slice).collect();
    let weights: Vec<Weights> =
        (0..taps * blocks).map(|_| lanes(LANES).try_into().expect("sixteen")).collect();
    let (bias, residual) = (lanes(blocks), lanes(blocks * 2 * width));
    let compute = |run: &dyn Fn(RowConv<'_>)| {
        let mut output = vec![Lanes::ZERO; blocks * 2 * width];
        run(RowConv {
            taps: &rows,
            weights: &weights,
            bias: &bias,
            output: &mut output,
            output_width: 2 * width,
            first: 1,
            step: 2,
            residual: Some(&residual),
            rounding: Rounding::None,
        });
        output
    };
    let expected = |block: usize, x: usize, lane: usize| -> f64 {
        let mut sum = f64::from(bias[block].0[lane]);
        for (tap, row) in rows.iter().enumerate() {
            for (value, weights) in row[x].0.iter().zip(&weights[block * taps + tap]) {
                sum += f64::from(*value) * f64::from(weights.0[lane]);
            }
        }
        sum + f64::from(residual[block * 2 * width + 1 + 2 * x].0[lane])
    };
    let mut outputs = vec![("scalar", compute(&|row| row.with_simd(pulp::Scalar)))];
    #[cfg(target_arch = "x86_64")]
    {
        use pulp::x86::{V3, V4};
        if let Some(simd) = V3::try_new() {
            outputs.push(("avx2", compute(&|row| row.with_simd(simd))));
        }
        if let Some(simd) = V4::try_new() {
            outputs.push(("avx512", compute(&|row| row.with_simd(simd))));
        }
    }
    for (name, output) in outputs {
        for (index, pixel) in output.iter().enumerate() {
            let (block, x) = (index / (2 * width), index % (2 * width));
            for (lane, found) in pixel.0.iter().enumerate() {
                let expected = if x % 2 == 1 { expected(block, x / 2, lane) } else { 0.0 };
                assert!((f64::from(*found) - expected).abs() < 2e-3, "{name}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn an_interrupted_convolution_stops() {
    let mut values = Values::new(6);
    let layer = layer(&[4, 4, 1, 1, 1], DType::F32, &mut values, |scope| Conv::pointwise(scope, 4, 4));
    let shape = FrameShape::new(4, 2, 2);
    let input = Picture::random(shape, &mut values).frame(0);
    let result = layer.conv.run(&[&input], &mut Frame::zeros(shape), None, &mut |_| Err(Error::Interrupted));
    assert!(matches!(result, Err(Error::Interrupted)));
}
