//! Operations on tensors: each picks its kernel or library for the device, and its launch.
//!
//! Shapes are checked here, so that a kernel may rely on them. Results go to new tensors unless a name ends in
//! `_in_place` or `_into`.

pub mod conv;
pub mod group_norm;
pub mod layout;
pub mod random;
pub mod video;
