//! A player in miniature: reads the boxes, finds the samples, decodes them and turns them back into RGB as the tags
//! ask. Written against the standards, not against the writer.

use mp4_atom::{Any, Avc1, Codec, Colr, Decode, DecodeMaybe, FourCC, Header, Moov, StszSamples, Trak};
use openh264::{decoder::Decoder, formats::YUVSource};

/// A parsed file.
pub(crate) struct Video {
    pub(crate) bytes: Vec<u8>,
    pub(crate) moov: Moov,
}

/// Names of the boxes at the top of a file, in order.
pub(crate) fn top_level_boxes(mut file: &[u8]) -> Vec<FourCC> {
    let mut kinds = Vec::new();
    while let Some(header) = Header::decode_maybe(&mut file).unwrap() {
        kinds.push(header.kind);
        file = &file[header.size.unwrap()..];
    }
    kinds
}

/// Types and payloads of the boxes in a buffer. Only for boxes with 32-bit sizes.
pub(crate) fn boxes_in(mut bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (size, rest) = bytes.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<4>().unwrap();
        let payload;
        (payload, bytes) = rest.split_at(u32::from_be_bytes(*size) as usize - 8);
        Some((*kind, payload))
    })
}

/// The payload of the first box of a type.
pub(crate) fn child(bytes: &[u8], kind: [u8; 4]) -> &[u8] {
    boxes_in(bytes).find(|(found, _)| *found == kind).unwrap().1
}

impl Video {
    pub(crate) fn open(bytes: Vec<u8>) -> Self {
        let mut rest = bytes.as_slice();
        let moov = loop {
            match Any::decode(&mut rest).unwrap() {
                Any::Moov(moov) => break moov,
                other => assert_ne!(other.kind(), FourCC::new(b"mdat"), "moov comes after mdat"),
            }
        };
        Self { bytes, moov }
    }

    pub(crate) fn track(&self) -> &Trak {
        assert_eq!(self.moov.trak.len(), 1, "one track");
        &self.moov.trak[0]
    }

    pub(crate) fn avc1(&self) -> &Avc1 {
        match self.track().mdia.minf.stbl.stsd.codecs.as_slice() {
            [Codec::Avc1(avc1)] => avc1,
            other => panic!("expected one avc1 entry, found {other:?}"),
        }
    }

    pub(crate) fn colr(&self) -> &Colr {
        self.avc1().colr.as_ref().unwrap()
    }

    /// The sequence parameter set as stored in the sample entry.
    pub(crate) fn sps(&self) -> h264_reader::nal::sps::SeqParameterSet {
        use h264_reader::rbsp::{BitReader, decode_nal};
        let [sps] = self.avc1().avcc.sequence_parameter_sets.as_slice() else { panic!("one SPS expected") };
        let rbsp = decode_nal(sps).unwrap();
        h264_reader::nal::sps::SeqParameterSet::from_bits(BitReader::new(&*rbsp)).unwrap()
    }

    /// The coded samples in order, as byte ranges of the file.
    pub(crate) fn samples(&self) -> Vec<&[u8]> {
        let stbl = &self.track().mdia.minf.stbl;
        let sizes = match &stbl.stsz.samples {
            StszSamples::Different { sizes } => sizes.clone(),
            StszSamples::Identical { count, size } => vec![*size; *count as usize],
        };
        let offsets: Vec<u64> = match (&stbl.stco, &stbl.co64) {
            (Some(stco), None) => stco.entries.iter().map(|&offset| offset.into()).collect(),
            (None, Some(co64)) => co64.entries.clone(),
            _ => panic!("exactly one of stco and co64"),
        };
        let mut sizes = sizes.into_iter();
        let mut samples = Vec::new();
        for (chunk, &offset) in (1..).zip(&offsets) {
            let run = stbl.stsc.entries.iter().rev().find(|entry| entry.first_chunk <= chunk).unwrap();
            let mut start = offset as usize;
            for size in sizes.by_ref().take(run.samples_per_chunk as usize) {
                let end = start + size as usize;
                samples.push(&self.bytes[start..end]);
                start = end;
            }
        }
        assert_eq!(sizes.next(), None, "samples outside every chunk");
        samples
    }

    /// Decodes every sample; one picture must come out of each.
    pub(crate) fn decode(&self) -> Vec<Picture> {
        let avcc = &self.avc1().avcc;
        let mut parameter_sets = Vec::new();
        for nal in avcc.sequence_parameter_sets.iter().chain(&avcc.picture_parameter_sets) {
            parameter_sets.extend([0, 0, 0, 1]);
            parameter_sets.extend_from_slice(nal);
        }
        let mut decoder = Decoder::new().unwrap();
        let mut pictures = Vec::new();
        for (index, mut sample) in self.samples().into_iter().enumerate() {
            let mut annex_b = if index == 0 { parameter_sets.clone() } else { Vec::new() };
            while let Some((length, rest)) = sample.split_first_chunk::<4>() {
                let (nal, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
                annex_b.extend([0, 0, 0, 1]);
                annex_b.extend_from_slice(nal);
                sample = rest;
            }
            assert!(sample.is_empty(), "bytes after the last NAL unit");
            let yuv = decoder.decode(&annex_b).unwrap().expect("a picture for every sample");
            pictures.push(Picture::copy(&yuv));
        }
        pictures
    }
}

/// One decoded picture, planes without padding.
pub(crate) struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
}

impl Picture {
    fn copy(yuv: &impl YUVSource) -> Self {
        let (width, height) = yuv.dimensions();
        let (y_stride, u_stride, v_stride) = yuv.strides();
        let plane = |bytes: &[u8], stride: usize, width: usize, height: usize| -> Vec<u8> {
            bytes.chunks(stride).take(height).flat_map(|row| &row[..width]).copied().collect()
        };
        Self {
            width,
            height,
            y: plane(yuv.y(), y_stride, width, height),
            u: plane(yuv.u(), u_stride, width / 2, height / 2),
            v: plane(yuv.v(), v_stride, width / 2, height / 2),
        }
    }

    /// RGB as a player shows it: limited range, the BT.709 inverse as printed in the recommendation, chroma
    /// interpolated from where H.264 puts it by default (even columns, between the rows).
    pub(crate) fn to_rgb(&self) -> Vec<u8> {
        let mut rgb = Vec::with_capacity(self.width * self.height * 3);
        for y in 0..self.height {
            for x in 0..self.width {
                let luma = (f64::from(self.y[y * self.width + x]) - 16.0) / 219.0;
                let cb = (self.chroma(&self.u, x, y) - 128.0) / 224.0;
                let cr = (self.chroma(&self.v, x, y) - 128.0) / 224.0;
                let red = luma + 1.5748 * cr;
                let blue = luma + 1.8556 * cb;
                let green = (luma - 0.2126 * red - 0.0722 * blue) / 0.7152;
                rgb.extend([red, green, blue].map(|c| (c * 255.0).round().clamp(0.0, 255.0) as u8));
            }
        }
        rgb
    }

    fn chroma(&self, plane: &[u8], x: usize, y: usize) -> f64 {
        let (columns, rows) = (self.width / 2, self.height / 2);
        let at = |column: usize, row: usize| f64::from(plane[row * columns + column]);
        let (left, right) = (x / 2, (x / 2 + x % 2).min(columns - 1));
        let near = y / 2;
        let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(rows - 1) };
        let line = |row: usize| f64::midpoint(at(left, row), at(right, row));
        0.75 * line(near) + 0.25 * line(far)
    }
}

/// Peak signal-to-noise ratio in dB of two equally long byte buffers.
pub(crate) fn psnr_db(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squared: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 / (squared / a.len() as f64)).log10()
}
