//! The intermediate tensors of a run, for comparison with another implementation.
//!
//! Keys and layouts are those that diffusers' own intermediates have at the same places.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Result, Tensor};
use cogvideox::{Event, VideoFrames};

/// What has been recorded so far.
#[derive(Default)]
pub(crate) struct Dump {
    tensors: HashMap<String, Tensor>,
    error: Option<candle_core::Error>,
}

impl Dump {
    /// Keeps what the event carries.
    pub(crate) fn record(&mut self, event: &Event<'_>) {
        // The callback cannot fail; what went wrong is reported when the file is to be written.
        if let Err(error) = self.try_record(event) {
            self.error.get_or_insert(error);
        }
    }

    fn try_record(&mut self, event: &Event<'_>) -> Result<()> {
        match event {
            Event::PromptEncoded { tokens, prompt_embeds, negative_prompt_embeds } => {
                let ids: Vec<i64> = tokens.ids.iter().map(|id| i64::from(*id)).collect();
                self.keep("prompt_ids", &Tensor::new(ids, &Device::Cpu)?);
                self.keep("prompt_embeds", prompt_embeds);
                if let Some(embeds) = negative_prompt_embeds {
                    self.keep("negative_prompt_embeds", embeds);
                }
            }
            Event::LatentsPrepared { timesteps, latents, .. } => {
                let timesteps: Vec<i64> = timesteps.iter().map(|t| *t as i64).collect();
                self.keep("timesteps", &Tensor::new(timesteps, &Device::Cpu)?);
                self.keep("latents.init", latents);
            }
            Event::StepEnd { step, latents, .. } => self.keep(&format!("latents.{}", step - 1), latents),
            Event::TextEncode | Event::VaeDecode { .. } | Event::CheckPoint => {}
        }
        Ok(())
    }

    fn keep(&mut self, key: &str, tensor: &Tensor) {
        self.tensors.insert(key.to_owned(), tensor.clone());
    }

    /// Adds the frames, `(f, h, w, 3)`, and writes everything as safetensors.
    ///
    /// # Errors
    /// A file that cannot be written, or what went wrong while recording.
    pub(crate) fn write(mut self, path: &Path, video: &VideoFrames) -> Result<()> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let shape = (video.num_frames, video.height, video.width, 3);
        self.keep("frames_u8", &Tensor::from_slice(&video.rgb, shape, &Device::Cpu)?);
        candle_core::safetensors::save(&self.tensors, path)
    }
}
