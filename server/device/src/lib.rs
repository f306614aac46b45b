//! An accelerator: its memory, its launches, the kernels written for it and the libraries that come with it.

#[cfg(feature = "cuda")]
pub mod cudnn;
mod dtype;
mod error;

pub use dtype::{Dtype, Element};
pub use error::{Error, Result};
