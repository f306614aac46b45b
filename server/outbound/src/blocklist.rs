//! The operator's list of terms that no prompt may contain.
//!
//! Terms and prompts are compared in one form ([`text::normalise`]), and a term matches whole words only: `ass` is not
//! in "grass". In scripts that put no spaces between words, or glue particles to them, it matches anywhere.

use std::{fmt, fs, path::Path};

use aho_corasick::AhoCorasick;
use regex::{Regex, RegexBuilder};

use crate::{Error, Result, text};

/// What marks a line as a regular expression.
const REGEX: &str = "re:";

/// A compiled blocklist.
pub struct Blocklist {
    terms: AhoCorasick,
    // By the automaton's index of patterns.
    term_lines: Vec<usize>,
    regexes: Vec<(Regex, usize)>,
}

impl Blocklist {
    /// Reads a file: one term a line, or `re:` and a regular expression, which is matched without regard to case
    /// against the normalised prompt. Empty lines and lines that begin with `#` say nothing.
    ///
    /// # Errors
    /// [`Error::BlocklistFile`], or what [`Self::parse`] tells.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .map_err(|source| Error::BlocklistFile { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Reads a file's content; the path is for messages only.
    ///
    /// # Errors
    /// [`Error::BlocklistLine`] for a term without visible characters, or an expression that does not compile or
    /// matches every prompt; [`Error::BlocklistTerms`] for far too many terms.
    pub fn parse(path: &Path, content: &str) -> Result<Self> {
        let (mut terms, mut term_lines, mut regexes) = (Vec::new(), Vec::new(), Vec::new());
        for (index, line) in content.trim_start_matches('\u{feff}').lines().enumerate() {
            let (line, number) = (line.trim(), index + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why: String| Error::BlocklistLine { path: path.to_owned(), line: number, why };
            if let Some(pattern) = line.strip_prefix(REGEX) {
                regexes.push((compile(pattern.trim()).map_err(wrong)?, number));
                continue;
            }
            let term = text::normalise(line);
            if term.is_empty() {
                return Err(wrong("the term has no visible character".to_owned()));
            }
            terms.push(term);
            term_lines.push(number);
        }
        let terms = AhoCorasick::new(&terms)
            .map_err(|e| Error::BlocklistTerms { path: path.to_owned(), why: e.to_string() })?;
        Ok(Self { terms, term_lines, regexes })
    }

    /// The line, counted from 1, of an entry that this prompt contains.
    pub fn find(&self, prompt: &str) -> Option<usize> {
        let prompt = text::normalise(prompt);
        // Overlapping, because a term that is no whole word here may hide one that is.
        let term = self
            .terms
            .find_overlapping_iter(&prompt)
            .find(|found| is_whole(&prompt, found.start(), found.end()))
            .map(|found| self.term_lines[found.pattern().as_usize()]);
        term.or_else(|| self.regexes.iter().find(|(regex, _)| regex.is_match(&prompt)).map(|(_, line)| *line))
    }
}

impl fmt::Debug for Blocklist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocklist")
            .field("terms", &self.term_lines.len())
            .field("regexes", &self.regexes.len())
            .finish()
    }
}

fn compile(pattern: &str) -> std::result::Result<Regex, String> {
    let regex = RegexBuilder::new(pattern).case_insensitive(true).build().map_err(|e| match e {
        // The crate's own text spreads over lines to point at the place.
        regex::Error::Syntax(text) => text.lines().last().unwrap_or_default().trim().to_owned(),
        other => other.to_string(),
    })?;
    if regex.is_match("") {
        return Err("the expression matches every prompt".to_owned());
    }
    Ok(regex)
}

/// Whether a match neither begins nor ends within a word.
fn is_whole(text: &str, start: usize, end: usize) -> bool {
    let (before, found, after) = (&text[..start], &text[start..end], &text[end..]);
    let inside =
        |left: Option<char>, right: Option<char>| left.is_some_and(in_word) && right.is_some_and(in_word);
    !inside(before.chars().next_back(), found.chars().next())
        && !inside(found.chars().next_back(), after.chars().next())
}

/// Whether a word goes on through this character, where words are separated at all.
fn in_word(c: char) -> bool {
    (c.is_alphanumeric() || c == '_') && !is_unspaced(c)
}

/// Thai to Myanmar, Khmer, kana, Han, Hangul.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{323af}')
}
