//! sentencepiece's unigram model: the segmentation with the best sum of piece scores.
//!
//! A Viterbi search over bytes, `unigram::Model::EncodeOptimized` to the letter: sums are kept in `f32` over the whole
//! text and a later path must be strictly better, because ties and near-ties do occur (a repeated letter is enough).
//! Knows nothing of normalisation or special tokens.

use std::collections::HashMap;

use super::normalizer::char_len;
use super::proto::{Piece, PieceKind};

/// How much worse than the worst piece an unknown character is (`kUnkPenalty`).
const UNK_PENALTY: f32 = 10.0;

#[derive(Debug)]
pub(super) struct Unigram {
    /// The pieces that text may be cut into, sorted by their bytes, with their scores.
    candidates: Vec<(Vec<u8>, f32)>,
    /// Every piece, control pieces included.
    ids: HashMap<Vec<u8>, u32>,
    unk_id: u32,
    unk_score: f32,
}

/// The best way to reach a position.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    starts_at: usize,
    unknown: bool,
}

impl Unigram {
    pub(super) fn new(pieces: Vec<Piece>) -> Result<Self, String> {
        let mut candidates = Vec::new();
        let mut ids = HashMap::with_capacity(pieces.len());
        let mut unk_id = None;
        let mut min_score = f32::MAX;
        for (id, piece) in (0_u32..).zip(pieces) {
            let text = piece.text.into_bytes();
            if ids.insert(text.clone(), id).is_some() {
                return Err(format!("piece {:?} stands twice", String::from_utf8_lossy(&text)));
            }
            match piece.kind {
                PieceKind::Normal => {
                    min_score = min_score.min(piece.score);
                    candidates.push((text, piece.score));
                }
                PieceKind::Unknown if unk_id.is_some() => {
                    return Err(format!("piece {id} is a second unknown piece"));
                }
                PieceKind::Unknown => unk_id = Some(id),
                PieceKind::Control | PieceKind::Unused => {}
            }
        }
        if candidates.is_empty() {
            return Err("expected a sentencepiece model, found no pieces".to_owned());
        }
        let unk_id = unk_id.ok_or("expected an unknown piece, found none")?;
        candidates.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(Self { candidates, ids, unk_id, unk_score: min_score - UNK_PENALTY })
    }

    /// How many pieces the model has, of any kind.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// A piece's id, or that of the unknown piece.
    pub(super) fn id(&self, piece: &[u8]) -> u32 {
        self.known_id(piece).unwrap_or(self.unk_id)
    }

    pub(super) fn known_id(&self, piece: &[u8]) -> Option<u32> {
        self.ids.get(piece).copied()
    }

    /// Cuts normalised text into pieces; a run of unknown characters is one piece.
    pub(super) fn encode(&self, text: &[u8]) -> Vec<Vec<u8>> {
        let best = self.best_paths(text);
        let mut cuts = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let node = best[end].expect("each character is reached from the one before it");
            cuts.push((node.starts_at..end, node.unknown));
            end = node.starts_at;
        }
        let mut pieces: Vec<Vec<u8>> = Vec::with_capacity(cuts.len());
        let mut previous_unknown = false;
        for (range, unknown) in cuts.into_iter().rev() {
            match pieces.last_mut() {
                Some(run) if unknown && previous_unknown => run.extend_from_slice(&text[range]),
                _ => pieces.push(text[range].to_vec()),
            }
            previous_unknown = unknown;
        }
        pieces
    }

    /// For each end position the best path to it.
    fn best_paths(&self, text: &[u8]) -> Vec<Option<Best>> {
        let mut best: Vec<Option<Best>> = vec![None; text.len() + 1];
        let mut start = 0;
        while start < text.len() {
            let score_here = best[start].map_or(0.0, |node| node.score);
            let char_len = char_len(text[start]).min(text.len() - start);
            let mut char_is_piece = false;
            let mut offer = |end: usize, piece_score: f32, unknown: bool| {
                let score = piece_score + score_here;
                if best[end].is_none_or(|node| score > node.score) {
                    best[end] = Some(Best { score, starts_at: start, unknown });
                }
            };
            for (len, score) in self.prefixes(&text[start..]) {
                offer(start + len, score, false);
                char_is_piece |= len == char_len;
            }
            if !char_is_piece {
                offer(start + char_len, self.unk_score, true);
            }
            start += char_len;
        }
        best
    }

    /// Length and score of the pieces that `text` begins with, shortest first.
    fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, f32)> + 'a {
        let mut range = self.candidates.as_slice();
        text.iter()
            .enumerate()
            .map_while(move |(depth, byte)| {
                // All of `range` share the first `depth` bytes; the piece of just that length, if any, is the first.
                let at = |piece: &(Vec<u8>, f32)| piece.0.get(depth).copied();
                let low = range.partition_point(|piece| at(piece) < Some(*byte));
                let high = range.partition_point(|piece| at(piece) <= Some(*byte));
                range = &range[low..high];
                let first = range.first()?;
                Some((first.0.len() == depth + 1).then_some((depth + 1, first.1)))
            })
            .flatten()
    }
}
