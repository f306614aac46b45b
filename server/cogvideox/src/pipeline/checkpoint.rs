//! The state of the denoising loop as a file, and back.
//!
//! A safetensors file with the SHA-256 of its bytes behind it. The tensors are the latents, DPM's last estimate of the
//! clean latents and the generator's words; everything else stands as one JSON text in the file's metadata. Floating
//! point numbers are kept as bits. Relies on [`Fingerprint`] for which run it belongs to; must not know where a
//! checkpoint is stored.

use std::collections::HashMap;

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::SafeTensors;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::fingerprint::Fingerprint;
use super::state::LoopState;
use super::{CogVideoXPipeline, Run};
use crate::digest::hex;
use crate::noise::Generator;
use crate::scheduler::{SchedulerKind, SchedulerState};
use crate::{Error, Result};

/// Of the layout described above.
const VERSION: u32 = 1;
/// The metadata's one key, which also tells our files from other safetensors.
const HEADER_KEY: &str = "cogvideox-checkpoint";
const DIGEST_BYTES: usize = 32;

const LATENTS: &str = "latents";
const OLD_PRED_ORIGINAL_SAMPLE: &str = "old_pred_original_sample";
const GENERATOR: &str = "generator";

/// What is not a tensor.
#[derive(Debug, Deserialize, Serialize)]
struct Header {
    version: u32,
    step: usize,
    previous_timestep: Option<usize>,
    generator_used: usize,
    generator_cached_normal_bits: Option<u64>,
    run: Fingerprint,
}

/// Only the key that later versions will have too.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A whole checkpoint of a known version; whether it belongs to a run, [`CogVideoXPipeline::generate`] finds out.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    fingerprint: Fingerprint,
    state: LoopState,
}

/// The file for `state`.
pub(super) fn to_bytes(state: &LoopState, fingerprint: Fingerprint) -> Result<Vec<u8>> {
    let (words, used, cached_normal) = state.generator.parts();
    let header = Header {
        version: VERSION,
        step: state.step,
        previous_timestep: state.scheduler.previous_timestep,
        generator_used: used,
        generator_cached_normal_bits: cached_normal.map(f64::to_bits),
        run: fingerprint,
    };
    let header = serde_json::to_string(&header).map_err(|e| Error::Checkpoint(e.to_string()))?;
    let mut tensors = vec![
        (LATENTS, state.latents.to_device(&Device::Cpu)?),
        (GENERATOR, Tensor::from_slice(words, words.len(), &Device::Cpu)?),
    ];
    if let Some(old) = &state.scheduler.old_pred_original_sample {
        tensors.push((OLD_PRED_ORIGINAL_SAMPLE, old.to_device(&Device::Cpu)?));
    }
    let metadata = HashMap::from([(HEADER_KEY.to_owned(), header)]);
    let mut bytes = safetensors::serialize(tensors, Some(metadata))
        .map_err(|e| Error::Checkpoint(format!("not writable: {e}")))?;
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    Ok(bytes)
}

impl Checkpoint {
    /// Reads what [`super::DenoiseState::checkpoint`] wrote.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a file that is truncated, altered, not a checkpoint, or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let content = verified(bytes)?;
        let (_, metadata) = SafeTensors::read_metadata(content).map_err(foreign)?;
        let header = metadata.metadata().as_ref().and_then(|metadata| metadata.get(HEADER_KEY));
        let header = header.ok_or_else(|| foreign(format!("no {HEADER_KEY} in its metadata")))?;
        let Version { version } = serde_json::from_str(header).map_err(foreign)?;
        if version != VERSION {
            return Err(Error::Checkpoint(format!("expected version {VERSION}, found {version}")));
        }
        let header: Header = serde_json::from_str(header).map_err(foreign)?;
        let tensors = SafeTensors::deserialize(content).map_err(foreign)?;
        Ok(Self { state: state(&header, &tensors)?, fingerprint: header.run })
    }

    /// How many steps lie behind it.
    pub fn step(&self) -> usize {
        self.state.step
    }
}

/// The bytes before the digest, if the digest is theirs.
fn verified(bytes: &[u8]) -> Result<&[u8]> {
    let Some((content, digest)) = bytes.split_last_chunk::<DIGEST_BYTES>() else {
        let found = bytes.len();
        return Err(Error::Checkpoint(format!("expected more than {DIGEST_BYTES} bytes, found {found}")));
    };
    let expected = Sha256::digest(content);
    if expected[..] != digest[..] {
        return Err(Error::Checkpoint(format!(
            "truncated, altered or no checkpoint: expected the SHA-256 {} at the end of {} bytes, found {}",
            hex(&expected),
            bytes.len(),
            hex(digest)
        )));
    }
    Ok(content)
}

fn foreign(problem: impl std::fmt::Display) -> Error {
    Error::Checkpoint(format!("whole, but not one of this server's checkpoints: {problem}"))
}

fn state(header: &Header, tensors: &SafeTensors<'_>) -> Result<LoopState> {
    let tensor = |name: &str| -> Result<Tensor> {
        tensors.tensor(name).map_err(foreign)?.load(&Device::Cpu).map_err(foreign)
    };
    let has_old = tensors.names().contains(&OLD_PRED_ORIGINAL_SAMPLE);
    let words = tensor(GENERATOR)?;
    let words = words.to_vec1().map_err(foreign)?;
    let cached_normal = header.generator_cached_normal_bits.map(f64::from_bits);
    let used = header.generator_used;
    let generator = Generator::from_parts(&words, used, cached_normal).ok_or_else(|| {
        foreign(format!("a generator with {used} of {} words used, expected at most 624 of 624", words.len()))
    })?;
    Ok(LoopState {
        step: header.step,
        latents: tensor(LATENTS)?,
        scheduler: SchedulerState {
            old_pred_original_sample: has_old.then(|| tensor(OLD_PRED_ORIGINAL_SAMPLE)).transpose()?,
            previous_timestep: header.previous_timestep,
        },
        generator,
    })
}

impl CogVideoXPipeline {
    /// The checkpoint's state, if it is one that this run passes through.
    pub(super) fn resume(&self, checkpoint: &Checkpoint, run: &Run<'_>) -> Result<LoopState> {
        Fingerprint::of(self, run.params)?.check(&checkpoint.fingerprint)?;
        let mut state = checkpoint.state.clone();
        self.check_state(&state, run)?;
        state.latents = state.latents.to_device(&self.device)?;
        let old = &mut state.scheduler.old_pred_original_sample;
        *old = old.take().map(|old| old.to_device(&self.device)).transpose()?;
        Ok(state)
    }

    /// Whole and of this run, it may still have been written by a faulty program.
    fn check_state(&self, state: &LoopState, run: &Run<'_>) -> Result<()> {
        let timesteps = run.schedule.timesteps();
        if !(1..=timesteps.len()).contains(&state.step) {
            return Err(expected("step", format_args!("1 to {}", timesteps.len()), state.step));
        }
        let (timestep, old_dtype) = match run.params.scheduler {
            SchedulerKind::Ddim => (None, None),
            SchedulerKind::Dpm => (Some(timesteps[state.step - 1]), Some(DType::F32)),
        };
        if state.scheduler.previous_timestep != timestep {
            let found = format!("{:?}", state.scheduler.previous_timestep);
            return Err(expected("previous_timestep", format!("{timestep:?}"), found));
        }
        let dims = run.shape.dims();
        let of = |tensor: &Tensor| format!("{:?} {:?}", tensor.dtype(), tensor.dims());
        let check = |name: &str, dtype: Option<DType>, tensor: Option<&Tensor>| {
            let wanted = dtype.map(|dtype| format!("{dtype:?} {dims:?}"));
            let found = tensor.map(of);
            if wanted == found {
                return Ok(());
            }
            let none = || "none".to_owned();
            Err(expected(name, wanted.unwrap_or_else(none), found.unwrap_or_else(none)))
        };
        check(LATENTS, Some(self.dtype), Some(&state.latents))?;
        check(OLD_PRED_ORIGINAL_SAMPLE, old_dtype, state.scheduler.old_pred_original_sample.as_ref())
    }
}

fn expected(what: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
    Error::Checkpoint(format!("{what}: expected {expected}, found {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_normal_number_is_kept_to_the_bit() {
        // No run leaves one waiting, as latents take the path of 16 elements and more; a later one might.
        let pipeline = CogVideoXPipeline::demo(DType::F32, &Device::Cpu).unwrap();
        let latents = Tensor::zeros((1, 1, 16, 2, 2), DType::F32, &Device::Cpu).unwrap();
        let mut generator = Generator::seed(5);
        generator.randn(7, DType::F32).unwrap();
        let params = crate::GenerationParams {
            prompt: String::new(),
            negative_prompt: String::new(),
            image: None,
            height: 16,
            width: 16,
            num_frames: 1,
            num_inference_steps: 1,
            guidance_scale: 1.0,
            use_dynamic_cfg: false,
            scheduler: SchedulerKind::Ddim,
            seed: 5,
            vae_tiling: false,
            initial_latents: None,
            lora: Vec::new(),
        };
        let state = LoopState { step: 1, ..LoopState::new(latents, generator.clone()) };
        let bytes = to_bytes(&state, Fingerprint::of(&pipeline, &params).unwrap()).unwrap();
        let mut resumed = Checkpoint::from_bytes(&bytes).unwrap().state.generator;
        let next = |generator: &mut Generator| {
            generator.randn(2000, DType::F64).unwrap();
            generator.randn(3, DType::F64).unwrap().to_vec1::<f64>().unwrap()
        };
        assert_eq!(next(&mut resumed), next(&mut generator));
    }
}
