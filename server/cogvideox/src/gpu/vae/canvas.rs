//! A video on the host that is put together from pieces of a device's.
//!
//! Knows sizes and bytes; must not know what pixels mean.

/// For each plane, frame and row its pixels, of so many bytes.
pub(super) struct Canvas {
    /// Frames, height and width.
    size: [usize; 3],
    pixel_bytes: usize,
    data: Vec<u8>,
}

impl Canvas {
    pub(super) fn new(planes: usize, size: [usize; 3], pixel_bytes: usize) -> Self {
        let len = planes * size.iter().product::<usize>() * pixel_bytes;
        Self { size, pixel_bytes, data: vec![0; len] }
    }

    /// Overwrites a box of `size` from frame, row and column `place` on, in as many planes from `first` on as `piece`
    /// has.
    pub(super) fn paste(&mut self, piece: &[u8], first: usize, place: [usize; 3], size: [usize; 3]) {
        let row_bytes = size[2] * self.pixel_bytes;
        for (index, row) in piece.chunks_exact(row_bytes).enumerate() {
            let (plane, frame, y) =
                (first + index / (size[0] * size[1]), index / size[1] % size[0], index % size[1]);
            let line = (plane * self.size[0] + place[0] + frame) * self.size[1] + place[1] + y;
            let start = (line * self.size[2] + place[2]) * self.pixel_bytes;
            self.data[start..start + row_bytes].copy_from_slice(row);
        }
    }

    pub(super) fn into_data(self) -> Vec<u8> {
        self.data
    }
}
