//! Finds, maps and checks a component's safetensors.
//!
//! A component folder (`transformer/`, `vae/`, `text_encoder/`) holds either one file or shards with an index, in
//! diffusers' naming. Files are memory-mapped; a tensor is copied out, converted to the wanted dtype, when a layer
//! asks for it by name and expected shape. What no layer asked for is reported by [`Weights::finish`]: a checkpoint
//! that is only partly used belongs to another model. The demo model, which has no files, gets random tensors through
//! the same door. Weights that are stored in 8 bits are widened for whoever asks for a tensor. Knows nothing of what the
//! tensors mean.

pub(crate) mod cast;
mod eight_bit;
mod listing;
mod mapped;

use std::borrow::Cow;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use safetensors::View;
use sha2::{Digest, Sha256};

pub use self::eight_bit::EightBitDtype;
pub(crate) use self::eight_bit::{scale_name, weight_name};
pub(crate) use self::listing::{Listing, StoredTensor, list};
pub(crate) use self::mapped::{EightBitWeight, MappedWeights, map, shard_paths};
use crate::Result;
use crate::digest::hex;
use crate::noise::Generator;

/// diffusers' file stem (`ModelMixin.save_pretrained`, `WEIGHTS_NAME`).
pub(crate) const DIFFUSERS_STEM: &str = "diffusion_pytorch_model";
/// transformers' file stem.
pub(crate) const TRANSFORMERS_STEM: &str = "model";

/// Of each tensor, for [`digest`].
const DIGESTED_BYTES: usize = 64;

/// Where a component's tensors come from.
pub(crate) struct Weights(Source);

enum Source {
    Mapped(MappedWeights),
    /// The demo model has no files: whatever is asked for is drawn.
    Random(Box<Mutex<Generator>>),
}

impl Weights {
    /// Maps the component in `dir` whose files are called `stem*.safetensors`.
    ///
    /// # Errors
    /// [`crate::Error::Weights`] when there is no such file, when a shard that the index names is missing or does not
    /// hold what the index says, or when a file is truncated or not safetensors at all.
    pub(crate) fn open(dir: &Path, stem: &str) -> Result<Self> {
        Ok(Self(Source::Mapped(MappedWeights::open(dir, stem)?)))
    }

    /// Random tensors of any name and shape, the same for the same seed and order of requests.
    pub(crate) fn random(seed: u64) -> Self {
        Self(Source::Random(Box::new(Mutex::new(Generator::seed(seed)))))
    }

    /// The scope of all names.
    pub(crate) fn root<'a>(&'a self, dtype: DType, device: &'a Device) -> WeightScope<'a> {
        WeightScope { weights: self, prefix: String::new(), dtype, device }
    }

    /// Call when the model is built.
    ///
    /// # Errors
    /// [`crate::Error::SurplusTensors`] when tensors were left unread.
    pub(crate) fn finish(&self) -> Result<()> {
        match &self.0 {
            Source::Mapped(mapped) => mapped.finish(),
            Source::Random(_) => Ok(()),
        }
    }

    /// What weights are stored in, if some are in 8 bits.
    pub(crate) fn eight_bit_dtype(&self) -> Option<EightBitDtype> {
        match &self.0 {
            Source::Mapped(mapped) => mapped.eight_bit_dtype(),
            Source::Random(_) => None,
        }
    }

    fn load(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        match &self.0 {
            Source::Mapped(mapped) => mapped.load(name, shape, dtype, device),
            Source::Random(generator) => draw(&mut locked(generator), name, shape, dtype, device),
        }
    }
}

/// Tells the weights in `dir` from others of the same shapes, such as a fine-tuned model's: a SHA-256 over each
/// tensor's name, shape, dtype and first bytes. Over all bytes it would take a minute for the large models.
///
/// # Errors
/// Those of [`Weights::open`].
pub(crate) fn digest(dir: &Path, stem: &str) -> Result<String> {
    let weights = MappedWeights::open(dir, stem)?;
    let mut sha256 = Sha256::new();
    for (name, info, bytes) in weights.iter() {
        sha256.update(format!("{name} {:?} {:?}\n", info.shape, info.dtype));
        sha256.update(&bytes[..bytes.len().min(DIGESTED_BYTES)]);
    }
    Ok(hex(&sha256.finalize()))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Norms about one, biases about zero, matrices by their fan-in, so that signals neither vanish nor explode.
fn draw(
    generator: &mut Generator,
    name: &str,
    shape: &[usize],
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let normal = generator.randn(shape, DType::F32)?;
    let (scale, offset) = match shape {
        [_] if name.ends_with("weight") => (0.1, 1.0),
        [_] => (0.1, 0.0),
        // The decoder's last layer: pictures that are not all black and white.
        [3, ..] => (0.015, 0.0),
        [_, fan_in @ ..] => (1.0 / (fan_in.iter().product::<usize>() as f64).sqrt(), 0.0),
        [] => (1.0, 0.0),
    };
    Ok(normal.affine(scale, offset)?.to_dtype(dtype)?.to_device(device)?)
}

/// A position in the tree of names, with the dtype and device that its tensors are wanted in.
#[derive(Clone)]
pub(crate) struct WeightScope<'a> {
    weights: &'a Weights,
    prefix: String,
    dtype: DType,
    device: &'a Device,
}

impl WeightScope<'_> {
    /// The scope one name deeper: `scope.pp("attn1").pp("to_q")`.
    pub(crate) fn pp(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: self.full_name(name), ..self.clone() }
    }

    /// The same scope, whose tensors are converted to `dtype` instead.
    pub(crate) fn with_dtype(&self, dtype: DType) -> Self {
        Self { dtype, ..self.clone() }
    }

    /// The tensor `name` below this scope, which must have `shape`.
    ///
    /// # Errors
    /// [`crate::Error::MissingTensor`], [`crate::Error::TensorShape`], or [`crate::Error::Weights`] for a foreign
    /// dtype.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.weights.load(&self.full_name(name), shape, self.dtype, self.device)
    }

    /// The little-endian elements of the tensor `name` below this scope, in the scope's dtype: the file's own bytes
    /// where it is stored in that.
    ///
    /// # Errors
    /// Those of [`Self::tensor`].
    pub(crate) fn bytes(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [u8]>> {
        if let Source::Mapped(mapped) = &self.weights.0
            && let Some(bytes) = mapped.bytes_of(&self.full_name(name), shape, self.dtype)?
        {
            return Ok(Cow::Borrowed(bytes));
        }
        Ok(Cow::Owned(View::data(&self.tensor(name, shape)?).into_owned()))
    }

    /// The weight `name` below this scope as it is stored, if that is in 8 bits; [`Self::tensor`] widens it.
    ///
    /// # Errors
    /// Those of [`Self::tensor`]; [`crate::Error::Weights`] for scales that are not its rows'.
    pub(crate) fn eight_bit(&self, name: &str, shape: &[usize]) -> Result<Option<EightBitWeight<'_>>> {
        match &self.weights.0 {
            Source::Mapped(mapped) => mapped.eight_bit(&self.full_name(name), shape),
            Source::Random(_) => Ok(None),
        }
    }

    /// Marks the tensor `name` below this scope as one that is read later.
    ///
    /// # Errors
    /// Those of [`Self::tensor`].
    pub(crate) fn expect(&self, name: &str, shape: &[usize]) -> Result<()> {
        match &self.weights.0 {
            Source::Mapped(mapped) => mapped.expect(&self.full_name(name), shape),
            Source::Random(_) => Ok(()),
        }
    }

    /// Whether the files hold `name` below this scope.
    pub(crate) fn contains(&self, name: &str) -> bool {
        match &self.weights.0 {
            Source::Mapped(mapped) => mapped.contains(&self.full_name(name)),
            Source::Random(_) => true,
        }
    }

    /// Marks `name` as known and not needed, if it is there at all.
    pub(crate) fn ignore(&self, name: &str) {
        if let Source::Mapped(mapped) = &self.weights.0 {
            mapped.ignore(self.full_name(name));
        }
    }

    /// The dtype that tensors are converted to.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    fn full_name(&self, name: impl std::fmt::Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}
