//! sentencepiece's `Normalizer`: Unicode rules compiled into the model, then whitespace.
//!
//! At each position the longest rule that matches is applied; the rules are a double-array trie (darts-clone) over
//! UTF-8 bytes. A damaged table gives odd text, never a panic. Knows nothing of pieces.

use super::proto::NormalizerSpec;

/// What sentencepiece writes for a space.
pub(super) const SPACE_SYMBOL: &str = "\u{2581}";

#[derive(Debug)]
pub(super) struct Normalizer {
    /// The trie; empty without rules.
    units: Vec<u32>,
    /// The rules' results, each ended by a zero byte.
    replacements: Vec<u8>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    /// What a space becomes.
    space: &'static str,
}

impl Normalizer {
    pub(super) fn new(spec: &NormalizerSpec) -> Result<Self, String> {
        let (units, replacements) = decode_charsmap(&spec.precompiled_charsmap)?;
        Ok(Self {
            units,
            replacements,
            add_dummy_prefix: spec.add_dummy_prefix,
            remove_extra_whitespaces: spec.remove_extra_whitespaces,
            space: if spec.escape_whitespaces { SPACE_SYMBOL } else { " " },
        })
    }

    pub(super) fn normalize(&self, mut input: &[u8]) -> Vec<u8> {
        if self.remove_extra_whitespaces {
            while !input.is_empty() {
                let (replaced, consumed) = self.normalize_prefix(input);
                if replaced != b" " {
                    break;
                }
                input = &input[consumed..];
            }
        }
        let mut output = Vec::with_capacity(input.len() + input.len() / 2);
        if input.is_empty() {
            return output;
        }
        if self.add_dummy_prefix {
            output.extend_from_slice(self.space.as_bytes());
        }
        let mut previous_is_space = self.remove_extra_whitespaces;
        while !input.is_empty() {
            let (mut replaced, consumed) = self.normalize_prefix(input);
            while previous_is_space && replaced.first() == Some(&b' ') {
                replaced = &replaced[1..];
            }
            for &byte in replaced {
                match byte {
                    b' ' => output.extend_from_slice(self.space.as_bytes()),
                    byte => output.push(byte),
                }
            }
            // What a rule deletes leaves the state as it was.
            if let Some(last) = replaced.last() {
                previous_is_space = self.remove_extra_whitespaces && *last == b' ';
            }
            input = &input[consumed..];
        }
        if self.remove_extra_whitespaces {
            while output.ends_with(self.space.as_bytes()) {
                output.truncate(output.len() - self.space.len());
            }
        }
        output
    }

    /// The normalised form of the first rule or character of `input`, and how many bytes of it that takes.
    fn normalize_prefix<'a>(&'a self, input: &'a [u8]) -> (&'a [u8], usize) {
        if let Some((len, value)) = self.longest_rule(input) {
            let tail = self.replacements.get(value..).unwrap_or_default();
            let end = tail.iter().position(|byte| *byte == 0).unwrap_or(tail.len());
            return (&tail[..end], len);
        }
        let len = char_len(input[0]).min(input.len());
        if std::str::from_utf8(&input[..len]).is_ok() {
            (&input[..len], len)
        } else {
            // Only a damaged table can end a rule inside a character.
            ("\u{fffd}".as_bytes(), 1)
        }
    }

    /// Length and value of the longest key that `input` begins with (darts-clone's `commonPrefixSearch`).
    fn longest_rule(&self, input: &[u8]) -> Option<(usize, usize)> {
        let mut longest = None;
        let mut position = offset(*self.units.first()?);
        for (i, &byte) in input.iter().enumerate() {
            position ^= usize::from(byte);
            let Some(&unit) = self.units.get(position) else { break };
            // A value's top bit is set, so that it is no byte's label.
            if unit & 0x8000_00ff != u32::from(byte) {
                break;
            }
            position ^= offset(unit);
            let has_leaf = unit >> 8 & 1 == 1;
            if has_leaf && let Some(&leaf) = self.units.get(position) {
                longest = Some((i + 1, (leaf & 0x7fff_ffff) as usize));
            }
        }
        longest
    }
}

/// Where a unit's children are, relative to itself.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 0x200) >> 6)) as usize
}

/// `string_util::OneCharLen`.
pub(super) fn char_len(first_byte: u8) -> usize {
    match first_byte >> 4 {
        0..=0xb => 1,
        0xc..=0xd => 2,
        0xe => 3,
        _ => 4,
    }
}

/// `<trie bytes: u32> <trie> <replacements>`.
fn decode_charsmap(blob: &[u8]) -> Result<(Vec<u32>, Vec<u8>), String> {
    if blob.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let broken = || format!("precompiled_charsmap of {} bytes is broken", blob.len());
    let (size, rest) = blob.split_first_chunk::<4>().ok_or_else(broken)?;
    let (trie, replacements) =
        rest.split_at_checked(u32::from_le_bytes(*size) as usize).ok_or_else(broken)?;
    let units = trie.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]));
    Ok((units.collect(), replacements.to_vec()))
}
