//! A component's files, mapped: which there are, where in them a tensor stands, and its bytes.
//!
//! Knows dtypes and shapes as they are stored, not who asks.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, SafeTensors, TensorInfo};

use super::eight_bit::{EightBitDtype, scale_name};
use super::locked;
use crate::layout::Layout;
use crate::{Error, Result};

/// One safetensors file.
pub(super) struct MappedFile {
    pub(super) path: PathBuf,
    pub(super) map: Mmap,
    pub(super) metadata: Metadata,
    data_offset: usize,
}

/// The mapped tensors of one component.
pub(crate) struct MappedWeights {
    /// The single file or the index, for messages.
    path: PathBuf,
    files: Vec<MappedFile>,
    file_of: BTreeMap<String, usize>,
    used: Mutex<HashSet<String>>,
}

/// A tensor as its file has it.
struct Stored<'a> {
    path: &'a Path,
    dtype: Dtype,
    bytes: &'a [u8],
}

/// A weight that is stored in 8 bits.
pub(crate) struct EightBitWeight<'a> {
    pub(crate) dtype: EightBitDtype,
    /// In the weight's order.
    pub(crate) values: &'a [u8],
    /// Of each row.
    pub(crate) scales: Vec<f32>,
}

impl MappedWeights {
    pub(crate) fn open(dir: &Path, stem: &str) -> Result<Self> {
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

    pub(super) fn finish(&self) -> Result<()> {
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

    pub(super) fn load(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        if let Some(EightBitWeight { dtype: stored, values, scales }) = self.eight_bit(name, shape)? {
            let values = stored.dequantise(values, &scales);
            return Ok(Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?);
        }
        let (stored, bytes) = self.float(name, shape)?;
        Ok(Tensor::from_raw_buffer(bytes, stored, shape, device)?.to_dtype(dtype)?)
    }

    /// A tensor's bytes if they are of `dtype`.
    pub(super) fn bytes_of(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Option<&[u8]>> {
        if self.dtype_of(name).and_then(EightBitDtype::of_stored).is_some() {
            return Ok(None);
        }
        let (stored, bytes) = self.float(name, shape)?;
        Ok((stored == dtype).then_some(bytes))
    }

    /// Looks for a tensor, and at what it would be loaded from.
    pub(super) fn expect(&self, name: &str, shape: &[usize]) -> Result<()> {
        match self.eight_bit(name, shape)? {
            Some(_) => Ok(()),
            None => self.float(name, shape).map(drop),
        }
    }

    /// A weight that is stored in 8 bits; none if it is stored otherwise.
    pub(super) fn eight_bit(&self, name: &str, shape: &[usize]) -> Result<Option<EightBitWeight<'_>>> {
        let Some(dtype) = self.dtype_of(name).and_then(EightBitDtype::of_stored) else { return Ok(None) };
        let Stored { bytes: values, .. } = self.stored(name, shape)?;
        let scales_name = scale_name(name);
        let scales = self.stored(&scales_name, &shape[..shape.len().min(1)])?;
        if scales.dtype != Dtype::F32 {
            let message = format!("tensor {scales_name} is stored as {:?}, expected F32", scales.dtype);
            return Err(Error::weights(scales.path, message));
        }
        let scales = scales.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok(Some(EightBitWeight { dtype, values, scales }))
    }

    /// What some of the tensors are stored in, if it is 8 bits.
    pub(crate) fn eight_bit_dtype(&self) -> Option<EightBitDtype> {
        self.file_of.keys().find_map(|name| EightBitDtype::of_stored(self.dtype_of(name)?))
    }

    /// A tensor's dtype and bytes as they stand in its file.
    fn float(&self, name: &str, shape: &[usize]) -> Result<(DType, &[u8])> {
        let Stored { path, dtype, bytes } = self.stored(name, shape)?;
        let dtype = match dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            // diffusers keeps a learned position table that it initialised itself in this dtype.
            Dtype::F64 => DType::F64,
            other => {
                let message = format!(
                    "tensor {name} is stored as {other:?}, expected F32, F16, BF16, F64, or I8 or F8_E4M3 with scales"
                );
                return Err(Error::weights(path, message));
            }
        };
        Ok((dtype, bytes))
    }

    fn dtype_of(&self, name: &str) -> Option<Dtype> {
        let file = &self.files[*self.file_of.get(name)?];
        file.metadata.info(name).map(|info| info.dtype)
    }

    fn stored(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>> {
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
        locked(&self.used).insert(name.to_owned());
        Ok(Stored { path: &file.path, dtype: info.dtype, bytes: file.bytes(info) })
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.file_of.contains_key(name)
    }

    pub(super) fn ignore(&self, name: String) {
        locked(&self.used).insert(name);
    }

    /// Every tensor's name, header and bytes, in the order of names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &TensorInfo, &[u8])> {
        self.file_of.iter().map(|(name, &index)| {
            let file = &self.files[index];
            let info = file.metadata.info(name).expect("file_of lists only names found in the metadata");
            (name.as_str(), info, file.bytes(info))
        })
    }
}

impl MappedFile {
    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        let (begin, end) = info.data_offsets;
        &self.map[self.data_offset + begin..self.data_offset + end]
    }
}

/// The files to map, each with the names that an index places in it.
pub(super) type Shards = BTreeMap<PathBuf, BTreeSet<String>>;

/// The file or index of a component, and the files to map.
pub(super) fn locate(dir: &Path, stem: &str) -> Result<(PathBuf, Shards)> {
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

/// A file of weights or a checkpoint, as memory.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|source| Error::io(path, source))?;
    #[expect(
        unsafe_code,
        reason = "mapping is unsafe because another process may truncate the file under us"
    )]
    // SAFETY: such files are the operator's own, written once, by a rename, and only read here.
    unsafe { Mmap::map(&file) }.map_err(|source| Error::io(path, source))
}

pub(super) fn map_file(path: &Path) -> Result<MappedFile> {
    let map = map(path)?;
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
