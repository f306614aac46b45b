//! I420 pictures to H.264 packets with OpenH264. The only module that knows the encoder; what it settles for the
//! encoder's traps (dropped frames, ignored quantizer ranges, colour tags) is explained at each setting.

use openh264::{
    OpenH264API, Timestamp,
    encoder::{
        BitRate, Complexity, Encoder, EncoderConfig, FrameRate, FrameType, IntraFramePeriod, Profile,
        QpRange, RateControlMode, VuiConfig,
    },
};

use crate::{EncodeOptions, Error, Frames, MAX_FPS, Quality, Result, yuv::I420};

/// One coded picture.
pub(crate) struct Packet {
    /// NAL units with start codes (Annex B).
    pub(crate) annex_b: Vec<u8>,
    /// Whether decoding can start here.
    pub(crate) keyframe: bool,
}

/// Encodes every frame, in order, one packet each.
pub(crate) fn encode(frames: &Frames, options: &EncodeOptions) -> Result<Vec<Packet>> {
    let (width, height, count) = (frames.width(), frames.height(), frames.count());
    if !(1..=MAX_FPS).contains(&options.fps) {
        return Err(Error::Fps { fps: options.fps });
    }
    if !width.is_multiple_of(2) || !height.is_multiple_of(2) {
        return Err(Error::OddSize { width, height });
    }
    if width.min(height) < 16 || width.max(height) > 3840 || width.min(height) > 2160 {
        return Err(Error::SizeOutOfRange { width, height });
    }

    let mut encoder = Encoder::with_api_config(OpenH264API::from_source(), config(frames, options))
        .map_err(Error::Encoder)?;
    let mut picture = I420::new(width as usize, height as usize);
    let mut packets = Vec::with_capacity(count as usize);
    for (frame, rgb) in (0..count).zip(frames) {
        picture.fill(rgb);
        let time = Timestamp::from_millis(u64::from(frame) * 1000 / u64::from(options.fps));
        let coded = encoder.encode_at(&picture, time).map_err(Error::Encoder)?;
        let keyframe = match coded.frame_type() {
            FrameType::IDR => true,
            FrameType::I | FrameType::P => false,
            FrameType::Skip | FrameType::Invalid | FrameType::IPMixed => {
                return Err(Error::DroppedFrame { frame, count });
            }
        };
        let annex_b = coded.to_vec();
        if annex_b.is_empty() {
            return Err(Error::DroppedFrame { frame, count });
        }
        packets.push(Packet { annex_b, keyframe });
    }
    Ok(packets)
}

fn config(frames: &Frames, options: &EncodeOptions) -> EncoderConfig {
    let qp = match options.quality {
        Quality::Compact => 22,
        Quality::Standard => 16,
        // The lowest that the encoder takes; lower values are silently raised to it.
        Quality::High => 12,
    };
    EncoderConfig::new()
        // On by default: frames vanish when the rate control thinks them too dear.
        .skip_frames(false)
        // A range of one value makes the quantizer constant, which is the point. `Off` would ignore the range;
        // `Quality` gives the same bits and prints a warning to stderr for every clip.
        .rate_control_mode(RateControlMode::Bufferbased)
        .qp(QpRange::new(qp, qp))
        .bitrate(BitRate::from_bps(nominal_bits_per_second(frames, options.fps)))
        .max_frame_rate(FrameRate::from_hz(options.fps as f32))
        .intra_frame_period(IntraFramePeriod::from_num_frames(2 * options.fps))
        .profile(Profile::High)
        .complexity(Complexity::High)
        // What I420::fill does.
        .vui(VuiConfig::bt709())
        // Heuristics of video calls, which spend bits on faces and starve the rest.
        .scene_change_detect(false)
        .adaptive_quantization(false)
        .background_detection(false)
        // One slice per picture leaves nothing to share among threads.
        .num_threads(1)
}

/// With a constant quantizer this steers nothing; the encoder derives the stream's level from it, so it is set to
/// what a busy clip reaches, and kept under what the highest level allows.
fn nominal_bits_per_second(frames: &Frames, fps: u32) -> u32 {
    let pixels_per_second = u64::from(frames.width()) * u64::from(frames.height()) * u64::from(fps);
    (2 * pixels_per_second).min(240_000_000) as u32
}
