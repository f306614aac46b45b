//! cogvideox
