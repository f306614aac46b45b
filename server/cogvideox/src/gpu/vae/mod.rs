//! `AutoencoderKLCogVideoX` on a device.
//!
//! The same function as [`crate::vae`], from the same files, chunk by chunk; pictures leave the device as soon as they
//! are there, as bytes where bytes are wanted. Relies on the device's operations; must not know the pipeline: scaling
//! factors are the caller's to apply.

mod canvas;
mod causal;
mod chunk;
mod coder;
mod decoder;
mod encoder;
mod layers;
mod resample;

use std::path::Path;

use candle_core::{DType, Device as HostDevice, Tensor as HostTensor};
use device::ops::{layout, video};
use device::{Device, Tensor};

use self::canvas::Canvas;
use self::coder::{Coder, Emit, code, code_tiles};
use self::decoder::Decoder;
use self::encoder::Encoder;
use super::source::{Source, dtype_of};
use super::transfer::to_device;
use crate::pipeline::{Autoencoder, VideoFrames};
use crate::vae::{Check, Geometry, Plan, Progress, Tiling, VaeConfig, input_dims, split_moments};
use crate::weights::DIFFUSERS_STEM;
use crate::{Error, Result};

/// Given the index of a video in the batch, a piece of it, and where in the video the piece begins.
type EmitOfBatch<'a> = &'a mut dyn FnMut(usize, &Tensor, [usize; 3]) -> Result<()>;

/// The autoencoder with its weights on a device.
pub struct GpuVae {
    config: VaeConfig,
    /// Of the encoder, which is on the device only while it encodes: no prompt needs it, a picture once.
    source: Source,
    decoder: Decoder,
    dtype: DType,
    device: Device,
}

/// What is coded, and how.
struct Task<'a> {
    input: &'a HostTensor,
    /// What the caller calls the input.
    name: &'static str,
    tiling: Option<&'a Tiling>,
}

impl GpuVae {
    /// Loads `dir`, the pipeline's `vae` folder, to compute in `dtype` (f32, f16 or bf16).
    ///
    /// # Errors
    /// Those of [`crate::vae::AutoencoderKlCogVideoX::load`]; [`Error::Device`].
    pub fn open(dir: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let config = VaeConfig::load(&dir.join("config.json"))?;
        Self::load(config, &Source::open(dir, DIFFUSERS_STEM, device)?, dtype, device)
    }

    /// # Errors
    /// Those of the weights, and of the device's memory.
    pub(crate) fn load(config: VaeConfig, source: &Source, dtype: DType, device: &Device) -> Result<Self> {
        let root = source.root(dtype, device);
        // What is wrong with its files is to be known now.
        drop(Encoder::load(&root.pp("encoder"), &config)?);
        let decoder = Decoder::load(&root.pp("decoder"), &config)?;
        source.finish()?;
        Ok(Self { config, source: source.clone(), decoder, dtype, device: device.clone() })
    }

    /// Codes every video of a batch; `emit` is given the index of the video, too.
    fn code(
        &self,
        coder: &impl Coder,
        task: &Task<'_>,
        check: Check<'_>,
        emit: EmitOfBatch<'_>,
    ) -> Result<()> {
        let [batch, channels, frames, height, width] = input_dims(coder, self.dtype, task.input, task.name)?;
        let ratio = self.config.spatial_compression_ratio();
        let plan = match task.tiling {
            Some(tiling) => Plan::new(tiling, [height, width], ratio, coder)?,
            None => None,
        };
        let size = [frames, height, width];
        let work = plan.as_ref().map_or_else(|| coder.video_work(size), |plan| plan.work(coder, size));
        let mut progress = Progress::new(work * batch as u64, check);
        for index in 0..batch {
            let video = to_device(&task.input.narrow(0, index, 1)?, &self.device)?;
            let video =
                layout::channels_last(&video, channels)?.reshape(&[frames, height, width, channels])?;
            let emit: Emit<'_> = &mut |piece, place| emit(index, piece, place);
            match &plan {
                Some(plan) => code_tiles(coder, plan, &video, &mut progress, emit)?,
                None => code(coder, &video, &mut progress, emit)?,
            }
        }
        Ok(())
    }

    /// Codes to a tensor of the host, `(batch, channels, frames, height, width)`.
    fn code_to_host(&self, coder: &impl Coder, task: &Task<'_>, check: Check<'_>) -> Result<HostTensor> {
        let [batch, _, frames, height, width] = input_dims(coder, self.dtype, task.input, task.name)?;
        let channels = coder.channels()[1];
        let size = coder.output_size([frames, height, width]);
        let mut canvas = Canvas::new(batch * channels, size, dtype_of(self.dtype)?.bytes());
        self.code(coder, task, check, &mut |index, piece, place| {
            let [t, h, w, _] = piece.dims_n("piece")?;
            let planes = layout::channels_first(&piece.reshape(&[1, t, h, w, channels])?, channels)?;
            canvas.paste(&planes.to_bytes()?, index * channels, place, [t, h, w]);
            Ok(())
        })?;
        let dims = [batch, channels, size[0], size[1], size[2]];
        Ok(HostTensor::from_raw_buffer(&canvas.into_data(), self.dtype, &dims, &HostDevice::Cpu)?)
    }

    /// Pictures for latents `z` (batch, channels, frames, height, width), in the same layout.
    ///
    /// # Errors
    /// Those of [`crate::vae::AutoencoderKlCogVideoX::decode`]; [`Error::Device`].
    pub fn decode(&self, z: &HostTensor, tiling: Option<&Tiling>, check: Check<'_>) -> Result<HostTensor> {
        self.code_to_host(&self.decoder, &Task { input: z, name: "latents", tiling }, check)
    }

    /// The same, of one video, as 8-bit frames, which are made on the device.
    ///
    /// # Errors
    /// Those of [`Self::decode`].
    pub fn decode_frames(
        &self,
        z: &HostTensor,
        tiling: Option<&Tiling>,
        check: Check<'_>,
    ) -> Result<VideoFrames> {
        let task = Task { input: z, name: "latents", tiling };
        let [batch, _, frames, height, width] = input_dims(&self.decoder, self.dtype, z, task.name)?;
        if batch != 1 {
            return Err(Error::invalid(task.name, format!("expected one video, found {batch}")));
        }
        let size = self.decoder.output_size([frames, height, width]);
        let mut canvas = Canvas::new(1, size, 3);
        self.code(&self.decoder, &task, check, &mut |_, piece, place| {
            let [t, h, w, _] = piece.dims_n("piece")?;
            canvas.paste(&video::rgb(piece)?.to_bytes()?, 0, place, [t, h, w]);
            Ok(())
        })?;
        let [num_frames, height, width] = size;
        Ok(VideoFrames { rgb: canvas.into_data(), num_frames, height, width })
    }

    /// Mean and logarithm of the variance of the latents of `x` (batch, channels, frames, height, width).
    ///
    /// # Errors
    /// Those of [`crate::vae::AutoencoderKlCogVideoX::encode`]; [`Error::Device`].
    pub fn encode(
        &self,
        x: &HostTensor,
        tiling: Option<&Tiling>,
        check: Check<'_>,
    ) -> Result<(HostTensor, HostTensor)> {
        let task = Task { input: x, name: "sample", tiling };
        let encoder = Encoder::load(&self.source.root(self.dtype, &self.device).pp("encoder"), &self.config)?;
        split_moments(&self.code_to_host(&encoder, &task, check)?, self.config.latent_channels)
    }
}

impl Autoencoder for GpuVae {
    fn config(&self) -> &VaeConfig {
        &self.config
    }

    fn decode(&self, z: &HostTensor, tiling: Option<&Tiling>, check: Check<'_>) -> Result<HostTensor> {
        self.decode(z, tiling, check)
    }

    fn decode_frames(
        &self,
        z: &HostTensor,
        tiling: Option<&Tiling>,
        check: Check<'_>,
    ) -> Result<VideoFrames> {
        self.decode_frames(z, tiling, check)
    }

    fn encode(
        &self,
        x: &HostTensor,
        tiling: Option<&Tiling>,
        check: Check<'_>,
    ) -> Result<(HostTensor, HostTensor)> {
        self.encode(x, tiling, check)
    }
}

#[cfg(test)]
mod tests {
    use device::Capability;

    use super::*;
    use crate::gpu::counting_device;

    /// Bytes of weights, and of tensors at most beside them, of decoding 49 frames of 720 x 480 in bf16.
    fn decoding_bytes(tiled: bool) -> [usize; 2] {
        let device = counting_device(Capability::HOPPER);
        let vae = GpuVae::load(VaeConfig::default(), &Source::Random, DType::BF16, &device).unwrap();
        let weights = device.usage().used_bytes;
        device.reset_peak();
        let z = HostTensor::zeros((1, 16, 13, 60, 90), DType::BF16, &HostDevice::Cpu).unwrap();
        let tiling = tiled.then(|| vae.default_tiling());
        let frames = vae.decode_frames(&z, tiling.as_ref(), &mut |_| Ok(())).unwrap();
        assert_eq!([frames.num_frames, frames.height, frames.width], [49, 480, 720]);
        assert_eq!(device.usage().used_bytes, weights, "nothing stays");
        [weights, device.usage().peak_bytes - weights]
    }

    #[test]
    fn a_video_of_the_models_own_size_needs_no_more_memory_than_planned() {
        // 64 of them may be a library's workspace.
        for (tiled, most_mib) in [(false, 6130), (true, 1670)] {
            let [_, most] = decoding_bytes(tiled).map(|bytes| bytes >> 20);
            assert!(most <= most_mib, "tiled {tiled}: {most} MiB");
        }
    }
}
