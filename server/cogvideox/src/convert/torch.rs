//! A checkpoint of `torch.save`: a zip of a pickle and one uncompressed file for each storage, mapped.
//!
//! Relies on [`super::pickle`], which runs nothing. Must not know models.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::Dtype;
use zip::ZipArchive;
use zip::result::ZipError;

use super::pickle::{Pickle, Value};
use crate::folder::{Report, Way};
use crate::weights::cast::element_bytes;
use crate::weights::map;
use crate::{Error, Result};

/// More than the pickle of any model: the published ones have a third of a MiB.
const MAX_PICKLE_BYTES: u64 = 256 << 20;
/// Around a model's tensors, in the order in which diffusers looks for them.
const WRAPPERS: [&str; 3] = ["model", "module", "state_dict"];

/// A view of a storage.
#[derive(Clone, Debug)]
pub(super) struct TorchTensor {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    strides: Vec<usize>,
    /// Its bytes within the file, from the first element to the end of the last.
    range: Range<usize>,
}

/// A mapped checkpoint.
pub(crate) struct TorchFile {
    pub(super) path: PathBuf,
    map: Mmap,
    pub(super) tensors: BTreeMap<String, TorchTensor>,
}

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

impl TorchFile {
    /// # Errors
    /// [`Error::Io`]; [`Error::Weights`] for a file of another kind, or a tensor that does not lie within it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let map = map(path)?;
        let tensors = read_tensors(&map).map_err(|message| Error::weights(path, message))?;
        Ok(Self { path: path.to_owned(), map, tensors })
    }

    /// Reads all of it once, so that what was damaged on its way here is not converted; that is `stage`.
    ///
    /// # Errors
    /// [`Error::Weights`], naming the first part whose checksum is not right.
    pub(super) fn verify(&self, stage: &'static str, report: Report<'_>) -> Result<()> {
        let fault = |message: String| Error::weights(&self.path, message);
        let mut archive = ZipArchive::new(Cursor::new(&*self.map)).map_err(|e| fault(e.to_string()))?;
        let way = Way::new(report, stage, archive.decompressed_size().map_or(0, |bytes| bytes as usize));
        for index in 0..archive.len() {
            let name = archive
                .name_for_index(index)
                .and_then(std::result::Result::ok)
                .unwrap_or_default()
                .into_owned();
            archive
                .by_index(index)
                .map_err(std::io::Error::from)
                .and_then(|mut part| std::io::copy(&mut part, &mut std::io::sink()))
                .map(|bytes| way.advance(bytes as usize))
                .map_err(|e| fault(format!("{name:?} is damaged: {e}")))?;
        }
        Ok(())
    }

    /// The elements in their order, little-endian.
    pub(super) fn bytes(&self, tensor: &TorchTensor) -> Cow<'_, [u8]> {
        let stored = &self.map[tensor.range.clone()];
        if tensor.is_contiguous() {
            return Cow::Borrowed(stored);
        }
        let size = element_bytes(tensor.dtype);
        let count = tensor.shape.iter().product::<usize>();
        let mut elements = Vec::with_capacity(count * size);
        let mut index = vec![0; tensor.shape.len()];
        for _ in 0..count {
            let at: usize = index.iter().zip(&tensor.strides).map(|(i, stride)| i * stride).sum();
            elements.extend_from_slice(&stored[at * size..(at + 1) * size]);
            for (i, length) in index.iter_mut().zip(&tensor.shape).rev() {
                *i += 1;
                if *i < *length {
                    break;
                }
                *i = 0;
            }
        }
        Cow::Owned(elements)
    }
}

impl TorchTensor {
    fn is_contiguous(&self) -> bool {
        if self.range.is_empty() {
            return true;
        }
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(length, stride)| {
            let fits = *length == 1 || *stride == expected;
            expected *= length;
            fits
        })
    }
}

fn read_tensors(map: &[u8]) -> std::result::Result<BTreeMap<String, TorchTensor>, String> {
    let mut archive = ZipArchive::new(Cursor::new(map)).map_err(|e| {
        format!("expected a zip as torch.save writes since version 1.6, found something else: {e}")
    })?;
    let folder = archive
        .file_names()
        .flatten()
        .find_map(|name| name.strip_suffix("/data.pkl").map(str::to_owned))
        .ok_or("expected a checkpoint of torch.save, found a zip without data.pkl")?;
    if let Some(order) = contents(&mut archive, &format!("{folder}/byteorder"))?
        && order != b"little"
    {
        return Err("expected little-endian storages, found others".to_owned());
    }
    let pickle = contents(&mut archive, &format!("{folder}/data.pkl"))?.unwrap_or_default();
    let pickle = Pickle::read(&pickle)?;
    let mut reader =
        Reader { pickle: &pickle, archive, folder, map_bytes: map.len(), storages: BTreeMap::new() };
    let entries = reader.state_dict().ok_or("holds no dictionary of tensors")?;
    let mut tensors = BTreeMap::new();
    for (key, value) in entries {
        if let Some(name) = pickle.text(*key)
            && let Some(arguments) = reader.rebuilt(*value)
        {
            if name.chars().any(char::is_control) {
                return Err(format!("tensor {name:?}: expected a name without control characters"));
            }
            let tensor = reader.tensor(arguments).map_err(|message| format!("tensor {name}: {message}"))?;
            tensors.insert(name.to_owned(), tensor);
        }
    }
    Ok(tensors)
}

/// A small file of the archive; none if it is not there.
fn contents(archive: &mut Archive<'_>, name: &str) -> std::result::Result<Option<Vec<u8>>, String> {
    let file = match archive.by_name(name) {
        Ok(file) => file,
        Err(ZipError::FileNotFound) => return Ok(None),
        Err(error) => return Err(format!("{name:?}: {error}")),
    };
    let mut bytes = Vec::new();
    file.take(MAX_PICKLE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| format!("{name:?}: {error}"))?;
    if bytes.len() as u64 > MAX_PICKLE_BYTES {
        return Err(format!("{name:?}: expected at most {MAX_PICKLE_BYTES} bytes, found more"));
    }
    Ok(Some(bytes))
}

struct Reader<'a> {
    pickle: &'a Pickle,
    archive: Archive<'a>,
    /// Within the archive.
    folder: String,
    map_bytes: usize,
    storages: BTreeMap<String, Range<usize>>,
}

impl<'a> Reader<'a> {
    fn state_dict(&self) -> Option<&'a [(Value, Value)]> {
        let mut entries = self.pickle.dict(self.pickle.root)?;
        for wrapper in WRAPPERS {
            let inner = entries.iter().find(|(key, _)| self.pickle.text(*key) == Some(wrapper));
            if let Some(inner) = inner.and_then(|(_, value)| self.pickle.dict(*value)) {
                entries = inner;
            }
        }
        Some(entries)
    }

    /// The arguments of torch's function that makes a tensor; none if this is no tensor.
    fn rebuilt(&self, value: Value) -> Option<&'a [Value]> {
        match self.pickle.call(value)? {
            ("torch._utils _rebuild_tensor_v2", arguments) => Some(arguments),
            ("torch._utils _rebuild_parameter", arguments) => {
                let (name, arguments) = self.pickle.call(*arguments.first()?)?;
                (name == "torch._utils _rebuild_tensor_v2").then_some(arguments)
            }
            _ => None,
        }
    }

    fn tensor(&mut self, arguments: &[Value]) -> std::result::Result<TorchTensor, String> {
        let [storage, Value::Int(offset), shape, strides, ..] = arguments else {
            return Err("is not described as torch does".to_owned());
        };
        let storage = self.pickle.persistent(*storage).ok_or("has no storage")?;
        let [_, class, key, ..] = storage else {
            return Err("has no storage".to_owned());
        };
        let class = self.pickle.global(*class).unwrap_or("none");
        let dtype =
            dtype_of(class).ok_or_else(|| format!("expected a storage of plain numbers, found {class:?}"))?;
        let shape = self.sizes(*shape).ok_or("has no shape")?;
        let strides = self.sizes(*strides).ok_or("has no strides")?;
        if shape.len() != strides.len() {
            return Err(format!("has {} dimensions and {} strides", shape.len(), strides.len()));
        }
        let key = self.pickle.text(*key).ok_or("its storage has no name")?;
        let storage = self.storage(key)?;
        let range = view(&storage, *offset, &shape, &strides, element_bytes(dtype))
            .ok_or_else(|| format!("does not lie within its storage {key:?} of {} bytes", storage.len()))?;
        Ok(TorchTensor { dtype, shape, strides, range })
    }

    fn sizes(&self, value: Value) -> Option<Vec<usize>> {
        let size = |item: &Value| match item {
            Value::Int(size) => usize::try_from(*size).ok(),
            _ => None,
        };
        self.pickle.tuple(value)?.iter().map(size).collect()
    }

    /// Where a storage lies in the file.
    fn storage(&mut self, key: &str) -> std::result::Result<Range<usize>, String> {
        if let Some(range) = self.storages.get(key) {
            return Ok(range.clone());
        }
        let name = format!("{}/data/{key}", self.folder);
        let map_bytes = self.map_bytes;
        let file = self.archive.by_name(&name).map_err(|error| format!("storage {name:?}: {error}"))?;
        if file.compression() != zip::CompressionMethod::Stored {
            return Err(format!("storage {name:?} is compressed, which torch.save does not do"));
        }
        let start = file.data_start().ok_or("its storage has no place")? as usize;
        let end = start.checked_add(file.size() as usize).filter(|end| *end <= map_bytes);
        let range = start..end.ok_or_else(|| format!("storage {name:?} ends behind the file"))?;
        self.storages.insert(key.to_owned(), range.clone());
        Ok(range)
    }
}

fn dtype_of(class: &str) -> Option<Dtype> {
    Some(match class {
        "torch FloatStorage" => Dtype::F32,
        "torch HalfStorage" => Dtype::F16,
        "torch BFloat16Storage" => Dtype::BF16,
        "torch DoubleStorage" => Dtype::F64,
        // No weights, but what stands beside them: counters, masks.
        "torch LongStorage" => Dtype::I64,
        "torch IntStorage" => Dtype::I32,
        "torch ShortStorage" => Dtype::I16,
        "torch CharStorage" => Dtype::I8,
        "torch ByteStorage" => Dtype::U8,
        "torch BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}

/// The bytes between a view's first and last element; none if they do not lie within the storage.
fn view(
    storage: &Range<usize>,
    offset: i64,
    shape: &[usize],
    strides: &[usize],
    element: usize,
) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?.checked_mul(element)?.checked_add(storage.start)?;
    // Also bounds the memory that a view with repeated elements would take.
    let count = shape.iter().try_fold(1_usize, |count, length| count.checked_mul(*length))?;
    if count.checked_mul(element)? > storage.len() {
        return None;
    }
    if count == 0 {
        return Some(storage.start..storage.start);
    }
    let mut last = 0_usize;
    for (length, stride) in shape.iter().zip(strides) {
        last = last.checked_add(length.checked_sub(1)?.checked_mul(*stride)?)?;
    }
    let end = last.checked_add(1)?.checked_mul(element)?.checked_add(start)?;
    (end <= storage.end).then_some(start..end)
}
