//! What encoding and decoding have in common: chunks of time, and tiles that are faded into each other.
//!
//! What comes out is handed on piece by piece, so that a whole video never has to be on the device. Relies on a
//! [`Coder`] for the layers; must not know what they are, or what becomes of the pieces.

use std::collections::VecDeque;

use device::Tensor;
use device::ops::layout;
use device::ops::video::{Side, fade_in_place};

use super::layers::{ConvCache, Run};
use crate::Result;
use crate::vae::{Geometry, Plan, Progress, Tile};

/// The encoder or the decoder.
pub(super) trait Coder: Geometry {
    /// Runs the layers over a chunk.
    fn forward(&self, chunk: &Tensor, run: &mut Run<'_, '_>) -> Result<Tensor>;
}

/// Takes pieces of the output, with their first frame, row and column.
pub(super) type Emit<'a> = &'a mut dyn FnMut(&Tensor, [usize; 3]) -> Result<()>;

/// Codes a video `[frames, height, width, channels]`, chunk by chunk.
pub(super) fn code(
    coder: &impl Coder,
    input: &Tensor,
    progress: &mut Progress<'_>,
    emit: Emit<'_>,
) -> Result<()> {
    let lens = coder.chunk_lens(input.dims()[0]);
    let mut cache = ConvCache::default();
    let (mut first, mut output_first) = (0, 0);
    for (index, &len) in lens.iter().enumerate() {
        let mut run = Run { cache: &mut cache, progress, fill_cache: index + 1 < lens.len() };
        let output = coder.forward(&input.slice(first, len)?, &mut run)?;
        emit(&output, [output_first, 0, 0])?;
        first += len;
        output_first += output.dims()[0];
    }
    Ok(())
}

/// Codes a video in tiles.
pub(super) fn code_tiles(
    coder: &impl Coder,
    plan: &Plan,
    input: &Tensor,
    progress: &mut Progress<'_>,
    emit: Emit<'_>,
) -> Result<()> {
    let [_, height, width, _] = input.dims_n("tiles")?;
    let ([blend_down, blend_right], limits) = (plan.blends(), plan.limits());
    // The tiles of this row, and those right of the last one in the row above.
    let mut tiles: VecDeque<Tensor> = VecDeque::new();
    for Tile { place: [row, column], start, size } in plan.tiles([height, width]) {
        let tile = code_tile(coder, &layout::crop(input, start, size)?, progress)?;
        // The neighbours are blended already when a tile fades in from them: diffusers does it in place.
        if row > 0
            && let Some(above) = tiles.pop_front()
        {
            fade_in_place(&above, &tile, Side::Above, blend_down)?;
        }
        if column > 0
            && let Some(before) = tiles.back()
        {
            fade_in_place(before, &tile, Side::Left, blend_right)?;
        }
        let [_, tile_height, tile_width, _] = tile.dims_n("tiles")?;
        let size = [tile_height.min(limits[0]), tile_width.min(limits[1])];
        emit(&layout::crop(&tile, [0, 0], size)?, [0, row * limits[0], column * limits[1]])?;
        tiles.push_back(tile);
    }
    Ok(())
}

/// Codes one tile into one tensor.
fn code_tile(coder: &impl Coder, input: &Tensor, progress: &mut Progress<'_>) -> Result<Tensor> {
    let [frames, height, width, _] = input.dims_n("tile")?;
    let [frames, height, width] = coder.output_size([frames, height, width]);
    let dims = [frames, height, width, coder.channels()[1]];
    let tile = Tensor::empty(input.device(), &dims, input.dtype())?;
    code(coder, input, progress, &mut |chunk, [first, ..]| {
        tile.slice(first, chunk.dims()[0])?.copy_from(chunk)?;
        // Progress is told where the device is, not where the host runs ahead to; so is an interruption.
        Ok(chunk.device().synchronize()?)
    })?;
    Ok(tile)
}
