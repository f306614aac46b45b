//! Writes a component's safetensors as diffusers does: one file, or shards and an index; one tensor in memory at a time.
//!
//! Must not know names or models.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, View};
use serde_json::json;

use super::sat::Part;
use super::torch::{TorchFile, TorchTensor, element_bytes};
use crate::weights::DIFFUSERS_STEM;
use crate::{Error, Result};

/// Of a shard: below what some file systems and the hub take.
const SHARD_BYTES: usize = 5_000_000_000;

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

/// Rounds to nearest even, from f64 by way of f32 as torch does.
fn cast(bytes: &[u8], from: Dtype, to: Dtype) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() / element_bytes(from) * element_bytes(to));
    for element in bytes.chunks_exact(element_bytes(from)) {
        let value = match *element {
            [a, b] if from == Dtype::F16 => f16::from_le_bytes([a, b]).to_f32(),
            [a, b] => bf16::from_le_bytes([a, b]).to_f32(),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
            _ => f32::NAN,
        };
        match to {
            Dtype::F16 => out.extend(f16::from_f32(value).to_le_bytes()),
            Dtype::BF16 => out.extend(bf16::from_f32(value).to_le_bytes()),
            _ => out.extend(value.to_le_bytes()),
        }
    }
    out
}

/// Writes `dir`, which does not exist yet.
///
/// # Errors
/// [`Error::Io`]; [`Error::Weights`] if a file cannot be written.
pub(super) fn component(dir: &Path, tensors: BTreeMap<String, Converted<'_>>) -> Result<()> {
    std::fs::create_dir(dir).map_err(|source| Error::io(dir, source))?;
    let total_bytes: usize = tensors.values().map(View::data_len).sum();
    let mut shards: Vec<Vec<(String, Converted<'_>)>> = Vec::new();
    let mut room = 0;
    for (name, tensor) in tensors {
        let bytes = tensor.data_len();
        match shards.last_mut() {
            Some(shard) if bytes <= room => {
                room -= bytes;
                shard.push((name, tensor));
            }
            _ => {
                room = SHARD_BYTES.saturating_sub(bytes);
                shards.push(vec![(name, tensor)]);
            }
        }
    }
    let (count, mut places) = (shards.len(), BTreeMap::new());
    for (index, shard) in shards.into_iter().enumerate() {
        let file = match count {
            1 => format!("{DIFFUSERS_STEM}.safetensors"),
            _ => format!("{DIFFUSERS_STEM}-{:05}-of-{count:05}.safetensors", index + 1),
        };
        places.extend(shard.iter().map(|(name, _)| (name.clone(), file.clone())));
        let path = dir.join(file);
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        safetensors::serialize_to_file(shard, Some(metadata), &path)
            .map_err(|error| Error::weights(&path, format!("cannot be written: {error}")))?;
    }
    if count > 1 {
        let path = dir.join(format!("{DIFFUSERS_STEM}.safetensors.index.json"));
        let index = json!({ "metadata": { "total_size": total_bytes }, "weight_map": places });
        std::fs::write(&path, format!("{index:#}\n")).map_err(|source| Error::io(&path, source))?;
    }
    Ok(())
}
