//! The model crate against diffusers' own outputs (`tests/golden`, made by `reference/make_golden.py`).

mod golden;
mod noise;
mod pipeline;
mod text_encoder;
mod transformer;
mod vae;
