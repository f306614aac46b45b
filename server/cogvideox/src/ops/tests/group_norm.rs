//! Group norm with condition and `SiLU`.

use candle_core::Device;

use super::{DTYPES, Picture, Values, assert_frame, weights};
use crate::ops::Rounding;
use crate::ops::frame::{Frame, FrameShape};
use crate::ops::group_norm::{Condition, GroupNorm};

const EPS: f64 = 1e-6;

/// Mean and inverse standard deviation of the group of `channel`.
fn statistics(frames: &[Picture], channel: usize, group_len: usize) -> [f64; 2] {
    let first = channel / group_len * group_len;
    let plane = frames[0].shape.height * frames[0].shape.width;
    let values: Vec<f64> = frames
        .iter()
        .flat_map(|frame| frame.values[first * plane..(first + group_len) * plane].iter())
        .map(|value| f64::from(*value))
        .collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    [mean, 1.0 / (variance + EPS).sqrt()]
}

#[test]
fn norm_condition_and_silu_follow_their_definitions() {
    let mut values = Values::new(11);
    for (channels, groups, small, ratio) in [(4, 2, (1, 1), 3), (20, 5, (3, 5), 2), (48, 48, (2, 7), 4)] {
        for (dtype, step) in DTYPES {
            let rounding = Rounding::of(dtype).unwrap();
            let (weight, bias) = (values.take(channels), values.take(channels));
            let file = weights(&[("weight", &weight, &[channels]), ("bias", &bias, &[channels])]);
            let (weight, bias) = (
                weight.iter().map(|w| f64::from(rounding.round(*w))).collect::<Vec<_>>(),
                bias.iter().map(|b| f64::from(rounding.round(*b))).collect::<Vec<_>>(),
            );
            let norm = GroupNorm::load(&file.root(dtype, &Device::Cpu), channels, groups, EPS).unwrap();
            let shape = FrameShape::new(channels, small.0 * ratio, small.1 * ratio);
            let small = FrameShape::new(channels, small.0, small.1);
            let mut frames: Vec<Picture> = (0..3).map(|_| Picture::random(shape, &mut values)).collect();
            // Far from zero, where E[x^2] - E[x]^2 in f32 would lose the variance.
            for frame in &mut frames {
                frame.values.iter_mut().for_each(|value| *value = value.mul_add(0.1, 300.0));
            }
            let [factor, summand] = [(); 2].map(|()| Picture::random(small, &mut values));
            let laid_out: Vec<Frame> = frames.iter().map(|frame| frame.frame(0)).collect();
            let prepared = norm.prepare(&laid_out);
            for conditioned in [false, true] {
                let (factor_frame, summand_frame) = (factor.frame(0), summand.frame(0));
                let condition = Condition { factor: &factor_frame, summand: &summand_frame };
                let mut output = Frame::zeros(shape.bordered());
                prepared.apply_silu(&laid_out[1], conditioned.then_some(condition), &mut output);
                // Values are below 8; four roundings. In f32 a value of 300 itself is only known to 3e-5.
                assert_frame("norm", &output, 2e-3 + 4.0 * 8.0 * step, |channel, y, x| {
                    let (y, x) = (y as isize - 1, x as isize - 1);
                    if y < 0 || x < 0 || y >= shape.height as isize || x >= shape.width as isize {
                        return 0.0;
                    }
                    let [mean, inverse_std] = statistics(&frames, channel, channels / groups);
                    let normed = (frames[1].at(channel, y, x) - mean) * inverse_std;
                    let mut value = normed * weight[channel] + bias[channel];
                    if conditioned {
                        let (y, x) = (y / ratio as isize, x / ratio as isize);
                        value = value * factor.at(channel, y, x) + summand.at(channel, y, x);
                    }
                    value / (1.0 + (-value).exp())
                });
            }
        }
    }
}
