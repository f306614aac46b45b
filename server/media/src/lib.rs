//! Frames to bytes: turns the RGB frames of one generated clip into one MP4 file in memory, and into still pictures.
//!
//! The way to the MP4 is [`Frames`] -> BT.709 I420 (`yuv`) -> H.264 packets (`h264`) -> a faststart file (`mp4`) with
//! what it says about itself (`metadata`), behind the single function [`encode_mp4`]; [`poster_webp`],
//! [`spritesheet_jpeg`] and [`jpeg`] (`picture`) are the ways to stills. All are synchronous, keep everything in
//! memory (a clip is some 50 MB of RGB) and rely on no system library; equal input gives equal bytes. The crate must
//! not know where frames come from or where files go: no tensors, no async, no clock, no sibling crates.

mod error;
mod frames;
mod h264;
mod metadata;
mod mp4;
mod options;
mod picture;
mod yuv;

pub use error::{Error, Result};
pub use frames::Frames;
pub use metadata::{MAX_METADATA_BYTES, Metadata};
pub use options::{EncodeOptions, MAX_FPS, Quality};
pub use picture::{jpeg, poster_webp, spritesheet_jpeg};

/// Encodes a clip as an MP4 file: H.264 High, yuv420p, BT.709 limited range, `moov` before `mdat`, every frame
/// present and shown for exactly `1 / fps` seconds.
///
/// The work is CPU-bound (about a second for 49 frames of 720x480): call it off the async threads.
///
/// # Errors
/// [`Error::Fps`] and [`Error::OddSize`] / [`Error::SizeOutOfRange`] for what H.264 in 4:2:0 cannot hold,
/// [`Error::MetadataBytes`] for texts beyond [`MAX_METADATA_BYTES`]; the other variants mean that the encoder or the
/// muxer failed, and no partial file is returned.
pub fn encode_mp4(frames: &Frames, options: &EncodeOptions) -> Result<Vec<u8>> {
    if let Some(metadata) = &options.metadata {
        metadata.check()?;
    }
    let packets = h264::encode(frames, options)?;
    mp4::mux(&packets, options)
}
