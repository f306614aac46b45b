//! The device crate through its public doors, on the emulator and the planner.
#![cfg(feature = "emulator")]

mod selftest;
mod tensor;
mod vae_ops;
