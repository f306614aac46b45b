//! H.264 packets to a faststart MP4 in memory: `ftyp`, `moov`, `mdat`, one video track, constant frame duration.
//! Knows nothing of pictures; size, profile and level come from the stream's own parameter sets.

use std::num::NonZeroU32;

use shiguredo_mp4::{
    BoxSize, BoxType, TrackKind,
    bitstream::h264::{
        H264NalUnitType, H264SampleEntryConfig, LengthSize, build_avc1_box_from_annexb,
        parse_annexb_nal_units,
    },
    boxes::{SampleEntry, UnknownBox},
    mux::{Mp4FileMuxer, Mp4FileMuxerOptions, Sample, estimate_maximum_moov_box_size},
};

use crate::{Error, Result, h264::Packet, yuv::BT709_CODE_POINT};

/// Ticks per frame: the time scale is a multiple of the frame rate, so every duration is exact.
const TICKS_PER_FRAME: u32 = 1000;

/// Muxes packets in display order (the encoder makes no B-frames), each shown for `1 / fps` seconds.
pub(crate) fn mux(packets: &[Packet], fps: u32) -> Result<Vec<u8>> {
    let mut muxer = Mp4FileMuxer::with_options(Mp4FileMuxerOptions {
        reserved_moov_box_size: estimate_maximum_moov_box_size(&[packets.len()]),
        ..Mp4FileMuxerOptions::default()
    })
    .map_err(Error::Mux)?;
    let timescale = NonZeroU32::new(fps.saturating_mul(TICKS_PER_FRAME)).ok_or(Error::Fps { fps })?;
    let mut file = muxer.initial_boxes_bytes().to_vec();
    for (index, packet) in packets.iter().enumerate() {
        let sample_entry = (index == 0).then(|| sample_entry(&packet.annex_b)).transpose()?;
        let data_offset = file.len();
        append_sample_data(&mut file, &packet.annex_b)?;
        muxer
            .append_sample(&Sample {
                track_kind: TrackKind::Video,
                sample_entry,
                keyframe: packet.keyframe,
                timescale,
                duration: TICKS_PER_FRAME,
                composition_time_offset: None,
                data_offset: data_offset as u64,
                data_size: file.len() - data_offset,
            })
            .map_err(Error::Mux)?;
    }
    let boxes = muxer.finalize().map_err(Error::Mux)?;
    if !boxes.is_faststart_enabled() {
        return Err(Error::NotFaststart { moov_bytes: boxes.moov_box_size() });
    }
    for (offset, bytes) in boxes.offset_and_bytes_pairs() {
        let offset = offset as usize;
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    Ok(file)
}

/// The `avc1` entry from the first packet's parameter sets, with the colour tags that players read before they
/// open the stream.
fn sample_entry(first_packet: &[u8]) -> Result<SampleEntry> {
    let mut entry = build_avc1_box_from_annexb(
        first_packet,
        &H264SampleEntryConfig { length_size: LengthSize::FourBytes },
    )
    .map_err(Error::Stream)?;
    entry.unknown_boxes.push(colr_box());
    Ok(SampleEntry::Avc1(entry))
}

/// ISO/IEC 14496-12 `colr` of type `nclx`: primaries, transfer, matrix, then the full-range flag (off).
fn colr_box() -> UnknownBox {
    let mut payload = b"nclx".to_vec();
    for code_point in [BT709_CODE_POINT; 3] {
        payload.extend(code_point.to_be_bytes());
    }
    payload.push(0);
    let box_bytes = 8 + payload.len() as u32;
    UnknownBox { box_type: BoxType::Normal(*b"colr"), box_size: BoxSize::U32(box_bytes), payload }
}

/// Start codes become lengths; parameter sets are left out, since `avc1` keeps them in the sample entry only.
fn append_sample_data(file: &mut Vec<u8>, annex_b: &[u8]) -> Result<()> {
    for nal in parse_annexb_nal_units(annex_b).map_err(Error::Stream)? {
        if !matches!(nal.nal_unit_type, H264NalUnitType::Sps | H264NalUnitType::Pps) {
            file.extend((nal.data.len() as u32).to_be_bytes());
            file.extend_from_slice(nal.data);
        }
    }
    Ok(())
}
