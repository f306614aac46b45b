//! The pipeline's models on a GPU, or on what stands in for one.
//!
//! The same functions as the modules of the same names above, from the same files, through the operations of the
//! `device` crate. Tensors cross to the host at the seams of the pipeline only. Must not know how a device
//! computes, or anything of requests.

mod adapters;
pub mod bench;
mod block;
pub(crate) mod demand;
mod embedding;
mod load;
mod plan;
mod preset;
pub mod quality;
mod source;
mod streaming;
mod tables;
mod text_encoder;
mod transfer;
mod transformer;
mod vae;

use device::ops::linear::EightBit;

pub(crate) use self::load::Configs;
pub use self::load::{GpuOptions, Placement};
pub use self::plan::{
    ChosenPlan, DeviceMemory, FreeMemory, Job, MemoryPlan, Needs, Planner, Plans, counting_device,
};
pub use self::preset::Preset;
pub use self::streaming::Residence;
pub use self::transformer::GpuTransformer;
pub use self::vae::GpuVae;

/// How the linear layers of the transformer's blocks hold their weights. Norms, embeddings and the first and last
/// projections keep the pipeline's dtype, as in the published quantised models (torchao's and the model card's).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// In the pipeline's dtype.
    #[default]
    Dense,
    /// Signed bytes, each output channel with a scale; activations are quantised row by row.
    Int8,
    /// Signed bytes, widened for the product: the least memory at the pipeline's precision of activations.
    Int8WeightOnly,
    /// e4m3, each output channel with a scale; activations are quantised row by row.
    Fp8,
}

impl Precision {
    /// As configurations and commands call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Int8 => "int8",
            Self::Int8WeightOnly => "int8-weight-only",
            Self::Fp8 => "fp8",
        }
    }

    /// None for weights in the model's dtype.
    pub(crate) fn eight_bit(self) -> Option<EightBit> {
        match self {
            Self::Dense => None,
            Self::Int8 => Some(EightBit::Int8),
            Self::Int8WeightOnly => Some(EightBit::Int8WeightOnly),
            Self::Fp8 => Some(EightBit::Fp8),
        }
    }
}
