//! Checkpoints that were cut, changed or made to do harm: each is refused in one line, and nothing of it is run.

use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use cogvideox::convert::{SatComponent, recognise};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sat").join(name)).unwrap()
}

/// As `torch.save` lays it out, with checksums that are right.
fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        writer.start_file(name.as_str(), stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn of_pickle(pickle: Vec<u8>) -> Vec<u8> {
    archive(&[("x/data.pkl".to_owned(), pickle), ("x/data/0".to_owned(), vec![0; 64])])
}

fn open(bytes: &[u8]) -> Result<Option<SatComponent>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.pt");
    fs::write(&path, bytes).unwrap();
    let found = recognise(&path).map_err(|error| error.to_string());
    if let Err(message) = &found {
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.contains("hostile.pt: "), "{message}");
    }
    found
}

#[track_caller]
fn assert_refused(bytes: &[u8], part: &str) {
    let message = open(bytes).unwrap_err();
    assert!(message.contains(part), "expected {part:?} in {message:?}");
}

fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

fn long(value: i64) -> Vec<u8> {
    [b"\x8a\x08".as_slice(), &value.to_le_bytes()].concat()
}

fn tuple(items: &[i64]) -> Vec<u8> {
    let items = items.iter().flat_map(|item| long(*item)).collect::<Vec<u8>>();
    [b"(".as_slice(), &items, b"t"].concat()
}

/// A dictionary of one tensor over a storage of 16 floats.
struct Described {
    name: &'static str,
    class: &'static str,
    storage: &'static str,
    offset: i64,
    shape: &'static [i64],
    strides: &'static [i64],
}

const PLAIN: Described = Described {
    name: "mixins.patch_embed.proj.weight",
    class: "torch\nFloatStorage",
    storage: "0",
    offset: 0,
    shape: &[4, 4],
    strides: &[4, 1],
};

impl Described {
    fn file(&self) -> Vec<u8> {
        of_pickle(
            [
                b"\x80\x02}".as_slice(),
                &text(self.name),
                b"ctorch._utils\n_rebuild_tensor_v2\n((",
                &text("storage"),
                format!("c{}\n", self.class).as_bytes(),
                &text(self.storage),
                &text("cpu"),
                b"K\x10tQ",
                &long(self.offset),
                &tuple(self.shape),
                &tuple(self.strides),
                b"\x89}tRs.",
            ]
            .concat(),
        )
    }
}

#[test]
fn whole_ones_are_recognised() {
    assert_eq!(open(&golden("5b/transformer.pt")), Ok(Some(SatComponent::Transformer)));
    assert_eq!(open(&golden("5b/3d-vae.pt")), Ok(Some(SatComponent::Vae)));
    assert_eq!(open(&PLAIN.file()), Ok(Some(SatComponent::Transformer)));
    assert_eq!(open(b"a text"), Ok(None));
    assert_eq!(open(b""), Ok(None));
}

#[test]
fn cut_and_foreign_files_are_refused() {
    let whole = golden("2b/transformer.pt");
    for length in [4, 10, whole.len() / 2, whole.len() - 30, whole.len() - 1] {
        assert_refused(&whole[..length], "expected a zip");
    }
    assert_refused(&archive(&[("x/other".to_owned(), Vec::new())]), "found a zip without data.pkl");
    assert_refused(&of_pickle(b"\x80\x02}.".to_vec()), "found another checkpoint of torch.save");
    let foreign = ["x/byteorder", "x/data.pkl"].map(|name| (name.to_owned(), b"big".to_vec()));
    assert_refused(&archive(&foreign), "expected little-endian");
}

#[test]
fn tensors_that_do_not_lie_in_the_file_are_refused_by_name() {
    let outside = "tensor mixins.patch_embed.proj.weight: does not lie within its storage \"0\" of 64 bytes";
    for described in [
        Described { offset: 1, ..PLAIN },
        Described { offset: -1, ..PLAIN },
        Described { offset: i64::MAX, ..PLAIN },
        Described { shape: &[5, 4], ..PLAIN },
        Described { shape: &[i64::MAX, i64::MAX], ..PLAIN },
        Described { strides: &[5, 1], ..PLAIN },
        Described { strides: &[i64::MAX, i64::MAX], ..PLAIN },
        // A few bytes that would be terabytes.
        Described { shape: &[1 << 20, 1 << 20], strides: &[0, 0], ..PLAIN },
    ] {
        assert_refused(&described.file(), outside);
    }
    assert_refused(&Described { shape: &[-4, 4], ..PLAIN }.file(), "has no shape");
    assert_refused(&Described { strides: &[1], ..PLAIN }.file(), "has 2 dimensions and 1 strides");
    assert_refused(&Described { storage: "../data.pkl", ..PLAIN }.file(), "storage \"x/data/../data.pkl\"");
    assert_refused(&Described { class: "os\nsystem", ..PLAIN }.file(), "found \"os system\"");
    assert_refused(&Described { name: "two\nlines", ..PLAIN }.file(), "tensor \"two\\nlines\"");
    // Empty, which is no fault, and the product of its sizes too large, which would be one if it were not.
    let empty = Described { shape: &[0, 1 << 62, 1 << 62], strides: &[1, 1, 1], ..PLAIN };
    assert_eq!(open(&empty.file()), Ok(Some(SatComponent::Transformer)));
}

#[test]
fn programs_are_read_and_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let command = text(&format!("touch {}", trace.display()));
    let program = [b"\x80\x02cposix\nsystem\n".as_slice(), &command, b"\x85R."].concat();
    assert_refused(&of_pickle(program), "holds no dictionary of tensors");
    assert!(!trace.exists());

    for (program, part) in [
        (b"".as_slice(), "it ends too early"),
        (b"\x80\x02}", "it ends too early"),
        (b"}X\xff\xff\xff\xffabc", "it ends too early"),
        (b"cno end", "it ends too early"),
        (b"0.", "the stack is empty"),
        (b"R.", "the stack is empty"),
        (b".", "the stack is empty"),
        (b"K\x01t.", "there is no mark"),
        (b"h\x07.", "refers to what it has not seen"),
        (b"\x8a\xffabc", "it ends too early"),
        (b"i", "instruction 0x69 is none that torch writes"),
        // A dictionary that is its own entry, and a tuple of itself as a tensor.
        (b"}q\x00X\x05\x00\x00\x00modelh\x00s.", "another checkpoint"),
        (b"}X\x01\x00\x00\x00a(tq\x00h\x00Rs.", "another checkpoint"),
    ] {
        assert_refused(&of_pickle(program.to_vec()), part);
    }
    // Deeper than any stack: a million marks, tuples in tuples, calls of calls.
    assert_refused(&of_pickle([vec![b'('; 1 << 20], b".".to_vec()].concat()), "holds no dictionary");
    assert_refused(
        &of_pickle([b")".to_vec(), vec![0x85; 1 << 20], b".".to_vec()].concat()),
        "holds no dictionary",
    );
    assert_refused(
        &of_pickle([b")".to_vec(), b")R".repeat(1 << 20), b".".to_vec()].concat()),
        "holds no dictionary",
    );
}

/// Whatever it comes to, it comes to it in an orderly way.
#[test]
fn a_pickle_with_any_byte_changed_ends_in_order() {
    let whole = golden("2b/transformer.pt");
    let mut zip = ZipArchive::new(Cursor::new(whole.as_slice())).unwrap();
    let mut files = Vec::new();
    for index in 0..zip.len() {
        let mut file = zip.by_index(index).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        files.push((file.name().unwrap().into_owned(), bytes));
    }
    let pickle = files.iter().position(|(name, _)| name.ends_with("/data.pkl")).unwrap();
    let mut refusals = 0;
    // Every byte takes half a minute: a step without a common factor with the lengths of torch's records.
    for at in (0..files[pickle].1.len()).step_by(7) {
        for flip in [0xff, 0x01] {
            files[pickle].1[at] ^= flip;
            refusals += usize::from(open(&archive(&files)).is_err());
            files[pickle].1[at] ^= flip;
        }
    }
    println!("{refusals} refusals");
    assert!(refusals > 100, "{refusals}");
}

/// Of the zip itself: the headers at its beginning and the directory at its end.
#[test]
fn a_zip_with_any_header_byte_changed_ends_in_order() {
    let whole = golden("2b/transformer.pt");
    let at_end = whole.len() - 12_000..whole.len();
    for at in (0..200).chain(at_end).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        let _ = open(&bytes);
    }
}
