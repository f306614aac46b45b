//! Elements of one floating-point format as another, on bytes as files have them: little-endian, in a row.
//!
//! Knows formats, not tensors.

use half::{bf16, f16};
use safetensors::Dtype;

/// Of a whole number of bytes.
pub(crate) fn element_bytes(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// F16, BF16, F32 or F64 as f32: from f64 rounded to nearest even.
pub(crate) fn widen(bytes: &[u8], from: Dtype) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(element_bytes(from)).map(move |element| match *element {
        [a, b] if from == Dtype::F16 => f16::from_le_bytes([a, b]).to_f32(),
        [a, b] => bf16::from_le_bytes([a, b]).to_f32(),
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
        _ => f32::NAN,
    })
}

/// Rounds to nearest even, from f64 by way of f32 as torch does; to F16, BF16 or F32.
pub(crate) fn cast(bytes: &[u8], from: Dtype, to: Dtype) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() / element_bytes(from) * element_bytes(to));
    for value in widen(bytes, from) {
        match to {
            Dtype::F16 => out.extend(f16::from_f32(value).to_le_bytes()),
            Dtype::BF16 => out.extend(bf16::from_f32(value).to_le_bytes()),
            _ => out.extend(value.to_le_bytes()),
        }
    }
    out
}
