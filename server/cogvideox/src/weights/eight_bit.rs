//! Weights that are stored in 8 bits: rows of signed bytes or 8-bit floats, each with a scale in f32.
//!
//! What is stored is to the bit what `device::ops::quantize` makes of the same rows, so that a folder of 8 bits gives
//! the videos that its origin gives when it is loaded in that dtype. Knows rows, not layers.

use float8::F8E4M3;
use rayon::prelude::*;
use safetensors::Dtype;

/// How a weight of 8 bits is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EightBitDtype {
    /// Signed bytes.
    Int8,
    /// e4m3: 4 bits of exponent, 3 of mantissa, no infinities.
    Fp8,
}

/// The name of a weight's scales, `[rows]` in f32: `to_q.weight` has `to_q.weight_scale`, as in other 8-bit checkpoints.
pub(crate) fn scale_name(name: &str) -> String {
    format!("{name}_scale")
}

/// The weight whose scales `name` would be.
pub(crate) fn weight_name(name: &str) -> Option<&str> {
    name.strip_suffix("_scale")
}

/// A row with an infinity or a NaN, which no scale makes finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotFinite {
    pub(crate) row: usize,
}

impl EightBitDtype {
    /// None for a dtype that weights are not quantised to.
    pub(crate) fn of_stored(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::I8 => Some(Self::Int8),
            Dtype::F8_E4M3 => Some(Self::Fp8),
            _ => None,
        }
    }

    pub(crate) fn stored(self) -> Dtype {
        match self {
            Self::Int8 => Dtype::I8,
            Self::Fp8 => Dtype::F8_E4M3,
        }
    }

    /// As configurations and commands call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Fp8 => "fp8",
        }
    }

    /// What a row's largest magnitude becomes (`quantize.cu`'s `largest`).
    fn largest(self) -> f32 {
        match self {
            Self::Int8 => 127.0,
            Self::Fp8 => 448.0,
        }
    }

    fn encode(self, value: f32) -> u8 {
        match self {
            Self::Int8 => (value.round_ties_even().clamp(-127.0, 127.0) as i8).to_le_bytes()[0],
            Self::Fp8 => F8E4M3::from_f32(value).to_bits(),
        }
    }

    fn decode(self, bits: u8) -> f32 {
        match self {
            Self::Int8 => f32::from(i8::from_le_bytes([bits])),
            Self::Fp8 => F8E4M3::from_bits(bits).to_f32(),
        }
    }

    /// Each row's largest magnitude over the format's.
    ///
    /// # Errors
    /// [`NotFinite`].
    pub(crate) fn scales(self, values: &[f32], columns: usize) -> Result<Vec<f32>, NotFinite> {
        let rows = values.par_chunks_exact(columns.max(1)).enumerate();
        rows.map(|(row, values)| {
            let finite = values.iter().all(|value| value.is_finite());
            let magnitude = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            if finite { Ok(magnitude / self.largest()) } else { Err(NotFinite { row }) }
        })
        .collect()
    }

    /// Divided by their rows' scales and rounded to nearest even.
    pub(crate) fn quantise(self, values: &[f32], scales: &[f32]) -> Vec<u8> {
        let columns = values.len().checked_div(scales.len()).unwrap_or(0);
        let rows = values.par_chunks_exact(columns.max(1)).zip(scales);
        // A row of zeros has no scale.
        let divided = |value: f32, scale: f32| if scale == 0.0 { 0.0 } else { value / scale };
        rows.flat_map_iter(|(row, scale)| row.iter().map(move |value| self.encode(divided(*value, *scale))))
            .collect()
    }

    /// The rows that [`Self::quantise`] had, each product rounded once.
    pub(crate) fn dequantise(self, values: &[u8], scales: &[f32]) -> Vec<f32> {
        let columns = values.len().checked_div(scales.len()).unwrap_or(0);
        let rows = values.par_chunks_exact(columns.max(1)).zip(scales);
        rows.flat_map_iter(|(row, scale)| row.iter().map(move |bits| self.decode(*bits) * scale)).collect()
    }
}
