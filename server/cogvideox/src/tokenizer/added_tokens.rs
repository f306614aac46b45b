//! What transformers' `PreTrainedTokenizer` and `T5Tokenizer` put above sentencepiece: special tokens and extra ids,
//! cut out of the text before it is encoded, and the settings in the JSON files beside `spiece.model`.
//!
//! The order in which the files override each other is transformers' `from_pretrained`. Knows of sentencepiece only
//! which pieces it has.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::unigram::Unigram;
use crate::{Error, Result};

/// Part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment<'a> {
    Text(&'a str),
    /// As it stands in the text.
    Added(&'a str),
}

/// A token that is found in the text as it stands, before normalisation.
#[derive(Clone, Debug)]
struct AddedToken {
    content: String,
    /// Whitespace before it is dropped.
    lstrip: bool,
    /// Whitespace after it is dropped.
    rstrip: bool,
    special: bool,
}

#[derive(Debug)]
pub(super) struct AddedTokens {
    ids: HashMap<Vec<u8>, u32>,
    /// The longest first.
    tokens: Vec<AddedToken>,
    split_special_tokens: bool,
    pub(super) legacy: bool,
    pub(super) add_prefix_space: bool,
    pub(super) unk_token: String,
    pub(super) eos_id: u32,
    pub(super) pad_id: u32,
}

/// A token in JSON: its text, or an object.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum TokenJson {
    Text(String),
    Object {
        content: String,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        #[serde(default)]
        single_word: bool,
        #[serde(default)]
        special: bool,
    },
}

impl TokenJson {
    fn content(&self) -> &str {
        match self {
            Self::Text(content) | Self::Object { content, .. } => content,
        }
    }

    fn token(&self) -> AddedToken {
        match self.clone() {
            Self::Text(content) => AddedToken { content, lstrip: false, rstrip: false, special: true },
            Self::Object { content, lstrip, rstrip, special, .. } => {
                AddedToken { content, lstrip, rstrip, special }
            }
        }
    }
}

/// `special_tokens_map.json`, whose keys `tokenizer_config.json` has too.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecialTokensMap {
    eos_token: Option<TokenJson>,
    unk_token: Option<TokenJson>,
    pad_token: Option<TokenJson>,
    additional_special_tokens: Option<Vec<TokenJson>>,
}

/// `tokenizer_config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    extra_ids: Option<u32>,
    legacy: Option<bool>,
    add_prefix_space: Option<bool>,
    split_special_tokens: Option<bool>,
    padding_side: Option<String>,
    truncation_side: Option<String>,
    added_tokens_decoder: Option<BTreeMap<u32, TokenJson>>,
    #[serde(flatten)]
    special: SpecialTokensMap,
}

/// What the JSON files say, once they are reconciled.
#[derive(Debug, Default)]
pub(super) struct Settings {
    path: PathBuf,
    config: TokenizerConfig,
    /// `added_tokens.json`, where it counts.
    added: BTreeMap<String, u32>,
}

impl Settings {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer_config.json");
        let mut config: TokenizerConfig = read_json(&path)?.unwrap_or_default();
        let mut added = BTreeMap::new();
        // Since transformers 4.34 everything stands in tokenizer_config.json; the other files are for older readers.
        if config.added_tokens_decoder.is_none() {
            let map: SpecialTokensMap = read_json(&dir.join("special_tokens_map.json"))?.unwrap_or_default();
            config.special.merge(map);
            added = read_json(&dir.join("added_tokens.json"))?.unwrap_or_default();
        }
        for (key, side) in
            [("padding_side", &config.padding_side), ("truncation_side", &config.truncation_side)]
        {
            if side.as_deref().is_some_and(|side| side != "right") {
                let message = format!("{key}: expected right, found {}", side.as_deref().unwrap_or_default());
                return Err(Error::Tokenizer { path, message });
            }
        }
        Ok(Self { path, config, added })
    }

    pub(super) fn is_legacy(&self) -> bool {
        self.config.legacy.unwrap_or(true)
    }
}

impl SpecialTokensMap {
    /// `map` wins, except that additional tokens accumulate.
    fn merge(&mut self, map: Self) {
        self.eos_token = map.eos_token.or(self.eos_token.take());
        self.unk_token = map.unk_token.or(self.unk_token.take());
        self.pad_token = map.pad_token.or(self.pad_token.take());
        if let Some(more) = map.additional_special_tokens {
            let all = self.additional_special_tokens.get_or_insert_default();
            for token in more {
                if all.iter().all(|known| known.content() != token.content()) {
                    all.push(token);
                }
            }
        }
    }
}

/// The tokens by id, in the order in which transformers registers them: of two with one content the later counts.
#[derive(Default)]
struct Registry(Vec<(u32, AddedToken)>);

impl Registry {
    fn set(&mut self, id: u32, token: AddedToken) {
        match self.0.iter_mut().find(|(known, _)| *known == id) {
            Some((_, slot)) => *slot = token,
            None => self.0.push((id, token)),
        }
    }

    fn has(&self, content: &str) -> bool {
        self.0.iter().any(|(_, token)| token.content == content)
    }
}

impl AddedTokens {
    pub(super) fn new(settings: &Settings, unigram: &Unigram) -> Result<Self> {
        let config = &settings.config;
        let fail = |message: String| Error::Tokenizer { path: settings.path.clone(), message };
        let decoder = config.added_tokens_decoder.iter().flatten();
        if let Some((id, token)) =
            decoder.clone().find(|(_, token)| matches!(token, TokenJson::Object { single_word: true, .. }))
        {
            let content = token.content();
            return Err(fail(format!("added token {id} {content}: expected single_word false, found true")));
        }

        let mut registry = Registry::default();
        let mut additional = config.special.additional_special_tokens.clone().unwrap_or_default();
        for (id, token) in extra_id_tokens(config, &mut additional, unigram.len()).map_err(fail)? {
            registry.set(id, token);
        }
        for (id, token) in decoder {
            registry.set(*id, token.token());
        }
        for (content, id) in &settings.added {
            let token = AddedToken { content: content.clone(), lstrip: false, rstrip: false, special: true };
            registry.set(*id, token);
        }

        let named = |token: &Option<TokenJson>, default: &str| {
            token.clone().unwrap_or_else(|| TokenJson::Text(default.to_owned()))
        };
        let eos = named(&config.special.eos_token, "</s>");
        let unk = named(&config.special.unk_token, "<unk>");
        let pad = named(&config.special.pad_token, "<pad>");
        // Special tokens that are nowhere yet take the ids after the last.
        let new_contents =
            registry.0.iter().filter(|(_, t)| unigram.known_id(t.content.as_bytes()).is_none());
        let mut next_id = (unigram.len() + new_contents.count()) as u32;
        for token in [&eos, &unk, &pad].into_iter().chain(&additional) {
            let content = token.content();
            if content.is_empty() || registry.has(content) {
                continue;
            }
            let id = unigram.known_id(content.as_bytes()).unwrap_or_else(|| {
                next_id += 1;
                next_id - 1
            });
            registry.set(id, AddedToken { special: true, ..token.token() });
        }

        let ids: HashMap<Vec<u8>, u32> =
            registry.0.iter().map(|(id, token)| (token.content.clone().into_bytes(), *id)).collect();
        let id_of = |token: &TokenJson| {
            let content = token.content().as_bytes();
            ids.get(content).copied().unwrap_or_else(|| unigram.id(content))
        };
        let (eos_id, pad_id) = (id_of(&eos), id_of(&pad));
        let by_id = registry.0.into_iter().filter(|(id, t)| ids.get(t.content.as_bytes()) == Some(id));
        let mut tokens: Vec<AddedToken> =
            by_id.map(|(_, token)| token).filter(|token| !token.content.is_empty()).collect();
        tokens.sort_by_key(|token| std::cmp::Reverse(token.content.len()));
        Ok(Self {
            ids,
            tokens,
            split_special_tokens: config.split_special_tokens.unwrap_or(false),
            legacy: settings.is_legacy(),
            add_prefix_space: config.add_prefix_space.unwrap_or(true),
            unk_token: unk.content().to_owned(),
            eos_id,
            pad_id,
        })
    }

    /// The id of a token that is spelled as an added one.
    pub(super) fn id(&self, token: &[u8]) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// Whether a token is spelled as a special one.
    pub(super) fn is_special(&self, token: &[u8]) -> bool {
        self.tokens.iter().any(|added| added.special && added.content.as_bytes() == token)
    }

    /// Cuts the added tokens out of a text, with the whitespace that they take along.
    pub(super) fn split<'a>(&self, text: &'a str) -> Vec<Segment<'a>> {
        if self.split_special_tokens {
            return vec![Segment::Text(text)];
        }
        let mut segments = Vec::new();
        let mut rest = text;
        let mut strip_next = false;
        while let Some((begin, token)) = self.find(rest) {
            let end = begin + token.content.len();
            let mut before = &rest[..begin];
            if strip_next {
                before = before.trim_start_matches(is_python_space);
            }
            if token.lstrip {
                before = before.trim_end_matches(is_python_space);
            }
            if !before.is_empty() {
                segments.push(Segment::Text(before));
            }
            segments.push(Segment::Added(&rest[begin..end]));
            strip_next = token.rstrip;
            rest = &rest[end..];
        }
        if strip_next {
            rest = rest.trim_start_matches(is_python_space);
        }
        if !rest.is_empty() {
            segments.push(Segment::Text(rest));
        }
        segments
    }

    /// The first added token in a text, the longest of those that begin there.
    fn find(&self, text: &str) -> Option<(usize, &AddedToken)> {
        text.char_indices().find_map(|(begin, _)| {
            let tail = &text[begin..];
            Some((begin, self.tokens.iter().find(|token| tail.starts_with(&token.content))?))
        })
    }
}

/// `T5Tokenizer.__init__`: the extra ids count down from the end of the vocabulary.
fn extra_id_tokens(
    config: &TokenizerConfig,
    additional: &mut Vec<TokenJson>,
    pieces: usize,
) -> std::result::Result<Vec<(u32, AddedToken)>, String> {
    let extra_ids = config.extra_ids.unwrap_or(100);
    // The ids follow the pieces one by one: the bound keeps a hostile number from filling the memory.
    if extra_ids > 10_000 {
        return Err(format!("extra_ids: expected at most 10000, found {extra_ids}"));
    }
    let names = || (0..extra_ids).map(|i| format!("<extra_id_{i}>"));
    let mut count = extra_ids;
    if config.special.additional_special_tokens.is_some() {
        let found = additional.iter().filter(|token| token.content().contains("<extra_id_")).count() as u32;
        if found == 0 {
            additional.extend(names().map(TokenJson::Text));
        } else if extra_ids > 0 && extra_ids != found {
            return Err(format!(
                "additional_special_tokens: expected {extra_ids} extra ids as extra_ids says, found {found}"
            ));
        }
        count = found;
    } else {
        additional.extend(names().map(TokenJson::Text));
    }
    let last = pieces as u32 + extra_ids;
    Ok((0..count)
        .filter_map(|i| {
            let content = format!("<extra_id_{i}>");
            Some((
                last.checked_sub(1 + i)?,
                AddedToken { content, lstrip: true, rstrip: true, special: true },
            ))
        })
        .collect())
}

/// `str.isspace`, which counts the four separators before the space too.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `None` when there is no such file.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::io(path, source)),
    };
    let json = serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(&text));
    let json = json.map_err(|e| Error::Tokenizer { path: path.to_owned(), message: e.to_string() })?;
    Ok(Some(json))
}
