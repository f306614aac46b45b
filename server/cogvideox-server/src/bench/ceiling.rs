//! What a card can do at most, which the shares of the floor are of.
//!
//! Dense rates from NVIDIA's datasheets of the H100 SXM and the H200; other cards have none here.

use candle_core::DType;
use cogvideox::gpu::Precision;

/// Of 16 bits, of 8 and of f32 outside tensor cores; the two cards have the same.
const HALF_FLOPS: f64 = 989e12;
const EIGHT_BIT_FLOPS: f64 = 1979e12;
const F32_FLOPS: f64 = 67e12;
/// A part of a card's name, and the bandwidth of its memory.
const BYTES_PER_SECOND: [(&str, f64); 2] = [("H100 80GB HBM3", 3.35e12), ("H200", 4.8e12)];

/// Of one card, for one way to compute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ceiling {
    pub(super) attention_flops: f64,
    pub(super) linear_flops: f64,
    pub(super) bytes_per_second: f64,
}

impl Ceiling {
    /// None for a card that is not in the table.
    pub(super) fn of(device: &str, dtype: DType, precision: Precision) -> Option<Self> {
        let (_, bytes_per_second) = BYTES_PER_SECOND.into_iter().find(|(name, _)| device.contains(name))?;
        let dense = if dtype == DType::F32 { F32_FLOPS } else { HALF_FLOPS };
        let linear_flops = match precision {
            Precision::Dense | Precision::Int8WeightOnly => dense,
            Precision::Fp8 | Precision::Int8 => EIGHT_BIT_FLOPS,
        };
        Some(Self { attention_flops: dense, linear_flops, bytes_per_second })
    }
}
