//! From what a generator says to what the row says: a share of the whole, and how long each stage took.

use queue::{Stage, Timings};
use tokio::time::Instant;

use crate::Progress;

// Where each stage begins, in percent. Denoising is nearly all of the work at any size; the rest is what the VAE and
// the file take on a CPU with the published models, roughly.
const DENOISE: f64 = 2.0;
const VAE_DECODE: f64 = 88.0;
const ENCODE_MP4: u8 = 97;
const STORE: u8 = 99;

/// The row's form of a report, or `None` if it only asks whether to stop.
pub(crate) fn of_generator(progress: Progress<'_>, total_steps: u32) -> Option<queue::Progress> {
    let (stage, step, total_steps, percent) = match progress {
        Progress::CheckPoint => return None,
        Progress::LoadModel => (Stage::LoadModel, 0, total_steps, 0.0),
        Progress::TextEncode => (Stage::TextEncode, 0, total_steps, 0.0),
        Progress::Denoise { step, total_steps, .. } => {
            let done = f64::from(step) / f64::from(total_steps.max(1));
            (Stage::Denoise, step, total_steps, DENOISE + (VAE_DECODE - DENOISE) * done)
        }
        Progress::VaeDecode { fraction } => {
            let percent = VAE_DECODE + (f64::from(ENCODE_MP4) - VAE_DECODE) * fraction.clamp(0.0, 1.0);
            (Stage::VaeDecode, total_steps, total_steps, percent)
        }
    };
    Some(queue::Progress { stage, step, total_steps, percent: percent as u8 })
}

/// The report that the MP4 is being made.
pub(crate) fn encoding(total_steps: u32) -> queue::Progress {
    queue::Progress { stage: Stage::EncodeMp4, step: total_steps, total_steps, percent: ENCODE_MP4 }
}

/// The report that the MP4 is being written.
pub(crate) fn storing(total_steps: u32) -> queue::Progress {
    queue::Progress { stage: Stage::Store, step: total_steps, total_steps, percent: STORE }
}

/// Times the stages by the moments at which they were first heard of.
#[derive(Debug, Default)]
pub(crate) struct StageClock {
    running: Option<(Stage, Instant)>,
    timings: Timings,
}

impl StageClock {
    /// A stage is under way now.
    pub(crate) fn enter(&mut self, stage: Stage) {
        if self.running.is_none_or(|(running, _)| running != stage) {
            self.leave();
            self.running = Some((stage, Instant::now()));
        }
    }

    /// All stages are over.
    pub(crate) fn finish(mut self) -> Timings {
        self.leave();
        self.timings
    }

    fn leave(&mut self) {
        let Some((stage, since)) = self.running.take() else { return };
        let slot = match stage {
            Stage::LoadModel => &mut self.timings.load_model_ms,
            Stage::TextEncode => &mut self.timings.text_encode_ms,
            Stage::Denoise => &mut self.timings.denoise_ms,
            Stage::VaeDecode => &mut self.timings.vae_decode_ms,
            Stage::EncodeMp4 => &mut self.timings.encode_mp4_ms,
            Stage::Store => &mut self.timings.store_ms,
        };
        metrics::histogram!("cogvideox_stage_seconds", "stage" => stage.as_str()).record(since.elapsed());
        *slot = Some(slot.unwrap_or(0) + since.elapsed().as_millis() as u64);
    }
}
