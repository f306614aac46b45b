//! The model crate against diffusers' own outputs (`tests/golden`, made by `reference/make_golden.py`).

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::float_cmp,
    reason = "a test fails by panicking, prints what it measured, and asks for equality where it means equality"
)]

mod checkpoint;
mod convert;
mod convert_hostile;
mod golden;
mod gpu;
mod gpu_lora;
mod gpu_vae;
mod guidance;
mod image;
mod lora;
mod noise;
mod pipeline;
mod preview;
mod quantize;
mod repository;
mod scheduler;
mod text_encoder;
mod tokenizer;
mod transformer;
mod vae;
mod weights;
