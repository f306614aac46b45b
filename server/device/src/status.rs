//! What the statuses of the driver and of its libraries mean to a caller.
//!
//! Four things are told apart: the GPU's memory is used up, the GPU is lost to this process, the call asks for what the
//! library cannot do, and everything else. Must not know which work a call belongs to.

use cudarc::cublaslt::sys::cublasStatus_t as Cublas;
use cudarc::driver::sys::CUresult as Driver;

use crate::Error;

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    OutOfMemory,
    Lost,
    Unsupported,
    Other,
}

impl Failure {
    /// As an error; `message` is what the driver or library said.
    pub(crate) fn error(self, call: &'static str, message: String) -> Error {
        match self {
            Self::OutOfMemory => Error::OutOfMemory(format!("{call}: {message}")),
            Self::Lost => Error::Lost(format!("{call}: {message}")),
            Self::Unsupported => Error::Unsupported { call, message },
            Self::Other => Error::Call { call, message },
        }
    }

    pub(crate) fn of_driver(status: Driver) -> Self {
        match status {
            Driver::CUDA_ERROR_OUT_OF_MEMORY => Self::OutOfMemory,
            // cuda.h: "the process must be terminated and relaunched" (or the GPU needs service).
            Driver::CUDA_ERROR_ILLEGAL_ADDRESS
            | Driver::CUDA_ERROR_LAUNCH_TIMEOUT
            | Driver::CUDA_ERROR_ASSERT
            | Driver::CUDA_ERROR_HARDWARE_STACK_ERROR
            | Driver::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | Driver::CUDA_ERROR_MISALIGNED_ADDRESS
            | Driver::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | Driver::CUDA_ERROR_INVALID_PC
            | Driver::CUDA_ERROR_LAUNCH_FAILED
            | Driver::CUDA_ERROR_ECC_UNCORRECTABLE
            | Driver::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | Driver::CUDA_ERROR_CONTAINED
            | Driver::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | Driver::CUDA_ERROR_MPS_CLIENT_TERMINATED
            | Driver::CUDA_ERROR_EXTERNAL_DEVICE
            | Driver::CUDA_ERROR_DEINITIALIZED => Self::Lost,
            _ => Self::Other,
        }
    }

    pub(crate) fn of_cublas(status: Cublas) -> Self {
        match status {
            Cublas::CUBLAS_STATUS_ALLOC_FAILED => Self::OutOfMemory,
            Cublas::CUBLAS_STATUS_NOT_SUPPORTED
            | Cublas::CUBLAS_STATUS_INVALID_VALUE
            | Cublas::CUBLAS_STATUS_ARCH_MISMATCH => Self::Unsupported,
            _ => Self::Other,
        }
    }

    /// Of a `cudnnStatus_t` (`cudnn_graph_v9.h`): thousands are categories, with "not supported" as one. A part of the
    /// library that is missing or too old is as good as that. The status for the host's memory is no sign of any
    /// shortage: it is also the answer to a descriptor that a version does not know.
    pub(crate) fn of_cudnn(status: u32) -> Self {
        const NOT_SUPPORTED: u32 = 3;
        const DEVICE_ALLOCATION_FAILED: u32 = 4004;
        const SUBLIBRARY_VERSION_MISMATCH: u32 = 1003;
        const SUBLIBRARY_LOADING_FAILED: u32 = 1008;
        const COMPILATION_FAILED: u32 = 4001;
        match status {
            DEVICE_ALLOCATION_FAILED => Self::OutOfMemory,
            SUBLIBRARY_VERSION_MISMATCH | SUBLIBRARY_LOADING_FAILED | COMPILATION_FAILED => Self::Unsupported,
            _ if status / 1000 == NOT_SUPPORTED => Self::Unsupported,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_no_lost_device_and_a_fault_is_no_memory() {
        for (status, expected) in [
            (Driver::CUDA_ERROR_OUT_OF_MEMORY, Failure::OutOfMemory),
            (Driver::CUDA_ERROR_ILLEGAL_ADDRESS, Failure::Lost),
            (Driver::CUDA_ERROR_LAUNCH_FAILED, Failure::Lost),
            // Of registers and threads, not of memory.
            (Driver::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, Failure::Other),
            (Driver::CUDA_ERROR_INVALID_VALUE, Failure::Other),
        ] {
            assert_eq!(Failure::of_driver(status), expected, "{status:?}");
        }
        for (status, expected) in [
            (Cublas::CUBLAS_STATUS_ALLOC_FAILED, Failure::OutOfMemory),
            (Cublas::CUBLAS_STATUS_NOT_SUPPORTED, Failure::Unsupported),
            (Cublas::CUBLAS_STATUS_EXECUTION_FAILED, Failure::Other),
        ] {
            assert_eq!(Failure::of_cublas(status), expected, "{status:?}");
        }
        for (status, expected) in [
            (4004, Failure::OutOfMemory),
            (4003, Failure::Other),
            (3000, Failure::Unsupported),
            (3014, Failure::Unsupported),
            (1008, Failure::Unsupported),
            (2004, Failure::Other),
            (5001, Failure::Other),
        ] {
            assert_eq!(Failure::of_cudnn(status), expected, "{status}");
        }
    }

    #[test]
    fn errors_name_the_call_and_keep_the_words() {
        let error = Failure::OutOfMemory.error("cuLaunchKernel", "CUDA_ERROR_OUT_OF_MEMORY".to_owned());
        assert!(matches!(error, Error::OutOfMemory(_)));
        assert_eq!(error.to_string(), "out of memory: cuLaunchKernel: CUDA_ERROR_OUT_OF_MEMORY");
    }
}
