//! A model's folder once more, with the large weights of its transformer stored in 8 bits.
//!
//! Three fifths of the size on disk, and loaded as they are where that dtype is asked for, with the videos that the origin
//! gives in it. Which weights these are is what loading says. Must not know what a device computes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use safetensors::{Dtype, View};
use serde_json::json;

use crate::folder::{Report, Way, make_folder, take_files, write_component, write_json};
use crate::gpu::demand;
use crate::inspection::inspect;
use crate::pipeline_config::read_object;
use crate::transformer::TransformerConfig;
pub use crate::weights::EightBitDtype;
use crate::weights::cast::{cast, element_bytes, widen};
use crate::weights::{DIFFUSERS_STEM, MappedWeights, scale_name};
use crate::{Error, Result};

/// The components that are taken as they are.
const KEPT: [&str; 4] = ["scheduler", "text_encoder", "tokenizer", "vae"];

/// What a thread widens at a time: whole elements of any dtype.
const PIECE_BYTES: usize = 1 << 20;

/// What to quantise.
#[derive(Clone, Debug)]
pub struct Quantization {
    /// A folder in diffusers' layout.
    pub model: PathBuf,
    /// What the weights are to be stored in.
    pub dtype: EightBitDtype,
}

impl Quantization {
    /// Writes the folder `out`, which is empty or does not exist yet; what stays as it is is linked where possible, else
    /// copied. All weights are looked at before anything is written; `report` is told of either.
    ///
    /// # Errors
    /// What is wrong with the model; [`Error::Weights`] for one that is in 8 bits already or whose weights are not
    /// finite; [`Error::Io`].
    pub fn write(&self, out: &Path, report: Report<'_>) -> Result<()> {
        let found = inspect(&self.model);
        let form = match (found.faults.into_iter().next(), found.form) {
            (Some(fault), _) => return Err(fault),
            (None, Some(form)) => form,
            (None, None) => return Err(Error::config(&self.model, "expected a model of a known form")),
        };
        let dir = self.model.join("transformer");
        let weights = MappedWeights::open(&dir, DIFFUSERS_STEM)?;
        if let Some(stored) = weights.eight_bit_dtype() {
            let message = format!("expected weights in F32, F16 or BF16, found {} already", stored.name());
            return Err(Error::weights(&dir, message));
        }
        // As loading does: first the form's own 16 bits, then 8.
        let tensors = self.tensors(&dir, &weights, form.half_dtype().into(), report)?;

        make_folder(out)?;
        let visible = |name: &str| !name.starts_with('.');
        take_files(&self.model, out, visible)?;
        for component in KEPT {
            take_files(&self.model.join(component), &out.join(component), visible)?;
        }
        write_component(&out.join("transformer"), tensors, "write transformer", report)?;
        let mut config = read_object(&dir.join("config.json"))?;
        // diffusers refuses a method that it does not know, instead of taking bytes for weights.
        let quantization = json!({ "quant_method": "cogvideox-server", "dtype": self.dtype.name() });
        config.insert("quantization_config".to_owned(), quantization);
        write_json(&out.join("transformer/config.json"), &config.into())?;
        inspect(out).faults.into_iter().next().map_or(Ok(()), Err)
    }

    fn tensors<'a>(
        &self,
        dir: &Path,
        weights: &'a MappedWeights,
        half: Dtype,
        report: Report<'_>,
    ) -> Result<BTreeMap<String, Written<'a>>> {
        let quantisable = demand::quantisable(&TransformerConfig::load(&dir.join("config.json"))?)?;
        let mut tensors = BTreeMap::new();
        let way = Way::new(report, "find scales", weights.iter().map(|(.., bytes)| bytes.len()).sum());
        for (name, info, bytes) in weights.iter() {
            way.advance(bytes.len());
            let stored = Stored { dtype: info.dtype, shape: &info.shape, bytes };
            if !quantisable.contains(name) {
                tensors.insert(name.to_owned(), Written::Same(stored));
                continue;
            }
            let columns = info.shape.iter().skip(1).product();
            let scales = self.dtype.scales(&stored.rounded(half), columns).map_err(|not_finite| {
                let message = format!("tensor {name} has an infinity or a NaN in row {}", not_finite.row);
                Error::weights(dir, message)
            })?;
            tensors
                .insert(scale_name(name), Written::Scales { shape: [scales.len()], scales: scales.clone() });
            tensors.insert(name.to_owned(), Written::Values { stored, half, dtype: self.dtype, scales });
        }
        Ok(tensors)
    }
}

/// A tensor of the model's own.
struct Stored<'a> {
    dtype: Dtype,
    shape: &'a [usize],
    bytes: &'a [u8],
}

impl Stored<'_> {
    /// As `half` has it.
    fn rounded(&self, half: Dtype) -> Vec<f32> {
        let pieces = self.bytes.par_chunks(PIECE_BYTES);
        let rounded = |piece: &[u8]| -> Vec<f32> {
            if self.dtype == half {
                return widen(piece, half).collect();
            }
            widen(&cast(piece, self.dtype, half), half).collect()
        };
        pieces.flat_map_iter(rounded).collect()
    }
}

/// A tensor to be.
enum Written<'a> {
    Same(Stored<'a>),
    Values { stored: Stored<'a>, half: Dtype, dtype: EightBitDtype, scales: Vec<f32> },
    Scales { shape: [usize; 1], scales: Vec<f32> },
}

impl View for Written<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Same(stored) => stored.dtype,
            Self::Values { dtype, .. } => dtype.stored(),
            Self::Scales { .. } => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Same(stored) | Self::Values { stored, .. } => stored.shape,
            Self::Scales { shape, .. } => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Same(stored) => Cow::Borrowed(stored.bytes),
            Self::Values { stored, half, dtype, scales } => {
                Cow::Owned(dtype.quantise(&stored.rounded(*half), scales))
            }
            Self::Scales { scales, .. } => {
                Cow::Owned(scales.iter().flat_map(|scale| scale.to_le_bytes()).collect())
            }
        }
    }

    fn data_len(&self) -> usize {
        self.shape().iter().product::<usize>() * element_bytes(View::dtype(self))
    }
}
