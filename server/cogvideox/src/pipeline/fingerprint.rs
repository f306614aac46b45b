//! What a checkpoint belongs to: everything that decides the latents of a run, by name.
//!
//! Long and private values stand as digests, so that a checkpoint holds no prompt and a message can tell any of them.
//! Knows the parameters and the components' configurations; must not know the file's format.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use safetensors::tensor::View;
use serde::{Deserialize, Serialize};

use super::CogVideoXPipeline;
use crate::digest::sha256;
use crate::image::RgbImage;
use crate::lora::LoraChoice;
use crate::params::GenerationParams;
use crate::{Error, Result};

/// Names and values, equal for runs that may continue each other.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub(super) struct Fingerprint(BTreeMap<String, String>);

impl Fingerprint {
    /// Of a run of `params`. Tiling is not part of it: a run that ran out of memory may go on with it.
    pub(super) fn of(pipeline: &CogVideoXPipeline, params: &GenerationParams) -> Result<Self> {
        // Named one by one, so that a further parameter cannot be forgotten here.
        let GenerationParams {
            prompt,
            negative_prompt,
            image,
            height,
            width,
            num_frames,
            num_inference_steps,
            guidance_scale,
            use_dynamic_cfg,
            scheduler,
            seed,
            vae_tiling: _,
            initial_latents,
            lora,
        } = params;
        let components = &pipeline.components;
        let values = [
            ("prompt", sha256(prompt.as_bytes())),
            ("negative_prompt", sha256(negative_prompt.as_bytes())),
            ("image", image.as_ref().map_or_else(none, image_digest)),
            ("height", height.to_string()),
            ("width", width.to_string()),
            ("num_frames", num_frames.to_string()),
            ("num_inference_steps", num_inference_steps.to_string()),
            ("guidance_scale", guidance_scale.to_string()),
            ("use_dynamic_cfg", use_dynamic_cfg.to_string()),
            ("scheduler", scheduler.to_string()),
            ("seed", seed.to_string()),
            (
                "initial_latents",
                initial_latents.as_ref().map(tensor_digest).transpose()?.unwrap_or_else(none),
            ),
            ("lora", lora_digests(lora)),
            ("dtype", pipeline.dtype.as_str().to_owned()),
            ("device", pipeline.gpu.as_ref().map_or_else(|| "cpu".to_owned(), |gpu| gpu.name.clone())),
            ("model form", format!("{:?}", pipeline.description.form)),
            ("scheduler_config.json", config_digest(pipeline.description.scheduler.config())?),
            ("transformer/config.json", config_digest(components.transformer.config())?),
            ("vae/config.json", config_digest(components.vae.config())?),
            ("weights", pipeline.weights_digest.clone()),
        ];
        Ok(Self(values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
    }

    /// # Errors
    /// [`Error::Checkpoint`] naming the first value in which a checkpoint's fingerprint differs from this run's.
    pub(super) fn check(&self, found: &Self) -> Result<()> {
        for name in self.0.keys().chain(found.0.keys()) {
            // A checkpoint of a version that knew no such input is of a run without one.
            let value = |of: &Self| of.0.get(name).cloned().unwrap_or_else(none);
            let (expected, found) = (value(self), value(found));
            if expected != found {
                return Err(Error::Checkpoint(format!(
                    "it belongs to another run: {name}: expected {expected}, found {found}"
                )));
            }
        }
        Ok(())
    }
}

/// The value of an input that is not given.
fn none() -> String {
    "none".to_owned()
}

fn image_digest(image: &RgbImage) -> String {
    format!("{}x{} {}", image.width(), image.height(), sha256(image.rgb()))
}

/// An adapter's file may change under its name, hence its content.
fn lora_digests(lora: &[LoraChoice]) -> String {
    let digests: Vec<String> =
        lora.iter().map(|LoraChoice { adapter, scale }| format!("{} x {scale}", adapter.digest())).collect();
    if digests.is_empty() { none() } else { digests.join(", ") }
}

fn tensor_digest(tensor: &Tensor) -> Result<String> {
    let tensor = &tensor.to_device(&Device::Cpu)?;
    Ok(format!("{} {:?} {}", tensor.dtype().as_str(), tensor.dims(), sha256(&View::data(&tensor))))
}

fn config_digest(config: &impl Serialize) -> Result<String> {
    let json = serde_json::to_vec(config).map_err(|e| Error::Checkpoint(e.to_string()))?;
    Ok(sha256(&json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_from_before_adapters_is_of_a_run_without_them() {
        let of = |values: &[(&str, &str)]| {
            Fingerprint(
                values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            )
        };
        let older = of(&[("seed", "5")]);
        of(&[("seed", "5"), ("lora", "none")]).check(&older).unwrap();
        let message = of(&[("seed", "5"), ("lora", "d1 x 1")]).check(&older).unwrap_err().to_string();
        assert!(message.contains("lora: expected d1 x 1, found none"), "{message}");
    }
}
