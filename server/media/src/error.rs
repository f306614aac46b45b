//! Everything that can go wrong between RGB frames and a file of them, in words that can be shown to an operator. A
//! message tells its cause too, which is therefore not a `source` as well: a report that walks the chain would repeat it.

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a clip could not be made or encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A clip needs at least one frame of at least one pixel.
    #[error("empty clip: {count} frames of {width}x{height}")]
    EmptyClip {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Number of frames.
        count: u32,
    },
    /// The RGB buffer's length does not match its stated shape.
    #[error("rgb buffer of {count} frames of {width}x{height}: expected {expected} bytes, found {found}")]
    FrameBytes {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Number of frames.
        count: u32,
        /// `count * height * width * 3`.
        expected: u128,
        /// The buffer's length.
        found: usize,
    },
    /// 4:2:0 chroma has half the width and height, so both must be even.
    #[error("frame size {width}x{height}: width and height must be even for yuv420p")]
    OddSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Outside the encoder's range (up to 3840x2160, either way round, and at least 16 on a side).
    #[error("frame size {width}x{height}: expected 16x16 to 3840x2160 (or 2160x3840)")]
    SizeOutOfRange {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The frame rate is not a positive integer within range.
    #[error("fps: expected 1 to {max}, found {fps}", max = crate::MAX_FPS)]
    Fps {
        /// The value asked for.
        fps: u32,
    },
    /// [`crate::Quality`] was parsed from an unknown word.
    #[error("quality: expected \"compact\", \"standard\" or \"high\", found {found:?}")]
    UnknownQuality {
        /// The word given.
        found: String,
    },
    /// The texts of a [`crate::Metadata`] are too long.
    #[error("metadata: expected at most {max} bytes of text, found {found}", max = crate::MAX_METADATA_BYTES)]
    MetadataBytes {
        /// Length of all texts together in bytes.
        found: usize,
    },
    /// A still picture could not be encoded.
    #[error("{format} encoder: {reason}")]
    Picture {
        /// The picture's format.
        format: &'static str,
        /// What the encoder said.
        reason: String,
    },
    /// The H.264 encoder reported an error.
    #[error("h264 encoder: {0}")]
    Encoder(openh264::Error),
    /// The H.264 encoder produced nothing for a frame, which would shorten the video without a word.
    #[error("h264 encoder dropped frame {frame} of {count}")]
    DroppedFrame {
        /// Index of the first frame that has no packet.
        frame: u32,
        /// Number of frames in the clip.
        count: u32,
    },
    /// The encoder's output could not be read as H.264.
    #[error("h264 stream: {0}")]
    Stream(shiguredo_mp4::Error),
    /// The MP4 boxes could not be written.
    #[error("mp4: {0}")]
    Mux(shiguredo_mp4::mux::MuxError),
    /// The index did not fit in front of the media data.
    #[error("mp4: the moov box of {moov_bytes} bytes does not fit in front of the media data")]
    NotFaststart {
        /// Size of the `moov` box.
        moov_bytes: usize,
    },
}
