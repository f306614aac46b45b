//! torch's CPU random generator, number for number: seed 42 here is seed 42 there.
//!
//! `torch.Generator().manual_seed(seed)` is an MT19937 seeded with the seed's low 32 bits; `torch.randn` draws from
//! it in one way for fewer than 16 elements and in another for more (torch's `DistributionTemplates.h`). Halves round
//! after every operation, as torch's `c10::Half` and `c10::BFloat16` do. Knows nothing of latents or devices: tensors
//! are made on the CPU.

use candle_core::{DType, Device, Shape, Tensor};
use half::{bf16, f16};

use crate::{Error, Result};

const N: usize = 624;
const M: usize = 397;
/// torch transforms uniform numbers in blocks of this many; smaller tensors take the scalar path.
const BLOCK: usize = 16;

/// The state of `torch.Generator("cpu")`.
#[derive(Clone, Debug)]
pub struct Generator {
    state: [u32; N],
    /// How many words of `state` were handed out; `N` when the next draw must twist first.
    used: usize,
    /// The second number of the last Box-Muller pair of the scalar path. Like torch, draws of 16 elements or more
    /// neither use nor clear it.
    cached_normal: Option<f64>,
}

impl Generator {
    /// `torch.Generator().manual_seed(seed)`: only the low 32 bits count, as in torch.
    pub fn seed(seed: u64) -> Self {
        let mut state = [0_u32; N];
        state[0] = seed as u32;
        for i in 1..N {
            let previous = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        Self { state, used: N, cached_normal: None }
    }

    /// What [`Self::from_parts`] takes to go on with the same numbers: the words, how many of them were handed out,
    /// and the number that waits.
    pub(crate) fn parts(&self) -> (&[u32], usize, Option<f64>) {
        (&self.state, self.used, self.cached_normal)
    }

    /// A generator that goes on where another stood; none for another count of words, or more handed out than that.
    pub(crate) fn from_parts(words: &[u32], used: usize, cached_normal: Option<f64>) -> Option<Self> {
        let state = words.try_into().ok()?;
        (used <= N).then_some(Self { state, used, cached_normal })
    }

    /// `torch.randn(shape, generator=self, dtype=dtype)`, on the CPU.
    ///
    /// # Errors
    /// [`Error::UnsupportedDtype`] for other dtypes than f16, bf16, f32 and f64.
    pub fn randn(&mut self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        let n = shape.elem_count();
        let tensor = match dtype {
            DType::F16 => Tensor::from_vec(self.normals::<f16>(n), shape, &Device::Cpu)?,
            DType::BF16 => Tensor::from_vec(self.normals::<bf16>(n), shape, &Device::Cpu)?,
            DType::F32 => Tensor::from_vec(self.normals::<f32>(n), shape, &Device::Cpu)?,
            DType::F64 => Tensor::from_vec(self.normals::<f64>(n), shape, &Device::Cpu)?,
            other => {
                return Err(Error::UnsupportedDtype(format!(
                    "expected f16, bf16, f32 or f64 noise, found {other:?}"
                )));
            }
        };
        Ok(tensor)
    }

    fn normals<T: Real>(&mut self, n: usize) -> Vec<T> {
        if n < BLOCK {
            return (0..n).map(|_| T::from_f64(self.next_normal())).collect();
        }
        let mut data: Vec<T> = (0..n).map(|_| T::uniform(self)).collect();
        for block in data.chunks_exact_mut(BLOCK) {
            box_muller(block);
        }
        if !n.is_multiple_of(BLOCK) {
            // The incomplete block is made by drawing the last 16 places anew, over already transformed ones.
            let tail = &mut data[n - BLOCK..];
            tail.fill_with(|| T::uniform(self));
            box_muller(tail);
        }
        data
    }

    /// One draw of torch's `normal_distribution<double>`.
    fn next_normal(&mut self) -> f64 {
        if let Some(cached) = self.cached_normal.take() {
            return cached;
        }
        let u1 = f64::uniform(self);
        let u2 = f64::uniform(self);
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let theta = std::f64::consts::TAU * u1;
        self.cached_normal = Some(radius * theta.sin());
        radius * theta.cos()
    }

    fn next_u32(&mut self) -> u32 {
        if self.used == N {
            self.twist();
        }
        let mut y = self.state[self.used];
        self.used += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let twisted = if y & 1 == 0 { y >> 1 } else { (y >> 1) ^ 0x9908_b0df };
            self.state[i] = self.state[(i + M) % N] ^ twisted;
        }
        self.used = 0;
    }
}

/// `x[j], x[j + 8]` of 16 uniform numbers become two normal ones.
fn box_muller<T: Real>(block: &mut [T]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (a, b) in first.iter_mut().zip(second) {
        (*a, *b) = T::pair(*a, *b);
    }
}

/// An element type with torch's arithmetic.
trait Real: Copy {
    fn from_f64(x: f64) -> Self;
    /// One draw of `uniform_real_distribution` over [0, 1).
    fn uniform(generator: &mut Generator) -> Self;
    /// Box-Muller with torch's rounding.
    fn pair(u1: Self, u2: Self) -> (Self, Self);
}

impl Real for f64 {
    fn from_f64(x: f64) -> Self {
        x
    }

    fn uniform(generator: &mut Generator) -> Self {
        const MANTISSA: u64 = (1 << 53) - 1;
        let high = u64::from(generator.next_u32());
        let low = u64::from(generator.next_u32());
        (((high << 32) | low) & MANTISSA) as f64 * 2.0_f64.powi(-53)
    }

    fn pair(u1: Self, u2: Self) -> (Self, Self) {
        let radius = (-2.0 * (1.0 - u1).ln()).sqrt();
        let theta = std::f64::consts::TAU * u2;
        (radius * theta.cos(), radius * theta.sin())
    }
}

impl Real for f32 {
    fn from_f64(x: f64) -> Self {
        x as f32
    }

    fn uniform(generator: &mut Generator) -> Self {
        (generator.next_u32() & 0x00ff_ffff) as f32 * 2.0_f32.powi(-24)
    }

    fn pair(u1: Self, u2: Self) -> (Self, Self) {
        let radius = (-2.0 * (1.0 - u1).ln()).sqrt();
        let theta = std::f32::consts::TAU * u2;
        (radius * theta.cos(), radius * theta.sin())
    }
}

/// c10's 16-bit types compute each operation in `f32` and round its result.
macro_rules! half_real {
    ($half:ty, $mantissa_bits:literal) => {
        impl Real for $half {
            fn from_f64(x: f64) -> Self {
                Self::from_f32(x as f32)
            }

            fn uniform(generator: &mut Generator) -> Self {
                let bits = generator.next_u32() & ((1 << $mantissa_bits) - 1);
                Self::from_f32(bits as f32 * 2.0_f32.powi(-$mantissa_bits))
            }

            fn pair(u1: Self, u2: Self) -> (Self, Self) {
                let round = |x: f32| Self::from_f32(x).to_f32();
                let log = round(round(1.0 - u1.to_f32()).ln());
                let radius = round(round(-2.0 * log).sqrt());
                let theta = round((std::f64::consts::TAU * u2.to_f64()) as f32);
                (Self::from_f32(radius * round(theta.cos())), Self::from_f32(radius * round(theta.sin())))
            }
        }
    };
}

half_real!(f16, 11);
half_real!(bf16, 8);
