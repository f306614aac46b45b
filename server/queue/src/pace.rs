//! How fast videos are made here, by what was measured: the ground of every ETA.
//!
//! Sizes are compared by megapixels of all frames, which is what a denoising step takes but for the speed of the
//! device. Medians, so that one slow step says nothing.

use std::collections::VecDeque;

use crate::{Progress, Stage, Timings, VideoParams};

/// Samples of each kind that are kept: enough for a median, few enough to follow a change.
const STEPS: usize = 101;
const VIDEOS: usize = 21;

#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Milliseconds of a step by megapixel.
    steps: VecDeque<f64>,
    /// Milliseconds from the last step to the end, by megapixel.
    tails: VecDeque<f64>,
    /// Milliseconds of a whole video by step and megapixel.
    videos: VecDeque<f64>,
}

impl Pace {
    pub(crate) fn step_took(&mut self, ms: f64, megapixels: f64) {
        keep(&mut self.steps, ms / megapixels, STEPS);
    }

    /// A video was finished in one attempt.
    pub(crate) fn video_took(&mut self, params: &VideoParams, timings: &Timings) {
        let megapixels = params.megapixels();
        let stage = |ms: Option<u64>| ms.unwrap_or(0) as f64;
        let tail = stage(timings.vae_decode_ms) + stage(timings.encode_mp4_ms) + stage(timings.store_ms);
        let denoise = stage(timings.denoise_ms);
        let steps = f64::from(params.num_inference_steps.max(1));
        keep(&mut self.tails, tail / megapixels, VIDEOS);
        keep(
            &mut self.videos,
            (stage(timings.text_encode_ms) + denoise + tail) / (steps * megapixels),
            VIDEOS,
        );
        if self.steps.is_empty() {
            keep(&mut self.steps, denoise / (steps * megapixels), STEPS);
        }
    }

    /// Milliseconds of one step.
    pub(crate) fn step_ms(&self, megapixels: f64) -> Option<f64> {
        median(&self.steps).map(|ms| ms * megapixels)
    }

    /// Milliseconds of videos that wait, by the sum of their costs.
    pub(crate) fn waiting_ms(&self, cost: f64) -> Option<f64> {
        median(&self.videos).or_else(|| median(&self.steps)).map(|ms| ms * cost)
    }

    /// Milliseconds until a running video is finished.
    pub(crate) fn remaining_ms(
        &self,
        megapixels: f64,
        total_steps: u32,
        at: Option<Progress>,
    ) -> Option<f64> {
        let tail = median(&self.tails).map(|ms| ms * megapixels);
        let Some(at) = at else {
            return self.waiting_ms(f64::from(total_steps) * megapixels);
        };
        if at.stage > Stage::Denoise {
            // The tail's share of the percents, as the worker deals them out.
            return tail.map(|ms| ms * f64::from(100 - at.percent.clamp(88, 100)) / 12.0);
        }
        let steps = total_steps.saturating_sub(at.step);
        // Nothing left but what was never measured is not nothing.
        (steps > 0 || tail.is_some())
            .then(|| Some(f64::from(steps) * self.step_ms(megapixels)? + tail.unwrap_or(0.0)))
            .flatten()
    }
}

fn keep(samples: &mut VecDeque<f64>, sample: f64, at_most: usize) {
    if samples.len() == at_most {
        samples.pop_front();
    }
    samples.push_back(sample);
}

fn median(samples: &VecDeque<f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = samples.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}
