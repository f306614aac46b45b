//! The device crate through its public doors, on the emulator and the planner.
#![cfg(feature = "emulator")]

mod refusals;
mod selftest;
mod tensor;
