//! One object of cuDNN's backend API: created, given attributes, finalized, destroyed.
//!
//! The only place that calls the backend's setters and getters. Relies on [`super::sys`]; must not know which
//! attributes make sense where: cuDNN checks that, and its words come back as errors.

use std::ffi::c_void;

use super::library::Library;
use super::sys::{Kind, Opaque, value_type};
use crate::Result;

/// A backend descriptor, destroyed when dropped.
#[derive(Debug)]
pub(super) struct Descriptor {
    library: Library,
    kind: Kind,
    raw: Opaque,
}

#[expect(unsafe_code, reason = "cuDNN's descriptors are pointers")]
// SAFETY: a descriptor is memory of the process, bound to no thread.
unsafe impl Send for Descriptor {}
#[expect(unsafe_code, reason = "cuDNN's descriptors are pointers")]
// SAFETY: through a shared reference it is only read, after which it is final (`set_*` take it by `&mut`). Execution
// plans are the exception, and `Plan` is not `Sync`.
unsafe impl Sync for Descriptor {}

#[expect(unsafe_code, reason = "cuDNN's API")]
impl Descriptor {
    /// Without attributes.
    pub(super) fn new(library: &Library, kind: Kind) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the call.
        let status = unsafe { (library.functions().create_descriptor)(kind.value, &raw mut raw) };
        library.check("cudnnBackendCreateDescriptor", kind.name, status)?;
        Ok(Self { library: library.clone(), kind, raw })
    }

    /// Checked by cuDNN and final from here on.
    pub(super) fn finalize(self) -> Result<Self> {
        // SAFETY: created in `new`.
        let status = unsafe { (self.library.functions().finalize)(self.raw) };
        self.library.check("cudnnBackendFinalize", self.kind.name, status)?;
        Ok(self)
    }

    pub(super) fn raw(&self) -> Opaque {
        self.raw
    }

    /// # Safety
    /// `values` points to `count` values of the C type that `kind` names.
    unsafe fn set(&mut self, attribute: u32, kind: u32, count: usize, values: *const c_void) -> Result<()> {
        // SAFETY: the caller's promise; cuDNN copies the values.
        let status = unsafe {
            (self.library.functions().set_attribute)(self.raw, attribute, kind, count as i64, values)
        };
        let subject = format_args!("{}, attribute {attribute}", self.kind.name);
        self.library.check("cudnnBackendSetAttribute", subject, status)
    }

    pub(super) fn set_i64s(&mut self, attribute: u32, values: &[i64]) -> Result<()> {
        // SAFETY: CUDNN_TYPE_INT64 is int64_t.
        unsafe { self.set(attribute, value_type::INT64, values.len(), values.as_ptr().cast()) }
    }

    pub(super) fn set_f32(&mut self, attribute: u32, value: f32) -> Result<()> {
        // SAFETY: CUDNN_TYPE_FLOAT is float.
        unsafe { self.set(attribute, value_type::FLOAT, 1, (&raw const value).cast()) }
    }

    pub(super) fn set_bool(&mut self, attribute: u32, value: bool) -> Result<()> {
        // SAFETY: CUDNN_TYPE_BOOLEAN is bool, of one byte in both languages.
        unsafe { self.set(attribute, value_type::BOOLEAN, 1, (&raw const value).cast()) }
    }

    /// One value of the C enum that `kind` names: these are 32 bits wide.
    pub(super) fn set_enum(&mut self, attribute: u32, kind: u32, value: u32) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.set(attribute, kind, 1, (&raw const value).cast()) }
    }

    pub(super) fn set_chars(&mut self, attribute: u32, value: &str) -> Result<()> {
        // SAFETY: CUDNN_TYPE_CHAR is char; the count is the length, no zero is looked for.
        unsafe { self.set(attribute, value_type::CHAR, value.len(), value.as_ptr().cast()) }
    }

    pub(super) fn set_descriptors(&mut self, attribute: u32, values: &[&Self]) -> Result<()> {
        let values: Vec<Opaque> = values.iter().map(|descriptor| descriptor.raw).collect();
        // SAFETY: CUDNN_TYPE_BACKEND_DESCRIPTOR is cudnnBackendDescriptor_t, a pointer.
        unsafe { self.set(attribute, value_type::BACKEND_DESCRIPTOR, values.len(), values.as_ptr().cast()) }
    }

    /// A `cudnnHandle_t` that lives.
    pub(super) fn set_handle(&mut self, attribute: u32, value: &super::Handle) -> Result<()> {
        let value = value.raw();
        // SAFETY: CUDNN_TYPE_HANDLE is cudnnHandle_t, a pointer.
        unsafe { self.set(attribute, value_type::HANDLE, 1, (&raw const value).cast()) }
    }

    /// Addresses, which are not looked at before they are used by an execution.
    pub(super) fn set_addresses(&mut self, attribute: u32, values: &[*mut c_void]) -> Result<()> {
        // SAFETY: CUDNN_TYPE_VOID_PTR is void *.
        unsafe { self.set(attribute, value_type::VOID_PTR, values.len(), values.as_ptr().cast()) }
    }

    /// How many values were written of those that there are.
    ///
    /// # Safety
    /// `values` has room for `room` values of the C type that `kind` names.
    unsafe fn get(&self, attribute: u32, kind: u32, room: usize, values: *mut c_void) -> Result<usize> {
        let mut count = 0;
        // SAFETY: the caller's promise; `count` is valid for the call.
        let status = unsafe {
            (self.library.functions().get_attribute)(
                self.raw,
                attribute,
                kind,
                room as i64,
                &raw mut count,
                values,
            )
        };
        let subject = format_args!("{}, attribute {attribute}", self.kind.name);
        self.library.check("cudnnBackendGetAttribute", subject, status)?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    pub(super) fn i64(&self, attribute: u32) -> Result<i64> {
        let mut value = 0i64;
        // SAFETY: room for one.
        unsafe { self.get(attribute, value_type::INT64, 1, (&raw mut value).cast()) }?;
        Ok(value)
    }

    /// Values of a C enum, known here or not.
    pub(super) fn enums(&self, attribute: u32, kind: u32) -> Result<Vec<u32>> {
        let mut values = vec![0u32; 32];
        // SAFETY: C enums are 32 bits wide, and there is room for 32.
        let count = unsafe { self.get(attribute, kind, values.len(), values.as_mut_ptr().cast()) }?;
        values.truncate(count);
        Ok(values)
    }

    /// Descriptors of `kind`, filled in by the call; they may not be finalized again.
    pub(super) fn descriptors(&self, attribute: u32, kind: Kind) -> Result<Vec<Self>> {
        // SAFETY: without room nothing is written.
        let count = unsafe { self.get(attribute, value_type::BACKEND_DESCRIPTOR, 0, std::ptr::null_mut()) }?;
        self.some_descriptors(attribute, kind, count)
    }

    /// The one descriptor of an attribute that has one.
    pub(super) fn descriptor(&self, attribute: u32, kind: Kind) -> Result<Option<Self>> {
        Ok(self.some_descriptors(attribute, kind, 1)?.pop())
    }

    fn some_descriptors(&self, attribute: u32, kind: Kind, count: usize) -> Result<Vec<Self>> {
        let mut values = (0..count).map(|_| Self::new(&self.library, kind)).collect::<Result<Vec<_>>>()?;
        let mut raw: Vec<Opaque> = values.iter().map(Self::raw).collect();
        // SAFETY: the array holds `count` descriptors, into which the answer is written.
        let count =
            unsafe { self.get(attribute, value_type::BACKEND_DESCRIPTOR, count, raw.as_mut_ptr().cast()) }?;
        values.truncate(count);
        Ok(values)
    }
}

impl Drop for Descriptor {
    #[expect(unsafe_code, reason = "cuDNN's API")]
    fn drop(&mut self) {
        // SAFETY: created in `new`; a finalized descriptor keeps what it needs of others.
        let _ = unsafe { (self.library.functions().destroy_descriptor)(self.raw) };
    }
}
