//! H.264 packets to a faststart MP4 in memory: `ftyp`, `moov`, `uuid` (XMP, if any), `free`, `mdat`; one video track,
//! constant frame duration. Knows nothing of pictures; size, profile and level come from the stream's own parameter
//! sets.

use std::{num::NonZeroU32, time::Duration};

use shiguredo_mp4::{
    BoxSize, BoxType, Encode, TrackKind,
    bitstream::h264::{
        H264NalUnitType, H264SampleEntryConfig, LengthSize, build_avc1_box_from_annexb,
        parse_annexb_nal_units,
    },
    boxes::{FreeBox, SampleEntry, UnknownBox},
    mux::{Mp4FileMuxer, Mp4FileMuxerOptions, Sample, estimate_maximum_moov_box_size},
};

use crate::{EncodeOptions, Error, Metadata, Result, h264::Packet, yuv::BT709_CODE_POINT};

/// Ticks per frame: the time scale is a multiple of the frame rate, so every duration is exact.
const TICKS_PER_FRAME: u32 = 1000;

/// Size and type.
const BOX_HEADER_BYTES: usize = 8;

/// Muxes packets in display order (the encoder makes no B-frames), each shown for `1 / fps` seconds.
pub(crate) fn mux(packets: &[Packet], options: &EncodeOptions) -> Result<Vec<u8>> {
    let metadata = options.metadata.as_ref().map(MetadataBoxes::new);
    let mut muxer = Mp4FileMuxer::with_options(Mp4FileMuxerOptions {
        reserved_moov_box_size: estimate_maximum_moov_box_size(&[packets.len()])
            + metadata.as_ref().map_or(0, MetadataBoxes::room),
        creation_timestamp: Duration::from_secs(
            options.metadata.as_ref().and_then(Metadata::created_unix_s).unwrap_or(0),
        ),
        ..Mp4FileMuxerOptions::default()
    })
    .map_err(Error::Mux)?;
    let fps = options.fps;
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
        // The head, up to the media data; the only piece in front of them.
        if let (0, Some(metadata)) = (offset, &metadata) {
            metadata.insert(&mut file[..bytes.len()], boxes.moov_box_size())?;
        }
    }
    Ok(file)
}

/// What a [`Metadata`] adds to the head of the file.
struct MetadataBoxes {
    udta: Vec<u8>,
    xmp: Vec<u8>,
}

impl MetadataBoxes {
    fn new(metadata: &Metadata) -> Self {
        Self { udta: metadata.udta_box(), xmp: metadata.xmp_box() }
    }

    /// Bytes to reserve for them, with the header of the `free` box that fills what remains.
    fn room(&self) -> usize {
        self.udta.len() + self.xmp.len() + BOX_HEADER_BYTES
    }

    /// Puts them into the muxer's head (`ftyp`, `moov`, `free`) at the cost of `free`: the media data stay where the
    /// index says they are.
    fn insert(&self, head: &mut [u8], moov_bytes: usize) -> Result<()> {
        let too_big = || Error::NotFaststart { moov_bytes: moov_bytes + self.udta.len() };
        let ftyp_bytes = head.first_chunk().map_or(0, |size| u32::from_be_bytes(*size) as usize);
        let (moov, free) = head
            .get_mut(ftyp_bytes..)
            .and_then(|rest| rest.split_at_mut_checked(moov_bytes))
            .ok_or_else(too_big)?;
        let payload_bytes = free.len().checked_sub(self.room()).ok_or_else(too_big)?;
        let remaining = FreeBox { payload: vec![0; payload_bytes] }.encode_to_vec().map_err(Error::Stream)?;
        if let Some(size) = moov.first_chunk_mut() {
            *size = ((moov_bytes + self.udta.len()) as u32).to_be_bytes();
        }
        free.copy_from_slice(&[self.udta.as_slice(), &self.xmp, &remaining].concat());
        Ok(())
    }
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
