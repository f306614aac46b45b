//! The table of all configuration keys for people, made from the text of `config/default.toml`.
//!
//! Relies on that file's form: a comment stands above the keys that it is about. Knows no key by name.

use super::DEFAULTS;

/// Every key with its default and what its comment says, as a table in Markdown.
pub(crate) fn markdown() -> String {
    let mut table = "| key | default | meaning |\n|---|---|---|\n".to_owned();
    let (mut section, mut comment) = (String::new(), Comment::default());
    for line in DEFAULTS.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.add(text.trim());
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
            comment = Comment::default();
        } else if let Some((key, value)) = line.split_once(" = ") {
            let meaning = comment.read();
            table.extend(["| `", &section, key, "` | `", value, "` | ", &meaning, " |\n"]);
        } else {
            comment = Comment::default();
        }
    }
    table
}

/// The comment above a key. Keys that follow it without one of their own share it.
#[derive(Default)]
struct Comment {
    text: String,
    was_read: bool,
}

impl Comment {
    fn add(&mut self, line: &str) {
        if std::mem::take(&mut self.was_read) {
            self.text.clear();
        }
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        // Markdown's own signs within a cell.
        self.text += &line.replace('|', "\\|").replace('<', "&lt;").replace('_', "\\_").replace('*', "\\*");
    }

    fn read(&mut self) -> String {
        if std::mem::replace(&mut self.was_read, true) { "as above".to_owned() } else { self.text.clone() }
    }
}
