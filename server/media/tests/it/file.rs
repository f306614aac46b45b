//! What a player relies on in the file: order of boxes, number and duration of frames, size, profile, tags.

use media::{EncodeOptions, Quality, encode_mp4};
use mp4_atom::{Colr, FourCC};

use crate::{
    clip::Scene,
    player::{Video, top_level_boxes},
};

fn encode(width: u32, height: u32, count: u32, fps: u32) -> Vec<u8> {
    let frames = Scene { width, height, count, noise: 1.5 }.frames();
    encode_mp4(&frames, &EncodeOptions { fps, quality: Quality::Standard, metadata: None }).unwrap()
}

#[test]
fn the_index_comes_before_the_media_data() {
    // 1000 frames: the index must still fit in front.
    for count in [1, 49, 1000] {
        let boxes = top_level_boxes(&encode(48, 64, count, 8));
        let position = |kind: &[u8; 4]| boxes.iter().position(|found| *found == FourCC::new(kind)).unwrap();
        assert_eq!(position(b"ftyp"), 0);
        assert!(position(b"moov") < position(b"mdat"), "{boxes:?}");
    }
}

#[test]
fn every_frame_is_there_and_lasts_exactly_one_frame_time() {
    for (width, height, count, fps) in [
        (48, 64, 1, 8),
        (48, 64, 9, 8),
        (64, 48, 17, 16),
        (240, 368, 49, 8),
        (48, 64, 81, 16),
        (50, 38, 5, 30),
    ] {
        let video = Video::open(encode(width, height, count, fps));
        let track = video.track();
        let (timescale, duration) = (track.mdia.mdhd.timescale, track.mdia.mdhd.duration);

        assert_eq!(video.samples().len(), count as usize);
        assert_eq!(duration * u64::from(fps), u64::from(count) * u64::from(timescale), "track duration");
        let movie = &video.moov.mvhd;
        assert_eq!(
            movie.duration * u64::from(fps),
            u64::from(count) * u64::from(movie.timescale),
            "movie duration"
        );
        for entry in &track.mdia.minf.stbl.stts.entries {
            assert_eq!(entry.sample_delta * fps, timescale, "frame duration");
        }
        assert!(track.mdia.minf.stbl.ctts.is_none(), "frames are stored in display order");

        let pictures = video.decode();
        assert_eq!(pictures.len(), count as usize);
        assert!(pictures.iter().all(|p| (p.width, p.height) == (width as usize, height as usize)));
        assert_eq!(video.sps().pixel_dimensions().unwrap(), (width, height));
        assert_eq!((video.avc1().visual.width, video.avc1().visual.height), (width as u16, height as u16));
        assert_eq!((track.tkhd.width.integer(), track.tkhd.height.integer()), (width as u16, height as u16));
    }
}

#[test]
fn frames_keep_their_order() {
    // Brightness climbs by 10 a frame; a swapped, repeated or lost frame breaks the stairs.
    let rgb = (0..20_u8).flat_map(|t| std::iter::repeat_n(20 + 10 * t, 64 * 48 * 3)).collect();
    let frames = media::Frames::new(rgb, 64, 48, 20).unwrap();
    let file =
        encode_mp4(&frames, &EncodeOptions { fps: 8, quality: Quality::Standard, metadata: None }).unwrap();
    for (t, picture) in Video::open(file).decode().iter().enumerate() {
        let shown = i32::from(picture.to_rgb()[0]);
        assert!((shown - (20 + 10 * t as i32)).abs() <= 3, "frame {t} shows {shown}");
    }
}

#[test]
fn a_player_can_seek_to_every_second_second() {
    let video = Video::open(encode(48, 64, 49, 8));
    let sync = video.track().mdia.minf.stbl.stss.as_ref().unwrap();
    assert_eq!(sync.entries, [1, 17, 33, 49]);
}

#[test]
fn the_stream_is_high_profile_at_a_level_common_players_take() {
    use h264_reader::nal::sps::{ChromaFormat, Profile};
    let video = Video::open(encode(720, 480, 2, 8));
    let sps = video.sps();
    assert!(matches!(sps.profile(), Profile::High));
    assert_eq!(video.avc1().avcc.avc_profile_indication, 100);
    assert_eq!(sps.chroma_info.chroma_format, ChromaFormat::YUV420);
    assert_eq!(sps.chroma_info.bit_depth_luma_minus8, 0);
    assert!(sps.level_idc <= 40, "level {}", sps.level_idc);
}

#[test]
fn stream_and_container_agree_on_bt709_limited_range() {
    let video = Video::open(encode(48, 64, 1, 8));
    let signal = video.sps().vui_parameters.unwrap().video_signal_type.unwrap();
    let colour = signal.colour_description.unwrap();
    assert!(!signal.video_full_range_flag);
    assert_eq!(
        (colour.colour_primaries, colour.transfer_characteristics, colour.matrix_coefficients),
        (1, 1, 1)
    );
    assert_eq!(*video.colr(), Colr::new(1, 1, 1, false).unwrap());
}
