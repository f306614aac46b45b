//! Matrix products by NVIDIA's cuBLASLt, which is loaded at run time.
//!
//! The library thinks in columns: a row-major `y = x W^T` is its `y^T = W x^T`, so W is its A (transposed), x its B, y
//! its D, and m and n change places. A plan (descriptors and an algorithm) is kept for each shape; the algorithm is
//! the library's first proposal that works, or if so asked the fastest of its first, measured on the first product of
//! that shape, which overwrites the result with itself; never so where the product is added to the result. What the
//! library refuses, some of it at the real product only, before it writes anything, is no error but `false`: the
//! caller has another way. Knows operands, not layers.

mod descriptors;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result;
use cudarc::cublaslt::sys;
use descriptors::{Arithmetic, Descriptor, Handle, Layout, Preferences, check, done_or_refused};
use sys::cublasLtMatmulDescAttributes_t as Attribute;
use sys::cublasStatus_t as Status;

use crate::cuda::Cuda;
use crate::ops::epilogue::Activation;
use crate::ops::gemm::{Product, Sizes};
use crate::{Dtype, Error, Result, Tensor};

/// That of CUDA 13.0; earlier ones have other enumerations.
const LEAST_VERSION: usize = 130_000;
/// `CUBLAS_OP_T`, which is not among the bindings.
const TRANSPOSED: i32 = 1;
/// Proposals that the heuristic is asked for, and how many of them are measured.
const PROPOSALS: usize = 16;
const MEASURED: usize = 8;
const WARM_UP_RUNS: usize = 2;
const MEASURED_RUNS: usize = 5;
/// The alignment that the library takes for granted.
const BEST_ALIGNMENT_BYTES: u32 = 256;

/// The library, ready for one GPU.
#[derive(Debug)]
pub(crate) struct CublasLt {
    handle: Handle<sys::cublasLtHandle_t>,
    version: usize,
    /// Measures proposals; otherwise takes the first that works.
    measured: bool,
    plans: Mutex<HashMap<Key, Option<Plan>>>,
}

/// All that an algorithm depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    m: usize,
    n: usize,
    k: usize,
    input: Dtype,
    out: Dtype,
    bias: bool,
    /// Whether the result is added to: its C is its D then.
    accumulate: bool,
    activation: Activation,
    /// Whether rows and columns have scales.
    scaled: bool,
    alignment_bytes: u32,
}

/// How a shape is multiplied.
#[derive(Debug)]
struct Plan {
    descriptor: Descriptor,
    weight: Layout,
    x: Layout,
    out: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// What one call is given beside its plan.
#[derive(Clone, Copy)]
struct Operands<'a> {
    product: &'a Product<'a>,
    workspace: &'a Tensor,
}

fn data_type(dtype: Dtype) -> Result<sys::cudaDataType> {
    match dtype {
        Dtype::F32 => Ok(sys::cudaDataType::CUDA_R_32F),
        Dtype::F16 => Ok(sys::cudaDataType::CUDA_R_16F),
        Dtype::Bf16 => Ok(sys::cudaDataType::CUDA_R_16BF),
        Dtype::F8E4M3 => Ok(sys::cudaDataType::CUDA_R_8F_E4M3),
        Dtype::I8 => Ok(sys::cudaDataType::CUDA_R_8I),
        Dtype::I32 => Ok(sys::cudaDataType::CUDA_R_32I),
        Dtype::U8 => Err(Error::shape("cublasLtMatmul", format!("no products in {dtype}"))),
    }
}

#[expect(unsafe_code, reason = "the library's API")]
impl CublasLt {
    /// For the GPU that is the calling thread's.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without the library, or with one of another major version; [`Error::OutOfMemory`].
    pub(crate) fn new(measured: bool) -> Result<Self> {
        // SAFETY: it only tries to load the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::Unavailable("cuBLASLt (libcublasLt.so.13) was not found".to_owned()));
        }
        // SAFETY: the library is present.
        let version = unsafe { sys::cublasLtGetVersion() };
        if version < LEAST_VERSION {
            let message = format!("cuBLASLt: expected version {LEAST_VERSION} or newer, found {version}");
            return Err(Error::Unavailable(message));
        }
        let handle =
            result::create_handle().map_err(|error| match check::<()>("cublasLtCreate", Err(error)) {
                Err(error) if error.is_of_device() => error,
                _ => Error::Unavailable(format!("cuBLASLt {version}: cublasLtCreate: {error}")),
            })?;
        Ok(Self { handle: Handle(handle), version, measured, plans: Mutex::default() })
    }

    /// For an operator.
    pub(crate) fn note(&self) -> String {
        // The library's own numbering: 130002 is 13.0.2.
        let (major, minor, patch) = (self.version / 10_000, self.version / 100 % 100, self.version % 100);
        format!("cuBLASLt {major}.{minor}.{patch}")
    }

    /// Multiplies; false if the library refuses, and then nothing is in the result that counts.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::OutOfMemory`], [`Error::Lost`], [`Error::Call`].
    pub(crate) fn multiply(&self, cuda: &Cuda, product: &Product<'_>, workspace: &Tensor) -> Result<bool> {
        let key = Key::of(product)?;
        let operands = Operands { product, workspace };
        cuda.bind()?;
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans.get(&key) {
            let Some(plan) = plan else { return Ok(false) };
            plan.descriptor.set_pointers(product)?;
            return self.run(cuda, plan, operands);
        }
        // The product is done by choosing the plan.
        let plan = self.plan(cuda, key, operands)?;
        Ok(plans.entry(key).insert_entry(plan).get().is_some())
    }

    fn run(&self, cuda: &Cuda, plan: &Plan, operands: Operands<'_>) -> Result<bool> {
        let Operands { product, workspace } = operands;
        let (alpha, beta) = Arithmetic::of(product.x.dtype()).factors(product.accumulate);
        let out = product.out.address() as *mut c_void;
        // SAFETY: the layouts describe the tensors (`Key::of` takes the sizes from them), which live until the stream
        // has done this work, as does the workspace: memory is given back in the stream's order.
        let outcome = unsafe {
            result::matmul(
                self.handle.0,
                plan.descriptor.0.0,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                product.weight.address() as *const c_void,
                plan.weight.0.0,
                product.x.address() as *const c_void,
                plan.x.0.0,
                out,
                plan.out.0.0,
                out,
                plan.out.0.0,
                &raw const plan.algorithm,
                workspace.address() as *mut c_void,
                workspace.bytes(),
                cuda.stream().cast(),
            )
        };
        done_or_refused(check("cublasLtMatmul", outcome)).map_err(|error| cuda.examined(error))
    }

    /// The best way for a shape, after which its product is done; none if there is no way.
    fn plan(&self, cuda: &Cuda, key: Key, operands: Operands<'_>) -> Result<Option<Plan>> {
        let Some(mut plan) = Plan::without_algorithm(key, operands.product)? else { return Ok(None) };
        let mut best: Option<(f64, sys::cublasLtMatmulAlgo_t)> = None;
        for algorithm in self.proposals(&plan, key, operands.workspace.bytes())? {
            plan.algorithm = algorithm;
            if !self.run(cuda, &plan, operands)? {
                continue;
            }
            if !self.measured || key.accumulate {
                return Ok(Some(plan));
            }
            let ms = self.measure(cuda, &plan, operands)?;
            if best.is_none_or(|(least, _)| ms < least) {
                best = Some((ms, algorithm));
            }
        }
        let Some((_, algorithm)) = best else { return Ok(None) };
        plan.algorithm = algorithm;
        // Algorithms may round differently: the first result is the chosen one's, as all later ones are.
        Ok(self.run(cuda, &plan, operands)?.then_some(plan))
    }

    fn measure(&self, cuda: &Cuda, plan: &Plan, operands: Operands<'_>) -> Result<f64> {
        for _ in 1..WARM_UP_RUNS {
            self.run(cuda, plan, operands)?;
        }
        let start = cuda.record_event(cuda.stream())?;
        for _ in 0..MEASURED_RUNS {
            self.run(cuda, plan, operands)?;
        }
        let end = cuda.record_event(cuda.stream())?;
        end.synchronize()?;
        start.milliseconds_to(&end)
    }

    fn proposals(
        &self,
        plan: &Plan,
        key: Key,
        workspace_bytes: usize,
    ) -> Result<impl Iterator<Item = sys::cublasLtMatmulAlgo_t> + use<>> {
        let none = sys::cublasLtMatmulHeuristicResult_t {
            algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: Status::CUBLAS_STATUS_NOT_SUPPORTED,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let mut found = [none; PROPOSALS];
        let mut count = 0;
        let preferences = Preferences::new(key.alignment_bytes, workspace_bytes)?;
        // SAFETY: all descriptors live, and the array has room for as many results as are asked for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle.0,
                plan.descriptor.0.0,
                plan.weight.0.0,
                plan.x.0.0,
                plan.out.0.0,
                plan.out.0.0,
                preferences.0,
                PROPOSALS as i32,
                found.as_mut_ptr(),
                &raw mut count,
            )
        };
        let outcome = check("cublasLtMatmulAlgoGetHeuristic", status.result());
        let count = if done_or_refused(outcome)? { count.max(0) as usize } else { 0 };
        let usable =
            found.into_iter().take(count).filter(|found| found.state == Status::CUBLAS_STATUS_SUCCESS);
        Ok(usable.take(MEASURED).map(|found| found.algo))
    }
}

#[expect(unsafe_code, reason = "the library's API")]
impl Drop for CublasLt {
    fn drop(&mut self) {
        // SAFETY: created in `new`; nothing uses it after this.
        let _ = unsafe { result::destroy_handle(self.handle.0) };
    }
}

impl Key {
    fn of(product: &Product<'_>) -> Result<Self> {
        let Sizes { m, n, k } = product.sizes()?;
        let tensors = [Some(product.x), Some(product.weight), Some(product.out), product.bias];
        let zeros = tensors.into_iter().flatten().map(|tensor| tensor.address().trailing_zeros()).min();
        Ok(Self {
            m,
            n,
            k,
            input: product.x.dtype(),
            out: product.out.dtype(),
            bias: product.bias.is_some(),
            accumulate: product.accumulate,
            activation: product.activation,
            scaled: product.row_scales.is_some(),
            alignment_bytes: 1 << zeros.unwrap_or(0).min(BEST_ALIGNMENT_BYTES.trailing_zeros()),
        })
    }

    fn epilogue(self) -> sys::cublasLtEpilogue_t {
        match (self.activation, self.bias) {
            (Activation::Identity, false) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            (Activation::Identity, true) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            (Activation::GeluTanh, false) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU,
            (Activation::GeluTanh, true) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_BIAS,
        }
    }
}

impl Plan {
    /// Its pointers are set: the heuristic looks at their alignment.
    fn without_algorithm(key: Key, product: &Product<'_>) -> Result<Option<Self>> {
        let (input, out) = (data_type(key.input)?, data_type(key.out)?);
        let descriptor = Descriptor::new(Arithmetic::of(key.input))?;
        let accepted = descriptor.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, TRANSPOSED)?
            && descriptor.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, key.epilogue() as u32)?
            && (!key.bias || descriptor.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, out as i32)?)
            && (!key.scaled || descriptor.scale_rows_and_columns()?);
        if !accepted {
            return Ok(None);
        }
        descriptor.set_pointers(product)?;
        Ok(Some(Self {
            descriptor,
            weight: Layout::new(input, key.k, key.n)?,
            x: Layout::new(input, key.k, key.m)?,
            out: Layout::new(out, key.n, key.m)?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        }))
    }
}
