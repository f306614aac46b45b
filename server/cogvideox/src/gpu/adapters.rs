//! Adapters on a device: two thin matrices beside each layer that one changes.
//!
//! The layers' own weights stay as they are, so that adapters change without loading a model again, and work with
//! weights of 8 bits and with streamed ones. The matrices are uploaded when other adapters or strengths are asked for
//! than the last time, and stay on the device until then. Must not know what a layer computes.

use candle_core::DType;
use device::Device;
use device::ops::linear::LowRank;

use super::source::dtype_of;
use crate::Result;
use crate::lora::{self, LoraChoice, LoraTarget};

/// What is added beside one block's layers.
#[derive(Default)]
pub(super) struct BlockAdapters {
    /// Queries, keys and values are one layer here.
    pub(super) to_qkv: Option<LowRank>,
    pub(super) to_out: Option<LowRank>,
    pub(super) ff_in: Option<LowRank>,
    pub(super) ff_out: Option<LowRank>,
}

/// The adapters of a run.
pub(super) struct Adapters {
    /// Digest and scale of each; no two floats of the same bits differ in strength.
    id: Vec<(String, u64)>,
    blocks: Vec<BlockAdapters>,
}

fn id(choices: &[LoraChoice]) -> Vec<(String, u64)> {
    choices.iter().map(|choice| (choice.adapter.digest().to_owned(), choice.scale.to_bits())).collect()
}

impl Adapters {
    /// None, of a model with `num_layers` blocks.
    pub(super) fn none(num_layers: usize) -> Self {
        let blocks = std::iter::repeat_with(BlockAdapters::default).take(num_layers).collect();
        Self { id: Vec::new(), blocks }
    }

    /// Becomes `choices`, unless it is that already; what it was is given back before.
    ///
    /// # Errors
    /// Those of the device's memory, after which it is none.
    pub(super) fn set(&mut self, choices: &[LoraChoice], dtype: DType, device: &Device) -> Result<()> {
        let id = id(choices);
        if self.id == id {
            return Ok(());
        }
        let num_layers = self.blocks.len();
        *self = Self::none(num_layers);
        let blocks = (0..num_layers).map(|block| BlockAdapters::upload(choices, block, dtype, device));
        *self = Self { blocks: blocks.collect::<Result<_>>()?, id };
        Ok(())
    }

    /// Those of block `index`.
    pub(super) fn block(&self, index: usize) -> &BlockAdapters {
        &self.blocks[index]
    }
}

impl BlockAdapters {
    fn upload(choices: &[LoraChoice], block: usize, dtype: DType, device: &Device) -> Result<Self> {
        let dtype = dtype_of(dtype)?;
        let side = |targets: &[LoraTarget]| -> Result<Option<LowRank>> {
            let Some(factors) = lora::factors(choices, block, targets)? else { return Ok(None) };
            let matrices = [&factors.down[..], &factors.up];
            Ok(Some(LowRank::from_f32(device, dtype, factors.rank, matrices)?))
        };
        Ok(Self {
            to_qkv: side(&[LoraTarget::ToQ, LoraTarget::ToK, LoraTarget::ToV])?,
            to_out: side(&[LoraTarget::ToOut])?,
            ff_in: side(&[LoraTarget::FeedForwardIn])?,
            ff_out: side(&[LoraTarget::FeedForwardOut])?,
        })
    }
}
