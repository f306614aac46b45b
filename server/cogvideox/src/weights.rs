//! Finds, maps and checks a component's safetensors.
//!
//! A component folder (`transformer/`, `vae/`, `text_encoder/`) holds either one file or shards with an index, in
//! diffusers' naming. Files are memory-mapped; a tensor is copied out, converted to the wanted dtype, when a layer
//! asks for it by name and expected shape. What no layer asked for is reported by [`Weights::finish`]: a checkpoint
//! that is only partly used belongs to another model. The demo model, which has no files, gets random tensors through
//! the same door. Knows nothing of what the tensors mean.

mod listing;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::View;
use safetensors::tensor::{Metadata, SafeTensors};
use sha2::{Digest, Sha256};

pub(crate) use self::listing::{Listing, list};
use crate::digest::hex;
use crate::layout::Layout;
use crate::noise::Generator;
use crate::{Error, Result};

/// diffusers' file stem (`ModelMixin.save_pretrained`, `WEIGHTS_NAME`).
pub(crate) const DIFFUSERS_STEM: &str = "diffusion_pytorch_model";
/// transformers' file stem.
pub(crate) const TRANSFORMERS_STEM: &str = "model";

/// Of each tensor, for [`digest`].
const DIGESTED_BYTES: usize = 64;

struct MappedFile {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    data_offset: usize,
}

/// The mapped tensors of one component.
struct MappedWeights {
    /// The single file or the index, for messages.
    path: PathBuf,
    files: Vec<MappedFile>,
    file_of: BTreeMap<String, usize>,
    used: Mutex<HashSet<String>>,
}

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
    /// [`Error::Weights`] when there is no such file, when a shard that the index names is missing or does not hold
    /// what the index says, or when a file is truncated or not safetensors at all.
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
    /// [`Error::SurplusTensors`] when tensors were left unread.
    pub(crate) fn finish(&self) -> Result<()> {
        match &self.0 {
            Source::Mapped(mapped) => mapped.finish(),
            Source::Random(_) => Ok(()),
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
    for (name, &index) in &weights.file_of {
        let file = &weights.files[index];
        let info = file.metadata.info(name).expect("file_of lists only names found in the metadata");
        let (begin, end) = info.data_offsets;
        let first = begin..end.min(begin + DIGESTED_BYTES);
        sha256.update(format!("{name} {:?} {:?}\n", info.shape, info.dtype));
        sha256.update(&file.map[file.data_offset + first.start..file.data_offset + first.end]);
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

impl MappedWeights {
    fn open(dir: &Path, stem: &str) -> Result<Self> {
        let (path, shards) = locate(dir, stem)?;
        let mut files = Vec::with_capacity(shards.len());
        let mut file_of = BTreeMap::new();
        for (shard, expected) in shards {
            let file = map_file(&shard)?;
            for name in expected {
                if file.metadata.info(&name).is_none() {
                    return Err(Error::weights(
                        &shard,
                        format!("tensor {name} is missing, {} places it here", path.display()),
                    ));
                }
            }
            for name in file.metadata.tensors().into_keys() {
                if file_of.insert(name.clone(), files.len()).is_some() {
                    return Err(Error::weights(&shard, format!("tensor {name} stands in two shards")));
                }
            }
            files.push(file);
        }
        Ok(Self { path, files, file_of, used: Mutex::default() })
    }

    fn finish(&self) -> Result<()> {
        let used = locked(&self.used);
        let surplus: Vec<&String> = self.file_of.keys().filter(|name| !used.contains(*name)).collect();
        match surplus.first() {
            None => Ok(()),
            Some(name) => Err(Error::SurplusTensors {
                path: self.path.clone(),
                count: surplus.len(),
                name: (*name).clone(),
            }),
        }
    }

    fn load(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let (stored, bytes) = self.stored(name, shape)?;
        Ok(Tensor::from_raw_buffer(bytes, stored, shape, device)?.to_dtype(dtype)?)
    }

    /// A tensor's dtype and bytes as they stand in its file.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<(DType, &[u8])> {
        let Some(&index) = self.file_of.get(name) else {
            return Err(Error::MissingTensor {
                path: self.path.clone(),
                name: name.to_owned(),
                expected: shape.to_vec(),
            });
        };
        let file = &self.files[index];
        let info = file.metadata.info(name).expect("file_of lists only names found in the metadata");
        if info.shape != shape {
            return Err(Error::TensorShape {
                path: file.path.clone(),
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: info.shape.clone(),
            });
        }
        let stored = match info.dtype {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            // diffusers keeps a learned position table that it initialised itself in this dtype.
            safetensors::Dtype::F64 => DType::F64,
            other => {
                let message = format!("tensor {name} is stored as {other:?}, expected F32, F16, BF16 or F64");
                return Err(Error::weights(&file.path, message));
            }
        };
        locked(&self.used).insert(name.to_owned());
        let (begin, end) = info.data_offsets;
        Ok((stored, &file.map[file.data_offset + begin..file.data_offset + end]))
    }
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
    /// [`Error::MissingTensor`], [`Error::TensorShape`], or [`Error::Weights`] for a foreign dtype.
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
            && let (stored, bytes) = mapped.stored(&self.full_name(name), shape)?
            && stored == self.dtype
        {
            return Ok(Cow::Borrowed(bytes));
        }
        Ok(Cow::Owned(View::data(&self.tensor(name, shape)?).into_owned()))
    }

    /// Marks the tensor `name` below this scope as one that is read later.
    ///
    /// # Errors
    /// Those of [`Self::tensor`].
    pub(crate) fn expect(&self, name: &str, shape: &[usize]) -> Result<()> {
        match &self.weights.0 {
            Source::Mapped(mapped) => mapped.stored(&self.full_name(name), shape).map(|_| ()),
            Source::Random(_) => Ok(()),
        }
    }

    /// Whether the files hold `name` below this scope.
    pub(crate) fn contains(&self, name: &str) -> bool {
        match &self.weights.0 {
            Source::Mapped(mapped) => mapped.file_of.contains_key(&self.full_name(name)),
            Source::Random(_) => true,
        }
    }

    /// Marks `name` as known and not needed, if it is there at all.
    pub(crate) fn ignore(&self, name: &str) {
        if let Source::Mapped(mapped) = &self.weights.0 {
            locked(&mapped.used).insert(self.full_name(name));
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

/// The files to map, each with the names that an index places in it.
type Shards = BTreeMap<PathBuf, BTreeSet<String>>;

/// The file or index of a component, and the files to map.
fn locate(dir: &Path, stem: &str) -> Result<(PathBuf, Shards)> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir).map_err(|source| Error::io(dir, source))? {
        let path = entry.map_err(|source| Error::io(dir, source))?.path();
        if path.is_file()
            && let Some(name) = path.file_name()
        {
            names.insert(name.to_string_lossy().into_owned());
        }
    }
    let layout = Layout::of(&names, stem).map_err(|message| Error::weights(dir, message))?;
    let path = dir.join(layout.file_name());
    let shards = match layout {
        Layout::Single(_) => BTreeMap::from([(path.clone(), BTreeSet::new())]),
        Layout::Sharded(_) => read_index(&path)?,
    };
    Ok((path, shards))
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files that an index names.
///
/// # Errors
/// [`Error::Io`]; [`Error::Weights`] for one that is no index, empty, or names files elsewhere.
pub(crate) fn shard_paths(index: &Path) -> Result<Vec<PathBuf>> {
    Ok(read_index(index)?.into_keys().collect())
}

fn read_index(path: &Path) -> Result<Shards> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
    let index: Index =
        serde_json::from_str(&text).map_err(|e| Error::weights(path, format!("not an index: {e}")))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut shards = Shards::new();
    for (tensor, file) in index.weight_map {
        // An index comes from the internet: it may name files beside itself, nothing else.
        if Path::new(&file).file_name().is_none_or(|name| name != file.as_str()) {
            return Err(Error::weights(
                path,
                format!("tensor {tensor}: expected a file name, found {file:?}"),
            ));
        }
        shards.entry(dir.join(file)).or_default().insert(tensor);
    }
    if shards.is_empty() {
        return Err(Error::weights(path, "weight_map is empty"));
    }
    Ok(shards)
}

fn map_file(path: &Path) -> Result<MappedFile> {
    let file = File::open(path).map_err(|source| Error::io(path, source))?;
    #[expect(
        unsafe_code,
        reason = "mapping is unsafe because another process may truncate the file under us"
    )]
    // SAFETY: weight files are written once, by a rename, and only read here.
    let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::io(path, source))?;
    let (header_bytes, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
        Error::weights(path, format!("not a whole safetensors file of {} bytes: {e}", map.len()))
    })?;
    // The header follows its own length, a u64 (safetensors' format).
    let data_offset = header_bytes + size_of::<u64>();
    if metadata.data_len() != map.len() - data_offset {
        let found = map.len() - data_offset;
        return Err(Error::weights(
            path,
            format!("truncated: expected {} bytes of data, found {found}", metadata.data_len()),
        ));
    }
    Ok(MappedFile { path: path.to_owned(), map, metadata, data_offset })
}
