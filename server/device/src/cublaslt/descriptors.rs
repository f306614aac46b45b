//! The library's descriptors, destroyed with their owner, and its statuses.

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use sys::cublasLtMatmulDescAttributes_t as Attribute;
use sys::cublasLtMatmulPreferenceAttributes_t as Preference;

use crate::ops::gemm::Product;
use crate::status::Failure;
use crate::{Dtype, Error, Result};

/// False if the library says that it cannot do this, rather than that something broke.
pub(super) fn done_or_refused(outcome: Result<()>) -> Result<bool> {
    match outcome {
        Err(Error::Unsupported { .. }) => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

/// A handle of the library.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handle<T>(pub(super) T);

#[expect(unsafe_code, reason = "the library's handles are pointers")]
// SAFETY: the handle may be used from any thread; descriptors are only used under the lock on `plans`.
unsafe impl<T> Send for Handle<T> {}
#[expect(unsafe_code, reason = "the library's handles are pointers")]
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

/// What sums and the factors before them are in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arithmetic {
    F32,
    I32,
}

impl Arithmetic {
    /// For products of this dtype.
    pub(super) fn of(input: Dtype) -> Self {
        if input == Dtype::I8 { Self::I32 } else { Self::F32 }
    }

    /// 1 for the product and 1 or 0 for what the result holds, in the bits that the library reads.
    pub(super) fn factors(self, accumulate: bool) -> (u32, u32) {
        let number = |one: bool| match self {
            Self::F32 => f32::from(u8::from(one)).to_bits(),
            Self::I32 => u32::from(one),
        };
        (number(true), number(accumulate))
    }

    fn types(self) -> (sys::cublasComputeType_t, sys::cudaDataType) {
        match self {
            Self::F32 => (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F),
            Self::I32 => (sys::cublasComputeType_t::CUBLAS_COMPUTE_32I, sys::cudaDataType::CUDA_R_32I),
        }
    }
}

/// What is multiplied how, and what follows.
#[derive(Debug)]
pub(super) struct Descriptor(pub(super) Handle<sys::cublasLtMatmulDesc_t>);

/// A matrix' size and type.
#[derive(Debug)]
pub(super) struct Layout(pub(super) Handle<sys::cublasLtMatrixLayout_t>);

/// What the heuristic may count on.
pub(super) struct Preferences(pub(super) sys::cublasLtMatmulPreference_t);

pub(super) fn check<T>(call: &'static str, outcome: std::result::Result<T, CublasError>) -> Result<T> {
    outcome.map_err(|error| Failure::of_cublas(error.0).error(call, format!("{error}")))
}

#[expect(unsafe_code, reason = "the library's API")]
impl Descriptor {
    pub(super) fn new(arithmetic: Arithmetic) -> Result<Self> {
        let (compute, factors) = arithmetic.types();
        let created = result::create_matmul_desc(compute, factors);
        Ok(Self(Handle(check("cublasLtMatmulDescCreate", created)?)))
    }

    /// False if the library does not know the value.
    pub(super) fn set<T: Copy>(&self, attribute: Attribute, value: T) -> Result<bool> {
        // SAFETY: the descriptor lives, and the value is copied in the call.
        let outcome = unsafe {
            result::set_matmul_desc_attribute(self.0.0, attribute, (&raw const value).cast(), size_of::<T>())
        };
        done_or_refused(check("cublasLtMatmulDescSetAttribute", outcome))
    }

    /// A scale for each row of W and of x.
    pub(super) fn scale_rows_and_columns(&self) -> Result<bool> {
        let vector = sys::cublasLtMatmulMatrixScale_t::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F as i32;
        Ok(self.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, vector)?
            && self.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, vector)?)
    }

    /// Where this product's vectors are.
    pub(super) fn set_pointers(&self, product: &Product<'_>) -> Result<()> {
        let vectors = [
            (Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias),
            (Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, product.column_scales),
            (Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, product.row_scales),
        ];
        for (attribute, vector) in vectors {
            if let Some(vector) = vector
                && !self.set(attribute, vector.address())?
            {
                let message = format!("{attribute:?} was refused");
                return Err(Error::Call { call: "cublasLtMatmulDescSetAttribute", message });
            }
        }
        Ok(())
    }
}

#[expect(unsafe_code, reason = "the library's API")]
impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0.0) };
    }
}

impl Layout {
    /// Columns that follow each other without a gap.
    pub(super) fn new(data_type: sys::cudaDataType, rows: usize, columns: usize) -> Result<Self> {
        let created = result::create_matrix_layout(data_type, rows as u64, columns as u64, rows as i64);
        Ok(Self(Handle(check("cublasLtMatrixLayoutCreate", created)?)))
    }
}

#[expect(unsafe_code, reason = "the library's API")]
impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0.0) };
    }
}

#[expect(unsafe_code, reason = "the library's API")]
impl Preferences {
    pub(super) fn new(alignment_bytes: u32, workspace_bytes: usize) -> Result<Self> {
        let preferences = Self(check("cublasLtMatmulPreferenceCreate", result::create_matmul_pref())?);
        preferences.set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes as u64)?;
        for matrix in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preferences.set(matrix, alignment_bytes)?;
        }
        // Parts of a sum are added in 32 bits, never in the result's type, in which they could overflow.
        let scheme = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        preferences.set(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, scheme)?;
        Ok(preferences)
    }

    fn set<T: Copy>(&self, attribute: Preference, value: T) -> Result<()> {
        // SAFETY: the preferences live, and the value is copied in the call.
        let outcome = unsafe {
            result::set_matmul_pref_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>())
        };
        check("cublasLtMatmulPreferenceSetAttribute", outcome)
    }
}

#[expect(unsafe_code, reason = "the library's API")]
impl Drop for Preferences {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
