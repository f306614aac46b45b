//! A contiguous array on a device: shared memory, its dimensions and dtype.

use std::sync::Arc;

use half::{bf16, f16};

use crate::launch::Global;
use crate::{Buffer, Device, Dtype, Element, Error, Result};

/// Row-major and contiguous. Cloning shares the memory; an operation says if it writes into a tensor it was given.
#[derive(Clone, Debug)]
pub struct Tensor {
    buffer: Arc<Buffer>,
    offset_bytes: usize,
    dims: Vec<usize>,
    dtype: Dtype,
}

impl Tensor {
    /// Of unknown content.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn empty(device: &Device, dims: &[usize], dtype: Dtype) -> Result<Self> {
        let bytes = dims.iter().product::<usize>() * dtype.bytes();
        Ok(Self {
            buffer: Arc::new(Buffer::new(device, bytes)?),
            offset_bytes: 0,
            dims: dims.to_vec(),
            dtype,
        })
    }

    /// All bytes 0, which is 0 in every dtype.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn zeros(device: &Device, dims: &[usize], dtype: Dtype) -> Result<Self> {
        let tensor = Self::empty(device, dims, dtype)?;
        tensor.fill_bytes(0)?;
        Ok(tensor)
    }

    /// From little-endian elements.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of bytes, [`Error::OutOfMemory`].
    pub fn from_bytes(device: &Device, dims: &[usize], dtype: Dtype, bytes: &[u8]) -> Result<Self> {
        let tensor = Self::empty(device, dims, dtype)?;
        tensor.upload(bytes)?;
        Ok(tensor)
    }

    /// From elements.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of elements, [`Error::OutOfMemory`].
    pub fn from_slice<T: Element>(device: &Device, dims: &[usize], values: &[T]) -> Result<Self> {
        let mut bytes = Vec::with_capacity(size_of_val(values));
        T::write(values, &mut bytes);
        Self::from_bytes(device, dims, T::DTYPE, &bytes)
    }

    /// From `f32` values, rounded to nearest even in `dtype`, which is one of f32, f16 and bf16.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::OutOfMemory`].
    pub fn from_f32(device: &Device, dims: &[usize], dtype: Dtype, values: &[f32]) -> Result<Self> {
        match dtype {
            Dtype::F32 => Self::from_slice(device, dims, values),
            Dtype::F16 => {
                let values: Vec<f16> = values.iter().map(|x| f16::from_f32(*x)).collect();
                Self::from_slice(device, dims, &values)
            }
            Dtype::Bf16 => {
                let values: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
                Self::from_slice(device, dims, &values)
            }
            other => Err(Error::shape("from_f32", format!("expected f32, f16 or bf16, found {other}"))),
        }
    }

    /// Overwrites all elements.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of bytes.
    pub fn upload(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() != self.bytes() {
            let message =
                format!("expected {} bytes for {:?}, found {}", self.bytes(), self.dims, bytes.len());
            return Err(Error::shape("upload", message));
        }
        if bytes.is_empty() { Ok(()) } else { self.device().backend().upload(self.address(), bytes) }
    }

    /// All elements, after all work asked for so far.
    ///
    /// # Errors
    /// [`Error::Lost`] if the device faulted.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.bytes()];
        if !bytes.is_empty() {
            self.device().backend().download(self.address(), &mut bytes)?;
        }
        Ok(bytes)
    }

    /// All elements.
    ///
    /// # Errors
    /// [`Error::Shape`] for another dtype than `T`'s.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.dtype != T::DTYPE {
            return Err(Error::shape("to_vec", format!("expected {}, found {}", T::DTYPE, self.dtype)));
        }
        Ok(T::read(&self.to_bytes()?))
    }

    /// All elements of an f32, f16 or bf16 tensor, widened.
    ///
    /// # Errors
    /// [`Error::Shape`] for another dtype.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        match self.dtype {
            Dtype::F16 => Ok(self.to_vec::<f16>()?.iter().map(|x| x.to_f32()).collect()),
            Dtype::Bf16 => Ok(self.to_vec::<bf16>()?.iter().map(|x| x.to_f32()).collect()),
            _ => self.to_vec(),
        }
    }

    /// Overwrites every byte.
    ///
    /// # Errors
    /// What the driver says.
    pub fn fill_bytes(&self, value: u8) -> Result<()> {
        if self.is_empty() {
            Ok(())
        } else {
            self.device().backend().fill(self.address(), value, self.bytes())
        }
    }

    /// Overwrites all elements by those of another tensor on this device.
    ///
    /// # Errors
    /// [`Error::Shape`] if size or dtype differ.
    pub fn copy_from(&self, other: &Self) -> Result<()> {
        self.device().expect_same("copy_from", other.device())?;
        if (self.len(), self.dtype) != (other.len(), other.dtype) {
            let message = format!(
                "expected {} of {:?}, found {} of {:?}",
                self.dtype, self.dims, other.dtype, other.dims
            );
            return Err(Error::shape("copy_from", message));
        }
        if self.is_empty() {
            Ok(())
        } else {
            self.device().backend().copy(self.address(), other.address(), self.bytes())
        }
    }

    /// Sizes, the slowest dimension first.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The sizes of a tensor that must have `N` dimensions.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number.
    pub fn dims_n<const N: usize>(&self, op: &'static str) -> Result<[usize; N]> {
        let found = &self.dims;
        found
            .as_slice()
            .try_into()
            .map_err(|_| Error::shape(op, format!("expected {N} dimensions, found {found:?}")))
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All elements'.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.bytes()
    }

    /// Of an element.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Where it lies.
    pub fn device(&self) -> &Device {
        self.buffer.device()
    }

    /// The same memory in other dimensions.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of elements.
    pub fn reshape(&self, dims: &[usize]) -> Result<Self> {
        if dims.iter().product::<usize>() != self.len() {
            return Err(Error::shape("reshape", format!("{:?} cannot be {dims:?}", self.dims)));
        }
        Ok(Self { dims: dims.to_vec(), ..self.clone() })
    }

    /// `count` entries of the slowest dimension from `first` on, in the same memory.
    ///
    /// # Errors
    /// [`Error::Shape`] beyond the end.
    pub fn slice(&self, first: usize, count: usize) -> Result<Self> {
        let Some((&outer, inner)) = self.dims.split_first() else {
            return Err(Error::shape("slice", "a scalar has no dimensions"));
        };
        if first + count > outer {
            return Err(Error::shape("slice", format!("{first} to {} of {outer}", first + count)));
        }
        let row_bytes = inner.iter().product::<usize>() * self.dtype.bytes();
        let mut dims = self.dims.clone();
        dims[0] = count;
        Ok(Self { dims, offset_bytes: self.offset_bytes + first * row_bytes, ..self.clone() })
    }

    /// Part of this tensor's bytes as a tensor of its own.
    ///
    /// # Errors
    /// [`Error::Shape`] beyond the end, or where elements would not be aligned.
    pub fn view(&self, offset_bytes: usize, dims: &[usize], dtype: Dtype) -> Result<Self> {
        let bytes = dims.iter().product::<usize>() * dtype.bytes();
        if offset_bytes + bytes > self.bytes()
            || !(self.offset_bytes + offset_bytes).is_multiple_of(dtype.bytes())
        {
            let message =
                format!("bytes {offset_bytes} to {} of {} as {dtype}", offset_bytes + bytes, self.bytes());
            return Err(Error::shape("view", message));
        }
        let offset_bytes = self.offset_bytes + offset_bytes;
        Ok(Self { buffer: Arc::clone(&self.buffer), offset_bytes, dims: dims.to_vec(), dtype })
    }

    /// Where its first element is.
    pub(crate) fn address(&self) -> u64 {
        self.buffer.address() + self.offset_bytes as u64
    }

    /// As a kernel's argument.
    pub(crate) fn global(&self) -> Global {
        Global { address: self.address(), len: self.len() as u64 }
    }
}
