//! A chunk of time in pieces of a few frames.
//!
//! At full resolution a chunk is large, and most layers need it once: pieces are handed on one by one, and the memory of
//! each is free as soon as the last operation that reads it was asked for. Must not know the layers.

use device::Tensor;

use crate::Result;

/// A convolution reads two frames more than it writes, which have to be moved along with it: pieces of one would move
/// twice as much, larger ones take more memory.
const PIECE_FRAMES: usize = 2;

/// Pieces `[frames, height, width, channels]`, in order.
pub(super) struct Chunk(Vec<Tensor>);

impl Chunk {
    pub(super) fn new(pieces: Vec<Tensor>) -> Self {
        Self(pieces)
    }

    /// Of an odd number of frames the first one alone, as it is in all that changes their number.
    pub(super) fn split(video: &Tensor) -> Result<Self> {
        let frames = video.dims()[0];
        let mut pieces = Vec::with_capacity(frames.div_ceil(PIECE_FRAMES));
        let (mut first, mut count) = (0, frames % PIECE_FRAMES);
        while first < frames {
            count = if count == 0 { PIECE_FRAMES } else { count };
            pieces.push(video.slice(first, count)?);
            (first, count) = (first + count, 0);
        }
        Ok(Self(pieces))
    }

    /// Frames, height, width and channels.
    pub(super) fn size(&self) -> Result<[usize; 4]> {
        let mut size = [0; 4];
        for piece in &self.0 {
            let [frames, height, width, channels] = piece.dims_n("chunk")?;
            size = [size[0] + frames, height, width, channels];
        }
        Ok(size)
    }

    pub(super) fn pieces(&self) -> &[Tensor] {
        &self.0
    }

    /// Each piece with the chunk's frame that it begins with.
    pub(super) fn into_pieces(self) -> impl Iterator<Item = (usize, Tensor)> {
        self.0.into_iter().scan(0, |next, piece| {
            let first = *next;
            *next += piece.dims()[0];
            Some((first, piece))
        })
    }

    /// Pieces of two frames, of an odd number of them the first one alone.
    pub(super) fn into_pairs(self) -> Result<Self> {
        let [frames, height, width, channels] = self.size()?;
        let mut singles =
            self.0.into_iter().flat_map(|piece| (0..piece.dims()[0]).map(move |index| piece.slice(index, 1)));
        let mut pairs = Vec::with_capacity(frames.div_ceil(2));
        if frames % 2 == 1
            && let Some(first) = singles.next()
        {
            pairs.push(first?);
        }
        while let (Some(first), Some(second)) = (singles.next(), singles.next()) {
            let (first, second) = (first?, second?);
            let pair = Tensor::empty(first.device(), &[2, height, width, channels], first.dtype())?;
            pair.slice(0, 1)?.copy_from(&first)?;
            pair.slice(1, 1)?.copy_from(&second)?;
            pairs.push(pair);
        }
        Ok(Self(pairs))
    }

    /// All frames in one tensor.
    pub(super) fn join(self) -> Result<Tensor> {
        let size = self.size()?;
        let Some(first) = self.0.first() else {
            return Err(crate::Error::invalid("latents", "expected frames, found none"));
        };
        let whole = Tensor::empty(first.device(), &size, first.dtype())?;
        for (first, piece) in self.into_pieces() {
            whole.slice(first, piece.dims()[0])?.copy_from(&piece)?;
        }
        Ok(whole)
    }
}
