//! What a file says about itself: read back as players do (the item list) and as archives do (XMP, with a real XML
//! parser), with the video intact around it.

use media::{EncodeOptions, Error, Frames, MAX_METADATA_BYTES, Metadata, Quality, encode_mp4};
use mp4_atom::FourCC;
use roxmltree::{Document, Node};

use crate::player::{Video, boxes_in, child, top_level_boxes};

const XMP_UUID: [u8; 16] =
    [0xBE, 0x7A, 0xCF, 0xCB, 0x97, 0xA9, 0x42, 0xE8, 0x9C, 0x71, 0x99, 0x94, 0x91, 0xE3, 0xAF, 0xAC];
const MARK: &str = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia";

/// A JSON text with what JSON and XML disagree about.
const COMMENT: &str = r#"{"seed":42,"prompt":"<a> & \"b\" ]]> c\n","guidance_scale":6.0}"#;

fn metadata(title: &str) -> Metadata {
    Metadata {
        title: title.to_owned(),
        comment: COMMENT.to_owned(),
        software: "cogvideox-server 0.1.0".to_owned(),
        created_unix_s: Some(1_709_251_199),
    }
}

fn encode(count: u8, metadata: Option<Metadata>) -> Vec<u8> {
    // Brightness climbs, so that a sample read from a wrong place shows.
    let rgb = (0..count).flat_map(|t| std::iter::repeat_n(20 + 4 * t, 64 * 48 * 3)).collect();
    let frames = Frames::new(rgb, 64, 48, count.into()).unwrap();
    encode_mp4(&frames, &EncodeOptions { fps: 8, quality: Quality::Standard, metadata }).unwrap()
}

/// The text of one item, by the iTunes layout: `moov/udta/meta/ilst/KIND/data`.
fn item(file: &[u8], kind: [u8; 4]) -> String {
    let meta = child(child(child(file, *b"moov"), *b"udta"), *b"meta");
    // A full box: version and flags come before its children.
    let meta = &meta[4..];
    assert_eq!(child(meta, *b"hdlr")[8..12], *b"mdir");
    let data = child(child(child(meta, *b"ilst"), kind), *b"data");
    let (head, text) = data.split_at(8);
    assert_eq!(head, [0, 0, 0, 1, 0, 0, 0, 0], "UTF-8, no locale");
    String::from_utf8(text.to_vec()).unwrap()
}

/// The XMP packet.
fn xmp(file: &[u8]) -> &str {
    let (uuid, packet) = child(file, *b"uuid").split_at(16);
    assert_eq!(uuid, XMP_UUID);
    std::str::from_utf8(packet).unwrap()
}

/// The text of the only XMP element of this namespace and name.
fn property(packet: &str, namespace: &str, name: &str) -> String {
    let document = Document::parse(packet).unwrap();
    let mut found = document.descendants().filter(|node| node.has_tag_name((namespace, name)));
    let (Some(node), None) = (found.next(), found.next()) else { panic!("one {name} expected in {packet}") };
    node.descendants().filter(Node::is_text).filter_map(|node| node.text()).collect()
}

const DC: &str = "http://purl.org/dc/elements/1.1/";
const XMP: &str = "http://ns.adobe.com/xap/1.0/";
const IPTC: &str = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/";

#[test]
fn players_and_archives_find_every_field() {
    let file = encode(5, Some(metadata("A panda plays the guitar")));
    assert_eq!(item(&file, *b"\xA9nam"), "A panda plays the guitar");
    assert_eq!(item(&file, *b"\xA9cmt"), COMMENT);
    assert_eq!(item(&file, *b"\xA9too"), "cogvideox-server 0.1.0");

    let packet = xmp(&file);
    assert_eq!(property(packet, IPTC, "DigitalSourceType"), MARK);
    assert_eq!(property(packet, DC, "title"), "A panda plays the guitar");
    assert_eq!(property(packet, DC, "description"), COMMENT);
    assert_eq!(property(packet, XMP, "CreatorTool"), "cogvideox-server 0.1.0");
    assert_eq!(property(packet, XMP, "CreateDate"), "2024-02-29T23:59:59Z");

    let video = Video::open(file);
    // ISO files count from 1904.
    assert_eq!(video.moov.mvhd.creation_time, 1_709_251_199 + 2_082_844_800);
    let udta = video.moov.udta.unwrap();
    assert!(udta.meta.is_some(), "the demuxer takes it for an item list too");
}

#[test]
fn any_text_survives() {
    let long = "日本語 🐼 &<>\"' ".repeat(1000);
    for title in [
        "",
        "a ]]> b",
        "&amp; <x y=\"z\">&#0;</x> '",
        "👩‍👩‍👧 \u{10FFFF}",
        "line\r\nline\ttab\u{85}\u{7F}",
        &long,
    ] {
        let file = encode(1, Some(metadata(title)));
        assert_eq!(item(&file, *b"\xA9nam"), title);
        assert_eq!(property(xmp(&file), DC, "title"), title);
        assert_eq!(Video::open(file).decode().len(), 1);
    }
    // What XML has no way to write is replaced there, and only there.
    let file = encode(1, Some(metadata("a\0b\u{1B}c\u{FFFE}d\u{FFFF}e")));
    assert_eq!(item(&file, *b"\xA9nam"), "a\0b\u{1B}c\u{FFFE}d\u{FFFF}e");
    assert_eq!(property(xmp(&file), DC, "title"), "a\u{FFFD}b\u{FFFD}c\u{FFFD}d\u{FFFD}e");
}

#[test]
fn the_video_around_it_is_the_same() {
    for count in [1, 49] {
        let plain = Video::open(encode(count, None));
        for title in ["short", &"🐼".repeat(10_000)] {
            let file = encode(count, Some(metadata(title)));
            let order: Vec<_> = [b"ftyp", b"moov", b"uuid", b"free", b"mdat"].map(FourCC::new).into();
            assert_eq!(top_level_boxes(&file), order);
            let video = Video::open(file);
            assert_eq!(video.samples(), plain.samples(), "chunk offsets");
            for (t, picture) in video.decode().iter().enumerate() {
                let shown = i32::from(picture.to_rgb()[0]);
                assert!((shown - (20 + 4 * t as i32)).abs() <= 3, "frame {t} shows {shown}");
            }
        }
    }
}

#[test]
fn without_metadata_there_is_none_and_no_mark() {
    let file = encode(3, None);
    assert_eq!(top_level_boxes(&file), [b"ftyp", b"moov", b"free", b"mdat"].map(FourCC::new));
    assert!(boxes_in(child(&file, *b"moov")).all(|(kind, _)| kind != *b"udta"));
    assert!(!file.windows(MARK.len()).any(|bytes| bytes == MARK.as_bytes()));
}

#[test]
fn equal_input_gives_equal_bytes() {
    assert_eq!(encode(3, Some(metadata("again"))), encode(3, Some(metadata("again"))));
    assert_ne!(encode(3, Some(metadata("again"))), encode(3, Some(metadata("other"))));
}

#[test]
fn dates_are_the_calendars() {
    for (created_unix_s, expected) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_230_768_000, "2009-01-01T00:00:00Z"),
        (1_795_455_129, "2026-11-23T17:32:09Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
        (u64::MAX, "9999-12-31T23:59:59Z"),
    ] {
        let file = encode(1, Some(Metadata { created_unix_s: Some(created_unix_s), ..metadata("") }));
        assert_eq!(property(xmp(&file), XMP, "CreateDate"), expected);
    }
}

#[test]
fn a_clip_without_a_date_tells_none() {
    let file = encode(1, Some(Metadata { created_unix_s: None, ..metadata("") }));
    assert!(!file.windows(10).any(|bytes| bytes == b"CreateDate"));
}

#[test]
fn texts_beyond_the_limit_are_refused() {
    let too_long = Metadata { title: "x".repeat(MAX_METADATA_BYTES), ..metadata("") };
    let options = EncodeOptions { fps: 8, quality: Quality::Standard, metadata: Some(too_long) };
    let frames = Frames::new(vec![0; 16 * 16 * 3], 16, 16, 1).unwrap();
    let error = encode_mp4(&frames, &options).unwrap_err();
    let found = MAX_METADATA_BYTES + COMMENT.len() + "cogvideox-server 0.1.0".len();
    assert!(matches!(error, Error::MetadataBytes { found: told } if told == found), "{error}");
}
