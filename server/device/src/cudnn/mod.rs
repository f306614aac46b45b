//! cuDNN's graphs: fused attention and 3-D convolution, planned for a GPU at hand or for one that is only described.
//!
//! A graph ([`SdpaGraph`], [`ConvGraph`]) says what is computed; [`Engine`]s are the ways in which cuDNN can compute it
//! on a [`Target`], best first; a [`Plan`] is one of them made ready, and executes. With [`Target::Described`] all of it
//! but the execution works on a machine without a GPU, which is how the tests know that every GPU has an engine for
//! every shape. Everything is told in addresses and strides: must not know tensors, models or layers.

mod attached;
mod builder;
mod conv;
mod descriptor;
mod engine;
mod graph;
mod library;
mod plan;
mod plans;
mod sdpa;
mod sys;

pub(crate) use attached::Cudnn;
pub use conv::ConvGraph;
pub use engine::{Engine, Notes};
pub use graph::{Operand, Target, TargetDescription};
pub use library::{Handle, Library};
pub use plan::{Plan, Workspace, fastest_plan, first_plan};
pub use plans::{Plans, Timing, Work};
pub use sdpa::{SdpaGraph, bshd_strides, fused_qkv_strides};
