//! The device crate through its public doors, on the emulator and the planner; cuDNN's plans on no device at all.

#[cfg(feature = "cuda")]
mod cudnn;
#[cfg(feature = "emulator")]
mod faults;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "emulator")]
mod linear;
#[cfg(feature = "emulator")]
mod refusals;
#[cfg(any(feature = "cuda", feature = "emulator"))]
mod selftest;
#[cfg(feature = "emulator")]
mod tensor;
mod vae_ops;
