//! The model crate against diffusers' own outputs (`tests/golden`, made by `reference/make_golden.py`).

mod golden;
mod guidance;
mod image;
mod noise;
mod pipeline;
mod scheduler;
mod text_encoder;
mod tokenizer;
mod transformer;
mod vae;
