//! The device crate through its public doors.

#[cfg(feature = "cuda")]
mod cudnn;
