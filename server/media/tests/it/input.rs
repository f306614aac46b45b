//! What is refused, and in which words.

use media::{EncodeOptions, Error, Frames, MAX_FPS, Quality, encode_mp4};

fn grey(width: u32, height: u32, count: u32) -> Frames {
    Frames::new(vec![128; (width * height * count * 3) as usize], width, height, count).unwrap()
}

fn refusal(frames: &Frames, fps: u32) -> String {
    encode_mp4(frames, &EncodeOptions { fps, quality: Quality::Standard, metadata: None })
        .unwrap_err()
        .to_string()
}

#[test]
fn a_buffer_must_match_its_shape() {
    let error = Frames::new(vec![0; 100], 4, 4, 2).unwrap_err();
    assert_eq!(error.to_string(), "rgb buffer of 2 frames of 4x4: expected 96 bytes, found 100");
    // 2^32 bytes a factor: the product must not wrap round to a small number.
    assert!(matches!(Frames::new(Vec::new(), 1 << 31, 1 << 31, 4), Err(Error::FrameBytes { .. })));
    for (width, height, count) in [(0, 4, 1), (4, 0, 1), (4, 4, 0)] {
        assert!(matches!(Frames::new(Vec::new(), width, height, count), Err(Error::EmptyClip { .. })));
    }
}

#[test]
fn sizes_that_yuv420p_or_the_encoder_cannot_hold_are_refused() {
    assert_eq!(refusal(&grey(49, 64, 1), 8), "frame size 49x64: width and height must be even for yuv420p");
    assert_eq!(refusal(&grey(48, 63, 1), 8), "frame size 48x63: width and height must be even for yuv420p");
    let out_of_range = "expected 16x16 to 3840x2160 (or 2160x3840)";
    assert_eq!(refusal(&grey(14, 64, 1), 8), format!("frame size 14x64: {out_of_range}"));
    assert_eq!(refusal(&grey(3842, 16, 1), 8), format!("frame size 3842x16: {out_of_range}"));
}

#[test]
fn frame_rates_outside_the_range_are_refused() {
    assert_eq!(refusal(&grey(16, 16, 1), 0), "fps: expected 1 to 1000, found 0");
    assert_eq!(refusal(&grey(16, 16, 1), MAX_FPS + 1), "fps: expected 1 to 1000, found 1001");
    for fps in [1, MAX_FPS] {
        encode_mp4(&grey(16, 16, 2), &EncodeOptions { fps, quality: Quality::Standard, metadata: None })
            .unwrap();
    }
}

#[test]
fn quality_words_round_trip() {
    for quality in Quality::ALL {
        assert_eq!(quality.to_string().parse::<Quality>().unwrap(), quality);
    }
    let error = "ultra".parse::<Quality>().unwrap_err();
    assert_eq!(error.to_string(), "quality: expected \"compact\", \"standard\" or \"high\", found \"ultra\"");
}
