//! Where a model's tensors on a device come from: its files, or a draw of random numbers at the same shapes.
//!
//! Random weights serve benchmarks and memory plans, which depend on shapes alone. Relies on [`crate::weights`] for
//! files; must not know layers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::DType;
use device::ops::linear::{Linear, Weight};
use device::{Device, Dtype, Tensor, Uploader};

use super::Precision;
use crate::weights::{EightBitDtype, EightBitWeight, WeightScope, Weights};
use crate::{Error, Result};

/// Standard deviation of random weights, about that of trained ones: zeros would make a GPU faster than it is.
pub(super) const RANDOM_STD: f32 = 0.02;

/// The device's name of a candle dtype.
pub(crate) fn dtype_of(dtype: DType) -> Result<Dtype> {
    match dtype {
        DType::F32 => Ok(Dtype::F32),
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::Bf16),
        other => Err(Error::UnsupportedDtype(format!("expected f32, f16 or bf16, found {other:?}"))),
    }
}

/// A component's tensors; a clone reads the same files.
#[derive(Clone)]
pub(crate) enum Source {
    /// Files, mapped as long as this lives, and the way from them to the device.
    Files { weights: Arc<Weights>, uploader: Arc<Uploader> },
    /// A draw, the same for the same name.
    Random,
    /// The same, and what is asked for is written down.
    Listed(Arc<Names>),
}

/// What a model asked for.
#[derive(Default)]
pub(crate) struct Names(Mutex<Asked>);

/// Tensors by name.
#[derive(Default)]
pub(crate) struct Asked {
    /// All, with the shapes that they are stored in.
    pub(crate) shapes: BTreeMap<String, Vec<usize>>,
    /// The weights that some precision keeps in 8 bits.
    pub(crate) quantisable: BTreeSet<String>,
}

impl Names {
    fn note(&self, note: impl FnOnce(&mut Asked)) {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All that was asked for until now.
    pub(crate) fn take(&self) -> Asked {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Source {
    /// The files of a component, for one device.
    ///
    /// # Errors
    /// Those of [`Weights::open`].
    pub(crate) fn open(dir: &Path, stem: &str, device: &Device) -> Result<Self> {
        let uploader = Arc::new(Uploader::new(device)?);
        Ok(Self::Files { weights: Arc::new(Weights::open(dir, stem)?), uploader })
    }

    /// The scope of all names, for tensors of `dtype` on `device`.
    pub(crate) fn root<'a>(&'a self, dtype: DType, device: &'a Device) -> Scope<'a> {
        let files = match self {
            Self::Files { weights, uploader } => {
                Some(Files { scope: weights.root(dtype, &candle_core::Device::Cpu), uploader })
            }
            Self::Random | Self::Listed(_) => None,
        };
        let names = match self {
            Self::Listed(names) => Some(names.as_ref()),
            Self::Files { .. } | Self::Random => None,
        };
        Scope { files, names, prefix: String::new(), dtype, device }
    }

    /// Whether weights that are stored in 8 bits, if there are such, are of this precision; without one they are widened.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] with both.
    pub(crate) fn check_precision(&self, precision: Precision) -> Result<()> {
        let Self::Files { weights, .. } = self else { return Ok(()) };
        let (Some(kind), Some(stored)) = (precision.eight_bit(), weights.eight_bit_dtype()) else {
            return Ok(());
        };
        if stored_dtype(stored) == kind.dtype() {
            return Ok(());
        }
        let (stored, found) = (stored.name(), precision.name());
        Err(Error::invalid(
            "dtype",
            format!("the weights are stored in {stored}: expected {stored} or a wider one, found {found}"),
        ))
    }

    /// # Errors
    /// [`Error::SurplusTensors`] when tensors of the files were left unread.
    pub(crate) fn finish(&self) -> Result<()> {
        match self {
            Self::Files { weights, .. } => weights.finish(),
            Self::Random | Self::Listed(_) => Ok(()),
        }
    }
}

#[derive(Clone)]
struct Files<'a> {
    scope: WeightScope<'a>,
    uploader: &'a Uploader,
}

/// A position in the tree of names.
#[derive(Clone)]
pub(crate) struct Scope<'a> {
    files: Option<Files<'a>>,
    names: Option<&'a Names>,
    prefix: String,
    dtype: DType,
    device: &'a Device,
}

impl<'a> Scope<'a> {
    /// The scope one name deeper.
    pub(crate) fn pp(&self, name: impl std::fmt::Display) -> Self {
        let files = self.files.as_ref().map(|files| Files { scope: files.scope.pp(&name), ..files.clone() });
        Self { files, prefix: format!("{}.{name}", self.prefix), ..self.clone() }
    }

    /// The same scope in another dtype.
    pub(crate) fn with_dtype(&self, dtype: DType) -> Self {
        let files = self.files.as_ref();
        let files = files.map(|files| Files { scope: files.scope.with_dtype(dtype), ..files.clone() });
        Self { files, dtype, ..self.clone() }
    }

    /// Where tensors go.
    pub(crate) fn device(&self) -> &'a Device {
        self.device
    }

    /// In which tensors are wanted.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// The files' scope; none for random weights.
    pub(crate) fn files(&self) -> Option<&WeightScope<'a>> {
        self.files.as_ref().map(|files| &files.scope)
    }

    /// Whether the files hold `name`.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.files.as_ref().is_none_or(|files| files.scope.contains(name))
    }

    /// Marks `name` as known and not needed.
    pub(crate) fn ignore(&self, name: &str) {
        if let Some(files) = &self.files {
            files.scope.ignore(name);
        }
    }

    /// Marks the tensor `name` of `dims` as one that is read later.
    ///
    /// # Errors
    /// Those of the weights.
    pub(crate) fn expect(&self, name: &str, dims: &[usize]) -> Result<()> {
        self.note(name, dims);
        self.files.as_ref().map_or(Ok(()), |files| files.scope.expect(name, dims))
    }

    /// The tensor `name` of `dims`.
    ///
    /// # Errors
    /// Those of the weights, and of the device's memory.
    pub(crate) fn tensor(&self, name: &str, dims: &[usize]) -> Result<Tensor> {
        self.tensor_as(name, dims, dims)
    }

    /// The tensor `name` of `stored` dimensions, taken as `dims`.
    pub(crate) fn tensor_as(&self, name: &str, stored: &[usize], dims: &[usize]) -> Result<Tensor> {
        let dtype = dtype_of(self.dtype)?;
        self.note(name, stored);
        Ok(match &self.files {
            Some(Files { scope, uploader }) => {
                let bytes = scope.bytes(name, stored)?;
                let tensor = Tensor::empty(self.device, dims, dtype)?;
                uploader.upload(&tensor, &bytes)?;
                tensor
            }
            // Norms are about one, or all tokens would come to be alike, which multiplies in less power and time.
            None if name == "weight" && stored.len() == 1 => {
                Tensor::from_f32(self.device, dims, dtype, &vec![1.0; stored[0]])?
            }
            None => device::ops::random::normal(self.device, dims, dtype, RANDOM_STD, self.seed(name))?,
        })
    }

    /// A dense layer; `bias` says whether it has one.
    pub(crate) fn linear(&self, in_features: usize, out_features: usize, bias: bool) -> Result<Linear> {
        let weight = self.tensor("weight", &[out_features, in_features])?;
        let bias = if bias { Some(self.tensor("bias", &[out_features])?) } else { None };
        Ok(Linear::dense(weight, bias)?)
    }

    /// A dense layer whose weight is kept as `precision` says: as it is stored, if it is stored so.
    ///
    /// # Errors
    /// Those of the weights, and of the device's memory.
    pub(crate) fn quantised_linear(
        &self,
        [in_features, out_features]: [usize; 2],
        bias: bool,
        precision: Precision,
    ) -> Result<Linear> {
        let (name, dims) = ("weight", [out_features, in_features]);
        if let Some(names) = self.names {
            let full = self.full_name(name);
            names.note(|asked| {
                asked.quantisable.insert(full);
            });
        }
        let Some(kind) = precision.eight_bit() else { return self.linear(in_features, out_features, bias) };
        let stored = match &self.files {
            Some(Files { scope, uploader }) => scope.eight_bit(name, &dims)?.zip(Some(uploader)),
            None => None,
        };
        let Some((EightBitWeight { dtype, values: bytes, scales }, uploader)) = stored else {
            return Ok(self.linear(in_features, out_features, bias)?.to_8bit(kind)?);
        };
        let values = Tensor::empty(self.device, &dims, stored_dtype(dtype))?;
        uploader.upload(&values, bytes)?;
        let scales = Tensor::from_slice(self.device, &[out_features], &scales)?;
        let bias = if bias { Some(self.tensor("bias", &[out_features])?) } else { None };
        Ok(Linear::new(Weight::of(kind, values, scales), bias)?)
    }

    fn note(&self, name: &str, dims: &[usize]) {
        if let Some(names) = self.names {
            let full = self.full_name(name);
            names.note(|asked| {
                asked.shapes.insert(full, dims.to_vec());
            });
        }
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix).trim_start_matches('.').to_owned()
    }

    /// FNV-1a of the full name.
    fn seed(&self, name: &str) -> u64 {
        let bytes = self.prefix.bytes().chain([b'.']).chain(name.bytes());
        bytes
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

fn stored_dtype(dtype: EightBitDtype) -> Dtype {
    match dtype {
        EightBitDtype::Int8 => Dtype::I8,
        EightBitDtype::Fp8 => Dtype::F8E4M3,
    }
}
