//! What a file says about itself, in the two forms that programs look for: an iTunes item list (`moov/udta`), which
//! players and `ffprobe` show, and an XMP packet (a `uuid` box), which carries the mark of generated media. Knows how
//! these boxes look, not where in the file they stand (`mp4`).

use crate::{Error, Result};

/// What [`crate::EncodeOptions`] writes into a file beside the pictures. A file with it is also marked as generated
/// by a model, in the words of the IPTC (`trainedAlgorithmicMedia`).
///
/// The texts can be any: players get them unchanged. In the XMP packet, characters that XML has no way to write (the
/// control characters but tab, line feed and carriage return; U+FFFE and U+FFFF) become U+FFFD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The prompt.
    pub title: String,
    /// Everything else that made the clip, as one JSON text.
    pub comment: String,
    /// Name and version of the program.
    pub software: String,
    /// When the clip was made, in seconds since 1970 UTC, if the file is to tell. What lies behind the year 9999 is
    /// written as its end.
    pub created_unix_s: Option<u64>,
}

/// The most bytes that the texts of a [`Metadata`] may come to: far beyond any prompt, and it keeps the sizes of the
/// boxes within their 32 bits.
pub const MAX_METADATA_BYTES: usize = 16 << 20;

/// What the IPTC calls media from a model trained on samples.
const TRAINED_ALGORITHMIC_MEDIA: &str =
    "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia";

/// The box type of XMP in ISO files (XMP specification, part 3).
const XMP_UUID: [u8; 16] = 0xBE7A_CFCB_97A9_42E8_9C71_9994_91E3_AFAC_u128.to_be_bytes();

/// 9999-12-31T23:59:59Z: a date has four digits for the year.
const LAST_SECOND: u64 = 253_402_300_799;

impl Metadata {
    /// Refuses texts that are too long, before any work is done.
    pub(crate) fn check(&self) -> Result<()> {
        let found = self.title.len() + self.comment.len() + self.software.len();
        if found > MAX_METADATA_BYTES { Err(Error::MetadataBytes { found }) } else { Ok(()) }
    }

    /// [`Self::created_unix_s`] where it has a date.
    pub(crate) fn created_unix_s(&self) -> Option<u64> {
        self.created_unix_s.map(|unix_s| unix_s.min(LAST_SECOND))
    }

    /// `udta/meta(hdlr, ilst)`, to stand in `moov`.
    pub(crate) fn udta_box(&self) -> Vec<u8> {
        let items = [(*b"\xA9nam", &self.title), (*b"\xA9cmt", &self.comment), (*b"\xA9too", &self.software)];
        let items = items.map(|(kind, text)| {
            // Type 1 is UTF-8; then the locale, none.
            let data = box_bytes(*b"data", &[&[0, 0, 0, 1, 0, 0, 0, 0], text.as_bytes()]);
            box_bytes(kind, &[&data])
        });
        // A full box: version and flags, a reserved field, the handler's type, its maker, reserved fields, no name.
        let hdlr = box_bytes(*b"hdlr", &[&[0; 8], b"mdir", b"appl", &[0; 9]]);
        let ilst = box_bytes(*b"ilst", &items.each_ref().map(Vec::as_slice));
        let meta = box_bytes(*b"meta", &[&[0; 4], &hdlr, &ilst]);
        box_bytes(*b"udta", &[&meta])
    }

    /// The `uuid` box with the XMP packet, to stand at the top level.
    pub(crate) fn xmp_box(&self) -> Vec<u8> {
        box_bytes(*b"uuid", &[&XMP_UUID, self.xmp_packet().as_bytes()])
    }

    fn xmp_packet(&self) -> String {
        let (title, description) = (xml_text(&self.title), xml_text(&self.comment));
        let tool = xml_text(&self.software);
        let date = self.created_unix_s().map_or_else(String::new, |unix_s| {
            format!("<xmp:CreateDate>{}</xmp:CreateDate>", date_time(unix_s))
        });
        // Read-only ("r"): there is no padding for an editor to write into. The ids are XMP's own.
        format!(
            "<?xpacket begin=\"\u{FEFF}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n\
            <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\
            <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
            <rdf:Description rdf:about=\"\" \
            xmlns:dc=\"http://purl.org/dc/elements/1.1/\" \
            xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\" \
            xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\">\
            <Iptc4xmpExt:DigitalSourceType>{TRAINED_ALGORITHMIC_MEDIA}</Iptc4xmpExt:DigitalSourceType>\
            <dc:title><rdf:Alt><rdf:li xml:lang=\"x-default\">{title}</rdf:li></rdf:Alt></dc:title>\
            <dc:description><rdf:Alt><rdf:li xml:lang=\"x-default\">{description}</rdf:li></rdf:Alt>\
            </dc:description>\
            <xmp:CreatorTool>{tool}</xmp:CreatorTool>\
            {date}\
            </rdf:Description></rdf:RDF></x:xmpmeta>\n\
            <?xpacket end=\"r\"?>"
        )
    }
}

/// A box with a 32-bit size, its payload given in parts.
fn box_bytes(kind: [u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let size = 8 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(size);
    bytes.extend((size as u32).to_be_bytes());
    bytes.extend(kind);
    bytes.extend(parts.iter().copied().flatten());
    bytes
}

/// Text as the content of an XML element.
fn xml_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            // On its own it is harmless; behind `]]` it is not.
            '>' => escaped.push_str("&gt;"),
            // As itself it would be read as a line feed.
            '\r' => escaped.push_str("&#xD;"),
            '\t' | '\n' => escaped.push(c),
            '\0'..='\x1F' | '\u{FFFE}' | '\u{FFFF}' => escaped.push(char::REPLACEMENT_CHARACTER),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// `YYYY-MM-DDThh:mm:ssZ`.
fn date_time(unix_s: u64) -> String {
    let (mut days, second) = (unix_s / 86_400, unix_s % 86_400);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 0;
    let february = 28 + u64::from(is_leap(year));
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1, days + 1)
}
