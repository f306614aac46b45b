//! [`Frames`]: the decoded clip as the pipeline hands it over. Knows its own shape and nothing of codecs.

use crate::{Error, Result};

/// A clip of 8-bit RGB frames, laid out `(count, height, width, 3)`; the shape is checked on construction.
#[derive(Clone, PartialEq, Eq)]
pub struct Frames {
    rgb: Vec<u8>,
    width: u32,
    height: u32,
    count: u32,
}

impl Frames {
    /// Takes a `(count, height, width, 3)` buffer of sRGB bytes.
    ///
    /// # Errors
    /// [`Error::EmptyClip`] when a dimension is zero, [`Error::FrameBytes`] when the buffer has another length
    /// than the shape says.
    pub fn new(rgb: Vec<u8>, width: u32, height: u32, count: u32) -> Result<Self> {
        check_shape(&rgb, width, height, count)?;
        Ok(Self { rgb, width, height, count })
    }

    /// Width of every frame in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height of every frame in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Number of frames, at least 1.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// All bytes, `(count, height, width, 3)`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The frames in order, each `(height, width, 3)`.
    pub fn iter(&self) -> std::slice::ChunksExact<'_, u8> {
        self.rgb.chunks_exact(self.rgb.len() / self.count as usize)
    }
}

/// Refuses a buffer that is not `(count, height, width, 3)`, with what [`Frames::new`] says of it.
pub(crate) fn check_shape(rgb: &[u8], width: u32, height: u32, count: u32) -> Result<()> {
    if width == 0 || height == 0 || count == 0 {
        return Err(Error::EmptyClip { width, height, count });
    }
    // u128: three u32 factors times 3 can exceed 64 bits, and a wrapped product could match a short buffer.
    let expected = u128::from(width) * u128::from(height) * u128::from(count) * 3;
    if expected != rgb.len() as u128 {
        return Err(Error::FrameBytes { width, height, count, expected, found: rgb.len() });
    }
    Ok(())
}

impl<'a> IntoIterator for &'a Frames {
    type Item = &'a [u8];
    type IntoIter = std::slice::ChunksExact<'a, u8>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::fmt::Debug for Frames {
    /// The shape only: the bytes of a clip would fill a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames")
            .field("width", &self.width)
            .field("height", &self.height)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}
