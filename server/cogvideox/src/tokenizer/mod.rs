//! T5's tokenizer, id for id the one of transformers' `T5Tokenizer` (the slow, sentencepiece one).
//!
//! The published pipelines hold `spiece.model` and no `tokenizer.json`. The conversion that Hugging Face's
//! `tokenizers` crate would need is not exact: it normalises by grapheme where sentencepiece takes the longest rule,
//! and scores words in `f64` where sentencepiece sums a whole sentence in `f32`; 7 % of awkward prompts come out
//! differently. So sentencepiece's unigram encoder is written out here: [`proto`] reads the file, [`normalizer`] and
//! [`unigram`] are its two stages, [`added_tokens`] is transformers' layer above; truncation and padding, which agree,
//! are the crate's. Must not know the text encoder.

mod added_tokens;
mod normalizer;
mod proto;
mod unigram;

use std::path::Path;

use tokenizers::{Encoding, PaddingDirection, Token, TruncationDirection};

use self::added_tokens::{AddedTokens, Segment, Settings};
use self::normalizer::{Normalizer, SPACE_SYMBOL};
use self::proto::Model;
use self::unigram::Unigram;
use crate::{Error, Result};

/// A tokenized prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Truncated and padded to the length asked for.
    pub ids: Vec<u32>,
    /// How many ids the whole prompt has, `</s>` included.
    pub untruncated_len: usize,
}

/// The tokenizer of a pipeline.
#[derive(Debug)]
pub struct Tokenizer {
    normalizer: Normalizer,
    unigram: Unigram,
    added: AddedTokens,
}

impl Tokenizer {
    /// Reads `spiece.model` in `dir` and, where they exist, `tokenizer_config.json`, `special_tokens_map.json` and
    /// `added_tokens.json`.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read; [`Error::Tokenizer`] when it is malformed, truncated or foreign, or
    /// asks for something that T5's tokenizer does not do.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("spiece.model");
        if !path.exists() && dir.join("tokenizer.json").exists() {
            let message = "is missing; transformers 5 saves tokenizer.json alone, take this file from the published model";
            return Err(Error::Tokenizer { path, message: message.to_owned() });
        }
        let bytes = std::fs::read(&path).map_err(|source| Error::io(&path, source))?;
        Self::new(&path, &bytes, &Settings::read(dir)?)
    }

    /// A tokenizer with transformers' default settings (100 extra ids) from the contents of a `spiece.model`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the bytes are not a sentencepiece unigram model.
    pub fn from_bytes(spiece_model: &[u8]) -> Result<Self> {
        Self::new(Path::new("spiece.model"), spiece_model, &Settings::default())
    }

    fn new(path: &Path, spiece_model: &[u8], settings: &Settings) -> Result<Self> {
        let mut model = Model::parse(spiece_model)
            .map_err(|message| Error::Tokenizer { path: path.to_owned(), message })?;
        if !settings.is_legacy() {
            model.normalizer.add_dummy_prefix = false;
        }
        let normalizer = Normalizer::new(&model.normalizer)
            .map_err(|message| Error::Tokenizer { path: path.to_owned(), message })?;
        let unigram = Unigram::new(model.pieces)
            .map_err(|message| Error::Tokenizer { path: path.to_owned(), message })?;
        let added = AddedTokens::new(settings, &unigram)?;
        Ok(Self { normalizer, unigram, added })
    }

    /// `tokenizer(text, padding="max_length", max_length=max_len, truncation=True)`.
    pub fn encode(&self, text: &str, max_len: usize) -> Tokens {
        let ids = self.ids(text);
        let eos = |ids: &[u32]| ids.last() == Some(&self.added.eos_id);
        let untruncated_len = ids.len() + usize::from(!eos(&ids));
        let mut encoding = encoding_of(ids);
        // transformers makes room for </s> before it looks whether one is there already.
        encoding.truncate(max_len.saturating_sub(1), 0, TruncationDirection::Right);
        if !eos(encoding.get_ids()) {
            encoding.merge_with(encoding_of(vec![self.added.eos_id]), false);
        }
        encoding.pad(max_len, self.added.pad_id, 0, "", PaddingDirection::Right);
        Tokens { ids: encoding.get_ids().to_vec(), untruncated_len }
    }

    /// Without `</s>`, unless the text ends with it.
    fn ids(&self, text: &str) -> Vec<u32> {
        let id = |token: &Vec<u8>| self.added.id(token).unwrap_or_else(|| self.unigram.id(token));
        if self.added.legacy || text.is_empty() {
            return self.tokens(text).iter().map(id).collect();
        }
        let mut text = text.replace(SPACE_SYMBOL, " ");
        if self.added.add_prefix_space {
            text.insert_str(0, SPACE_SYMBOL);
        }
        let tokens = self.tokens(&text);
        // A prefix that stands alone before a special token is dropped again.
        let skip = match tokens.as_slice() {
            [first, second, ..] => first == SPACE_SYMBOL.as_bytes() && self.added.is_special(second),
            _ => false,
        };
        tokens.iter().skip(usize::from(skip)).map(id).collect()
    }

    fn tokens(&self, text: &str) -> Vec<Vec<u8>> {
        let mut tokens = Vec::new();
        for segment in self.added.split(text) {
            match segment {
                Segment::Added(token) => tokens.push(token.as_bytes().to_vec()),
                Segment::Text(text) => tokens.extend(self.pieces(text)),
            }
        }
        tokens
    }

    fn pieces(&self, text: &str) -> Vec<Vec<u8>> {
        let encode = |text: &str| self.unigram.encode(&self.normalizer.normalize(text.as_bytes()));
        if self.added.legacy || !text.starts_with([' ', '\u{2581}']) {
            return encode(text);
        }
        // Without the dummy prefix sentencepiece drops leading spaces: transformers shields them by an <unk>, whose
        // pieces it cuts off again.
        let shield = encode(&self.added.unk_token).len();
        let mut pieces = encode(&format!("{}{text}", self.added.unk_token));
        if pieces.len() >= shield {
            pieces.drain(..shield);
        }
        pieces
    }
}

/// Ids as the `tokenizers` crate carries them; their texts are of no use here.
fn encoding_of(ids: Vec<u32>) -> Encoding {
    let tokens = ids.into_iter().map(|id| Token { id, value: String::new(), offsets: (0, 0) });
    Encoding::from_tokens(tokens.collect(), 0)
}
