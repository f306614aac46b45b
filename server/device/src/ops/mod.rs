//! Operations on tensors: each picks its kernel or library for the device, and its launch.
//!
//! Shapes are checked here, so that a kernel may rely on them. Results go to new tensors unless a name ends in
//! `_in_place` or `_into`.

pub mod elementwise;
pub mod epilogue;
pub mod norm;
pub mod patch;
pub mod quantize;
pub mod random;
mod rows;
pub mod t5;
