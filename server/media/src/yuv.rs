//! RGB to I420 (planar 4:2:0), BT.709 matrix, limited range, rounded to nearest; and the tags that say so.
//!
//! BT.709 because the frames are sRGB, whose primaries are BT.709's: tagging BT.601 would also name SMPTE 170M
//! primaries, and a colour-managed player would shift every colour. The encoder crate's own conversion is BT.601
//! and truncates, hence this one. The tags live here, beside the arithmetic they describe; the H.264 and MP4
//! modules only write them down.

/// ITU-T H.273 code points of what [`I420::fill`] does: primaries, transfer and matrix are all "1" (BT.709).
pub(crate) const BT709_CODE_POINT: u16 = 1;

const KR: f64 = 0.2126;
const KB: f64 = 0.0722;
const KG: f64 = 1.0 - KR - KB;

/// Bits behind the binary point in the luma coefficients; chroma has 3 more, because its filter sums to 8.
const LUMA_BITS: u32 = 16;
const CHROMA_BITS: u32 = LUMA_BITS + 3;

const fn fixed(x: f64) -> i32 {
    (x * (1 << LUMA_BITS) as f64).round() as i32
}

/// Limited range: luma spans 219 steps from 16, chroma 224 steps around 128.
const LUMA: [i32; 3] = [fixed(KR * 219.0 / 255.0), fixed(KG * 219.0 / 255.0), fixed(KB * 219.0 / 255.0)];
const CB: [i32; 3] = {
    let [r, b] = chroma_weights(-KR, 1.0 - KB, 1.0 - KB);
    [r, -r - b, b]
};
const CR: [i32; 3] = {
    let [r, b] = chroma_weights(1.0 - KR, -KB, 1.0 - KR);
    [r, -r - b, b]
};

/// Red's and blue's weights in a colour difference that swings +-`swing`, spread over 224 steps. Green's is what
/// makes the three sum to zero, so that every grey gives exactly 128.
const fn chroma_weights(r: f64, b: f64, swing: f64) -> [i32; 2] {
    let scale = 224.0 / 255.0 / (2.0 * swing);
    [fixed(r * scale), fixed(b * scale)]
}

/// One picture in planar 4:2:0, reused from frame to frame.
pub(crate) struct I420 {
    width: usize,
    height: usize,
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
}

impl I420 {
    /// An empty picture; `width` and `height` are even.
    pub(crate) fn new(width: usize, height: usize) -> Self {
        let chroma_len = (width / 2) * (height / 2);
        Self { width, height, y: vec![0; width * height], u: vec![0; chroma_len], v: vec![0; chroma_len] }
    }

    /// Converts one `(height, width, 3)` frame.
    pub(crate) fn fill(&mut self, rgb: &[u8]) {
        for (luma, pixel) in self.y.iter_mut().zip(rgb.chunks_exact(3)) {
            *luma = quantize(weigh(LUMA, [pixel[0].into(), pixel[1].into(), pixel[2].into()]), LUMA_BITS, 16);
        }
        let (half_width, row_len) = (self.width / 2, self.width * 3);
        let rows = rgb.chunks_exact(2 * row_len);
        let planes = self.u.chunks_exact_mut(half_width).zip(self.v.chunks_exact_mut(half_width));
        for (row_pair, (u_row, v_row)) in rows.zip(planes) {
            let (top, bottom) = row_pair.split_at(row_len);
            for (x, (u, v)) in u_row.iter_mut().zip(v_row).enumerate() {
                let sum = left_sited_sum(top, bottom, 2 * x);
                *u = quantize(weigh(CB, sum), CHROMA_BITS, 128);
                *v = quantize(weigh(CR, sum), CHROMA_BITS, 128);
            }
        }
    }
}

/// 8 times the RGB value at the chroma sample of column `x` (even) of a pair of rows: H.264's default chroma
/// location is on the even luma column and half-way between the rows, so 1-2-1 across and 1-1 down.
fn left_sited_sum(top: &[u8], bottom: &[u8], x: usize) -> [i32; 3] {
    let (here, left, right) = (3 * x, 3 * x.saturating_sub(1), 3 * x + 3);
    std::array::from_fn(|channel| {
        let row_sum = |row: &[u8]| {
            i32::from(row[left + channel])
                + 2 * i32::from(row[here + channel])
                + i32::from(row[right + channel])
        };
        row_sum(top) + row_sum(bottom)
    })
}

fn weigh(row: [i32; 3], [r, g, b]: [i32; 3]) -> i32 {
    row[0] * r + row[1] * g + row[2] * b
}

fn quantize(weighed: i32, bits: u32, offset: i32) -> u8 {
    // Cannot leave 16..=240: the rows' weights sum to the limited range. No clamp needed, the cast is exact.
    (((weighed + (1 << (bits - 1))) >> bits) + offset) as u8
}

impl openh264::formats::YUVSource for I420 {
    fn dimensions(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    fn strides(&self) -> (usize, usize, usize) {
        (self.width, self.width / 2, self.width / 2)
    }

    fn y(&self) -> &[u8] {
        &self.y
    }

    fn u(&self) -> &[u8] {
        &self.u
    }

    fn v(&self) -> &[u8] {
        &self.v
    }
}
