//! Frames to bytes: turns the RGB frames of one generated clip into one MP4 file in memory.
//!
//! The way is [`Frames`] -> BT.709 I420 (`yuv`) -> H.264 packets (`h264`) -> a faststart MP4 (`mp4`), behind
//! the single function [`encode_mp4`]. It is synchronous, keeps everything in memory (a clip is some 50 MB of
//! RGB) and relies on no system library. It must not know where frames come from or where files go: no tensors,
//! no async, no sibling crates.

mod error;
mod frames;
mod h264;
mod mp4;
mod options;
mod yuv;

pub use error::{Error, Result};
pub use frames::Frames;
pub use options::{EncodeOptions, MAX_FPS, Quality};

/// Encodes a clip as an MP4 file: H.264 High, yuv420p, BT.709 limited range, `moov` before `mdat`, every frame
/// present and shown for exactly `1 / fps` seconds.
///
/// The work is CPU-bound (about a second for 49 frames of 720x480): call it off the async threads.
///
/// # Errors
/// [`Error::Fps`] and [`Error::OddSize`] / [`Error::SizeOutOfRange`] for what H.264 in 4:2:0 cannot hold; the
/// other variants mean that the encoder or the muxer failed, and no partial file is returned.
pub fn encode_mp4(frames: &Frames, options: &EncodeOptions) -> Result<Vec<u8>> {
    let packets = h264::encode(frames, *options)?;
    mp4::mux(&packets, options.fps)
}
