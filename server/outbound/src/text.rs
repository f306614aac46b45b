//! Text from elsewhere: brought to one form for comparing, or made fit for one line of a message.

use unicode_normalization::UnicodeNormalization as _;

/// The form in which terms and prompts are compared: NFKC, lower-case, without invisible characters, and with one
/// space for any run of whitespace.
pub(crate) fn normalise(text: &str) -> String {
    let visible = text.chars().filter(|c| !is_invisible(*c)).nfkc();
    // By way of upper-case, where ß, long s and final sigma lose what sets them apart.
    let visible = visible.flat_map(char::to_uppercase).flat_map(char::to_lowercase);
    // Lower-casing can leave a letter and a mark that have a form of their own.
    let lower: String = visible.nfkc().collect();
    one_line(&lower)
}

/// The text with single spaces for whitespace and control characters.
pub(crate) fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The beginning of a stranger's answer, in one line of at most so many characters.
pub(crate) fn excerpt(body: &[u8], max_chars: usize) -> String {
    one_line(&String::from_utf8_lossy(body)).chars().filter(|c| !is_invisible(*c)).take(max_chars).collect()
}

/// What shows nothing and so could hide a term, or turn a line around: soft hyphen, joiners, direction marks,
/// variation selectors, tags.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}
