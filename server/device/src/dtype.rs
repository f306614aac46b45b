//! What a tensor's elements are, on the device and as Rust types.

use half::{bf16, f16};

/// An element's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 8 bits with 4 of exponent, no infinities, largest value 448 (OCP 8-bit floating point, e4m3fn).
    F8E4M3,
    /// Signed byte.
    I8,
    /// Unsigned byte.
    U8,
    /// Signed 32-bit integer.
    I32,
}

impl Dtype {
    /// Of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::F8E4M3 | Self::I8 | Self::U8 => 1,
        }
    }

    /// Whether it is one of f32, f16 and bf16, in which the model's values may be.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// As in kernels' names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F8E4M3 => "f8e4m3",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I32 => "i32",
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type with the bytes of a dtype.
pub trait Element: Copy {
    /// Which.
    const DTYPE: Dtype;
    /// Little-endian bytes appended to `bytes`.
    fn write(values: &[Self], bytes: &mut Vec<u8>);
    /// From little-endian bytes.
    fn read(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! element {
    ($($type:ty => $dtype:ident),*) => {$(
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;

            fn write(values: &[Self], bytes: &mut Vec<u8>) {
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }

            fn read(bytes: &[u8]) -> Vec<Self> {
                let chunks = bytes.chunks_exact(size_of::<Self>());
                chunks.map(|chunk| Self::from_le_bytes(chunk.try_into().expect("whole chunks"))).collect()
            }
        }
    )*};
}

element!(f32 => F32, f16 => F16, bf16 => Bf16, i8 => I8, u8 => U8, i32 => I32);
