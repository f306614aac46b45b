//! A part of a mapped tensor of SAT's, in the dtype that it is to be stored in; cast when it is written.
//!
//! Must not know names or models.

use std::borrow::Cow;

use safetensors::{Dtype, View};

use super::sat::Part;
use super::torch::{TorchFile, TorchTensor};
use crate::weights::cast::{cast, element_bytes};

/// A tensor to be, a part of a mapped one.
pub(super) struct Converted<'a> {
    file: &'a TorchFile,
    tensor: &'a TorchTensor,
    parts: &'static [usize],
    of: usize,
    pub(super) shape: Vec<usize>,
    dtype: Dtype,
}

impl<'a> Converted<'a> {
    /// None if the tensor's rows cannot be split so.
    pub(super) fn new(
        file: &'a TorchFile,
        tensor: &'a TorchTensor,
        part: &Part,
        dtype: Option<Dtype>,
    ) -> Option<Self> {
        let mut shape = tensor.shape.clone();
        if let Some(rows) = shape.first_mut() {
            if !rows.is_multiple_of(part.of) {
                return None;
            }
            *rows = *rows / part.of * part.parts.len();
        }
        let dtype = dtype.unwrap_or(tensor.dtype);
        Some(Self { file, tensor, parts: part.parts, of: part.of, shape, dtype })
    }
}

impl View for Converted<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let all = self.file.bytes(self.tensor);
        let part = all.len() / self.of;
        let bytes = match self.parts {
            [0] if self.of == 1 => all,
            parts => {
                let rows = parts.iter().map(|index| &all[index * part..(index + 1) * part]);
                Cow::Owned(rows.collect::<Vec<_>>().concat())
            }
        };
        if self.tensor.dtype == self.dtype {
            bytes
        } else {
            Cow::Owned(cast(&bytes, self.tensor.dtype, self.dtype))
        }
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * element_bytes(self.dtype)
    }
}
