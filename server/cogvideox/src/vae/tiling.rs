//! Tiling: a large picture is coded in overlapping tiles, which are blended as diffusers blends them.
//!
//! Every tile has its own group norm statistics and convolution cache, so the result differs from coding the whole.
//! Relies on [`super::coder`]; must not know what a tile is coded by.

use std::collections::VecDeque;

use super::coder::{Area, Coder, Video, code};
use super::geometry::Geometry;
use super::progress::Progress;
use crate::ops::Rounding;
use crate::{Error, Result};

/// Tile sizes in pixels of the video, and how much neighbours overlap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tiling {
    /// The height of a tile; also the height up to which a video is not cut.
    pub tile_sample_min_height: usize,
    /// The width of a tile.
    pub tile_sample_min_width: usize,
    /// The part of a tile's height that the next one shares.
    pub tile_overlap_factor_height: f64,
    /// The part of a tile's width that the next one shares.
    pub tile_overlap_factor_width: f64,
}

impl Tiling {
    /// diffusers' defaults: half the size that the model was trained for, overlapping by a sixth and a fifth.
    pub(crate) fn for_sample_size(height: usize, width: usize) -> Self {
        Self {
            tile_sample_min_height: height / 2,
            tile_sample_min_width: width / 2,
            tile_overlap_factor_height: 1.0 / 6.0,
            tile_overlap_factor_width: 1.0 / 5.0,
        }
    }
}

/// The tiles along one axis.
struct Axis {
    /// The first input pixel of each tile.
    starts: Vec<usize>,
    /// Input pixels of a tile.
    tile: usize,
    /// Output pixels over which a tile fades in from the one before.
    blend: usize,
    /// Output pixels that a tile contributes at most.
    limit: usize,
}

impl Axis {
    /// The tiles of `len` input pixels: sizes by diffusers' formulas.
    fn new(
        [tile, output_tile]: [usize; 2],
        factor: f64,
        len: usize,
        spatial_ratio: usize,
        geometry: &impl Geometry,
    ) -> std::result::Result<Self, String> {
        if !(0.0..1.0).contains(&factor) {
            return Err("expected a factor of at least 0 and less than 1".to_owned());
        }
        let stride = (tile as f64 * (1.0 - factor)) as usize;
        let blend = (output_tile as f64 * factor) as usize;
        let limit = output_tile - blend;
        if stride == 0 || limit == 0 {
            return Err("expected tiles larger than their overlap, found nothing left".to_owned());
        }
        let starts: Vec<usize> = (0..len).step_by(stride).collect();
        // The tiles' outputs line up when a step in the input is as long as a tile's share of the output.
        let long_as_share = if geometry.decodes() {
            stride * spatial_ratio == limit
        } else {
            stride == limit * spatial_ratio
        };
        let in_line = starts.len() == 1 || long_as_share;
        let last = geometry.output_len(len - starts[starts.len() - 1]);
        let found = (starts.len() - 1) * limit + last.min(limit);
        if !in_line || found != geometry.output_len(len) || last == 0 {
            return Err(format!(
                "would give a video of the wrong size, as tiles that start every {stride} pixels contribute {limit} \
                 pixels each; expected an overlap that is a whole number of latent pixels"
            ));
        }
        Ok(Self { starts, tile, blend, limit })
    }
}

/// One tile.
pub(crate) struct Tile {
    /// Row and column among the tiles.
    pub(crate) place: [usize; 2],
    /// Its first row and column of the input.
    pub(crate) start: [usize; 2],
    /// Height and width in the input.
    pub(crate) size: [usize; 2],
}

/// The tiles of a picture.
pub(crate) struct Plan {
    rows: Axis,
    columns: Axis,
}

impl Plan {
    /// For a picture of `size` (height and width); `None` where it is small enough to be coded whole.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] for settings that would give a video of the wrong size.
    pub(crate) fn new(
        tiling: &Tiling,
        size: [usize; 2],
        spatial_ratio: usize,
        geometry: &impl Geometry,
    ) -> Result<Option<Self>> {
        let samples = [tiling.tile_sample_min_height, tiling.tile_sample_min_width];
        let factors = [tiling.tile_overlap_factor_height, tiling.tile_overlap_factor_width];
        let tiles = samples.map(|sample| {
            let latent = sample / spatial_ratio;
            if geometry.decodes() { [latent, sample] } else { [sample, latent] }
        });
        if (0..2).all(|axis| size[axis] <= tiles[axis][0]) {
            return Ok(None);
        }
        let axis = |axis: usize, name: &str| {
            let factor = factors[axis];
            Axis::new(tiles[axis], factor, size[axis], spatial_ratio, geometry).map_err(|message| {
                let sample = samples[axis];
                Error::invalid(
                    "tiling",
                    format!("tile {name} {sample} with overlap factor {factor}: {message}"),
                )
            })
        };
        Ok(Some(Self { rows: axis(0, "height")?, columns: axis(1, "width")? }))
    }

    /// The tiles of a picture of `size`, row by row.
    pub(crate) fn tiles(&self, size: [usize; 2]) -> impl Iterator<Item = Tile> {
        self.rows.starts.iter().enumerate().flat_map(move |(row, &top)| {
            self.columns.starts.iter().enumerate().map(move |(column, &left)| Tile {
                place: [row, column],
                start: [top, left],
                size: [self.rows.tile.min(size[0] - top), self.columns.tile.min(size[1] - left)],
            })
        })
    }

    /// Output pixels over which a tile fades in from the one above, and from the one to its left.
    pub(crate) fn blends(&self) -> [usize; 2] {
        [self.rows.blend, self.columns.blend]
    }

    /// Rows and columns that a tile contributes to the output at most.
    pub(crate) fn limits(&self) -> [usize; 2] {
        [self.rows.limit, self.columns.limit]
    }

    /// Multiply-adds of all tiles of a video of `[frames, height, width]`.
    pub(crate) fn work(&self, geometry: &impl Geometry, [frames, height, width]: [usize; 3]) -> u64 {
        self.tiles([height, width])
            .map(|Tile { size, .. }| geometry.video_work([frames, size[0], size[1]]))
            .sum()
    }

    /// Codes all tiles and puts them together.
    pub(super) fn code(
        &self,
        coder: &impl Coder,
        whole: Area<'_>,
        rounding: Rounding,
        progress: &mut Progress<'_>,
    ) -> Result<Video> {
        let (height, width) = (coder.output_len(whole.height), coder.output_len(whole.width));
        let mut output: Option<Video> = None;
        // The tiles of this row, and those right of the last one in the row above.
        let mut tiles: VecDeque<Video> = VecDeque::new();
        for Tile { place: [row, column], start: [top, left], size } in self.tiles([whole.height, whole.width])
        {
            let area = Area { top, left, height: size[0], width: size[1], ..whole };
            let mut tile = code(coder, area, progress)?;
            // The neighbours are blended already when a tile fades in from them: diffusers does it in place.
            if row > 0 {
                let above = tiles.pop_front().expect("the row above has as many tiles");
                blend_down(&above, &mut tile, self.rows.blend, rounding);
            }
            if column > 0 {
                let before = tiles.back().expect("a tile stands before this one in its row");
                blend_right(before, &mut tile, self.columns.blend, rounding);
            }
            let output =
                output.get_or_insert_with(|| Video::zeros(tile.channels, tile.frames, height, width));
            paste(
                &tile,
                output,
                [row * self.rows.limit, column * self.columns.limit],
                [self.rows.limit, self.columns.limit],
            );
            tiles.push_back(tile);
        }
        Ok(output.expect("a plan has at least one tile"))
    }
}

/// `before * (1 - t) + after * t`, rounding where torch rounds.
fn fade(before: f32, after: f32, index: usize, extent: usize, rounding: Rounding) -> f32 {
    let t = index as f64 / extent as f64;
    let (from, to) = ((1.0 - t) as f32, t as f32);
    rounding.round(rounding.round(before * from) + rounding.round(after * to))
}

/// Fades the first rows of `tile` in from the last rows of the tile above.
fn blend_down(above: &Video, tile: &mut Video, extent: usize, rounding: Rounding) {
    let extent = extent.min(above.height).min(tile.height);
    let width = tile.width;
    let planes =
        above.data.chunks_exact(above.height * width).zip(tile.data.chunks_exact_mut(tile.height * width));
    for (above_plane, plane) in planes {
        let last_rows = &above_plane[(above.height - extent) * width..];
        for (index, (before, after)) in last_rows.iter().zip(plane).enumerate() {
            *after = fade(*before, *after, index / width, extent, rounding);
        }
    }
}

/// Fades the first columns of `tile` in from the last columns of the tile to its left.
fn blend_right(left: &Video, tile: &mut Video, extent: usize, rounding: Rounding) {
    let extent = extent.min(left.width).min(tile.width);
    let rows = left.data.chunks_exact(left.width).zip(tile.data.chunks_exact_mut(tile.width));
    for (left_row, row) in rows {
        let last_columns = &left_row[left.width - extent..];
        for (index, (before, after)) in last_columns.iter().zip(row).enumerate() {
            *after = fade(*before, *after, index, extent, rounding);
        }
    }
}

/// Copies the first `limits` rows and columns of a tile to `place` in the whole.
fn paste(tile: &Video, whole: &mut Video, place: [usize; 2], limits: [usize; 2]) {
    let (height, width) = (tile.height.min(limits[0]), tile.width.min(limits[1]));
    let planes = tile
        .data
        .chunks_exact(tile.height * tile.width)
        .zip(whole.data.chunks_exact_mut(whole.height * whole.width));
    for (plane, whole_plane) in planes {
        for y in 0..height {
            let from = &plane[y * tile.width..][..width];
            whole_plane[(place[0] + y) * whole.width + place[1]..][..width].copy_from_slice(from);
        }
    }
}
