//! An accelerator: its memory, its launches, the kernels written for it and the libraries that come with it.
//!
//! [`Device`] is an NVIDIA GPU (feature `cuda`), an emulator that runs the same kernels with every access checked
//! (feature `emulator`), or a planner that computes nothing and counts memory. [`Tensor`] is contiguous memory on it,
//! `ops` the operations on tensors. No CUDA library is linked: all are loaded at run time, so one binary runs with and
//! without a GPU. Must not know the model's layers, its files, or anything above them.

#[cfg(feature = "cuda")]
mod cublaslt;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
pub mod cudnn;
mod device;
mod dtype;
#[cfg(feature = "emulator")]
mod emulator;
mod error;
mod event;
pub mod host_memory;
mod launch;
mod memory;
pub mod ops;
mod planner;
pub mod selftest;
#[cfg(feature = "cuda")]
mod status;
mod tensor;
mod transfer;
mod uploader;

pub use device::{Capability, Device, Settings};
pub use dtype::{Dtype, Element};
pub use error::{Error, Result};
pub use event::Event;
pub use memory::{Buffer, Usage};
pub use tensor::Tensor;
pub use transfer::{CopyStream, Pinned};
pub use uploader::Uploader;
