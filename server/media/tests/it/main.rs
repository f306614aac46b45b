//! The media crate through its public door: a file is judged by a demuxer (`mp4-atom`), a parameter-set reader
//! (`h264-reader`), a decoder and an XML parser that share no code with the writing side, and by a textbook BT.709
//! inverse.

#![expect(clippy::unwrap_used, reason = "a failed step of a test should stop it where it stands")]

mod clip;
mod colour;
mod file;
mod input;
mod metadata;
mod picture;
mod player;
mod quality;
