//! Stand-in until the device's VAE is there: the CPU's.

use candle_core::{DType, Tensor};
use device::Device;

use super::source::Source;
use crate::pipeline::Autoencoder;
use crate::vae::{AutoencoderKlCogVideoX, Check, Tiling, VaeConfig};
use crate::{Error, Result};

pub(crate) struct GpuVae(AutoencoderKlCogVideoX);

impl GpuVae {
    pub(crate) fn load(config: VaeConfig, source: &Source, dtype: DType, device: &Device) -> Result<Self> {
        let root = source.root(dtype, device);
        let files = root.files().ok_or_else(|| Error::invalid("vae", "no files"))?;
        let vae = AutoencoderKlCogVideoX::from_weights(config, files)?;
        source.finish()?;
        Ok(Self(vae))
    }
}

impl Autoencoder for GpuVae {
    fn config(&self) -> &VaeConfig {
        self.0.config()
    }

    fn decode(&self, z: &Tensor, tiling: Option<&Tiling>, check: Check<'_>) -> Result<Tensor> {
        self.0.decode(z, tiling, check)
    }

    fn encode(&self, x: &Tensor, tiling: Option<&Tiling>, check: Check<'_>) -> Result<(Tensor, Tensor)> {
        self.0.encode(x, tiling, check)
    }
}
