//! Operations on tensors: each picks its kernel or library for the device, and its launch.
//!
//! Shapes are checked here, so that a kernel may rely on them. Results go to new tensors unless a name ends in
//! `_in_place` or `_into`.

pub mod attention;
pub mod conv;
pub mod elementwise;
pub mod epilogue;
pub(crate) mod gemm;
pub mod group_norm;
pub mod layout;
pub(crate) mod library;
pub mod linear;
mod low_rank;
mod matmul;
pub mod norm;
pub mod patch;
pub mod qk_norm_rope;
pub mod quantize;
pub mod random;
mod rows;
pub mod t5;
pub mod video;
