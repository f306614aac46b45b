//! Reads `spiece.model`, a protobuf message `sentencepiece.ModelProto`.
//!
//! Only the fields that encoding needs; others are skipped. The bytes come from the internet: every length is checked
//! against what is left. Knows nothing of what the fields are for, but refuses models that are not a plain unigram
//! model, which T5's always is.

/// What is wrong with the bytes; the caller adds the path.
type Result<T> = std::result::Result<T, String>;

/// `ModelProto`.
pub(super) struct Model {
    pub(super) pieces: Vec<Piece>,
    pub(super) normalizer: NormalizerSpec,
}

/// `ModelProto.SentencePiece`.
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: PieceKind,
}

/// `ModelProto.SentencePiece.Type`, without those that are refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    Normal,
    Unknown,
    Control,
    Unused,
}

/// `NormalizerSpec`.
pub(super) struct NormalizerSpec {
    pub(super) precompiled_charsmap: Vec<u8>,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
}

impl Model {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut model = Self {
            pieces: Vec::new(),
            normalizer: NormalizerSpec {
                precompiled_charsmap: Vec::new(),
                add_dummy_prefix: true,
                remove_extra_whitespaces: true,
                escape_whitespaces: true,
            },
        };
        for_each_field(bytes, |number, value| match number {
            1 => {
                let piece = Piece::parse(value.bytes("pieces")?)
                    .map_err(|e| format!("piece {}: {e}", model.pieces.len()))?;
                model.pieces.push(piece);
                Ok(())
            }
            2 => check_trainer_spec(value.bytes("trainer_spec")?),
            3 => model.normalizer.merge(value.bytes("normalizer_spec")?),
            _ => Ok(()),
        })
        .map_err(|e| format!("not a sentencepiece model of {} bytes: {e}", bytes.len()))?;
        Ok(model)
    }
}

impl Piece {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut piece = Self { text: String::new(), score: 0.0, kind: PieceKind::Normal };
        for_each_field(bytes, |number, value| {
            match number {
                1 => {
                    let text = std::str::from_utf8(value.bytes("piece")?);
                    text.map_err(|_| "piece is not UTF-8")?.clone_into(&mut piece.text);
                }
                2 => piece.score = value.float("score")?,
                3 => {
                    piece.kind = match value.varint("type")? {
                        1 => PieceKind::Normal,
                        2 => PieceKind::Unknown,
                        3 => PieceKind::Control,
                        5 => PieceKind::Unused,
                        found => return Err(format!("type: expected 1, 2, 3 or 5, found {found}")),
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        if piece.text.is_empty() {
            return Err("its text is empty".to_owned());
        }
        if !piece.score.is_finite() {
            return Err(format!("score: expected a finite number, found {}", piece.score));
        }
        Ok(piece)
    }
}

impl NormalizerSpec {
    fn merge(&mut self, bytes: &[u8]) -> Result<()> {
        for_each_field(bytes, |number, value| {
            match number {
                2 => self.precompiled_charsmap = value.bytes("precompiled_charsmap")?.to_vec(),
                3 => self.add_dummy_prefix = value.varint("add_dummy_prefix")? != 0,
                4 => self.remove_extra_whitespaces = value.varint("remove_extra_whitespaces")? != 0,
                5 => self.escape_whitespaces = value.varint("escape_whitespaces")? != 0,
                _ => {}
            }
            Ok(())
        })
    }
}

/// `TrainerSpec` holds nothing that encoding needs, but says whether this is T5's kind of model.
fn check_trainer_spec(bytes: &[u8]) -> Result<()> {
    for_each_field(bytes, |number, value| match number {
        3 => match value.varint("model_type")? {
            1 => Ok(()),
            found => Err(format!("model_type: expected 1 (unigram), found {found}")),
        },
        24 => expect_false("treat_whitespace_as_suffix", value),
        35 => expect_false("byte_fallback", value),
        _ => Ok(()),
    })
}

fn expect_false(name: &str, value: Value<'_>) -> Result<()> {
    if value.varint(name)? == 0 { Ok(()) } else { Err(format!("{name}: expected false, found true")) }
}

/// A field's value by its wire type.
#[derive(Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

impl<'a> Value<'a> {
    fn varint(self, name: &str) -> Result<u64> {
        if let Self::Varint(value) = self { Ok(value) } else { Err(format!("{name} is not a number")) }
    }

    fn bytes(self, name: &str) -> Result<&'a [u8]> {
        if let Self::Bytes(value) = self { Ok(value) } else { Err(format!("{name} has no length")) }
    }

    fn float(self, name: &str) -> Result<f32> {
        if let Self::Fixed32(value) = self {
            Ok(f32::from_le_bytes(value))
        } else {
            Err(format!("{name} is not a float"))
        }
    }
}

/// Calls `f` with each field's number and value.
fn for_each_field(mut bytes: &[u8], mut f: impl FnMut(u64, Value<'_>) -> Result<()>) -> Result<()> {
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Varint(take_varint(&mut bytes)?),
            1 => {
                take(&mut bytes, 8)?;
                Value::Fixed64
            }
            2 => {
                let len = take_varint(&mut bytes)?;
                Value::Bytes(take(&mut bytes, len)?)
            }
            5 => {
                let four = take(&mut bytes, 4)?;
                Value::Fixed32([four[0], four[1], four[2], four[3]])
            }
            other => return Err(format!("unknown wire type {other}")),
        };
        f(key >> 3, value)?;
    }
    Ok(())
}

fn take<'a>(bytes: &mut &'a [u8], len: u64) -> Result<&'a [u8]> {
    let (head, tail) = usize::try_from(len)
        .ok()
        .and_then(|len| bytes.split_at_checked(len))
        .ok_or_else(|| format!("truncated: expected {len} more bytes, found {}", bytes.len()))?;
    *bytes = tail;
    Ok(head)
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number is longer than 64 bits".to_owned())
}
