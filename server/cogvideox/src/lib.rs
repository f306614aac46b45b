//! CogVideoX: prompt and parameters in, RGB frames out.
//!
//! Loads the published CogVideoX pipelines (2B, 5B, 5B-I2V, 1.5-5B, 1.5-5B-I2V) from a folder in diffusers' layout
//! and computes what diffusers computes. Relies on candle for tensors and weights; must not know HTTP, SQL, tokio or
//! any other crate of this workspace.

pub mod convert;
mod demo;
mod description;
mod digest;
mod error;
mod folder;
pub mod gpu;
pub mod guidance;
pub mod image;
pub mod inspection;
mod layout;
pub mod lora;
pub mod noise;
mod ops;
mod params;
mod pipeline;
mod pipeline_config;
pub mod quantize;
pub mod repository;
pub mod scheduler;
pub mod text_encoder;
mod tokenizer;
pub mod transformer;
pub mod vae;
mod weights;

pub use description::ModelDescription;
pub use error::{Error, Result};
pub use folder::Report;
pub use params::{GenerationParams, ModelDefaults, ModelForm};
pub use pipeline::{Checkpoint, CogVideoXPipeline, DenoiseState, Event, Preview, VideoFrames};
pub use pipeline_config::PipelineClass;
pub use tokenizer::{Tokenizer, Tokens};
