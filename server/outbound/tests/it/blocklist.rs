//! Terms, words and expressions.

use std::path::Path;

use outbound::{Blocklist, Error};

fn list(content: &str) -> Result<Blocklist, Error> {
    Blocklist::parse(Path::new("blocklist.txt"), content)
}

#[test]
fn a_term_is_found_in_any_spelling_and_as_a_whole_word_only() {
    let list =
        list("\u{feff}# comment\n\nBomb\n  machine \t gun\nnaïve\nc++\nstraße\nΣΊΣΥΦΟΣ\n暴力\nполиция\n")
            .unwrap();
    for (prompt, line) in [
        ("a bomb", 3),
        ("BOMB!", 3),
        ("(Bomb)", 3),
        ("a ｂｏｍｂ in full width", 3),
        ("a 𝐛𝐨𝐦𝐛 in bold", 3),
        ("bo\u{ad}m\u{200b}b", 3),
        ("machine\n\u{a0}gun", 4),
        ("nai\u{308}ve", 5),
        ("NAÏVE", 5),
        ("in c++17", 6),
        ("eine Straße", 7),
        ("eine STRASSE", 7),
        ("ο Σίσυφος", 8),
        ("包含暴力的画面", 9),
        ("ПОЛИЦИЯ", 10),
    ] {
        assert_eq!(list.find(prompt), Some(line), "{prompt}");
    }
    for prompt in
        ["", "bombastic", "a photobomb", "bomb_1", "bombé", "machinegun", "abc++", "力暴", "# comment"]
    {
        assert_eq!(list.find(prompt), None, "{prompt}");
    }
}

#[test]
fn a_term_that_is_no_word_here_does_not_hide_one_that_is() {
    assert_eq!(list("grass\nred grasshopper\nhopper\ngrasshopper").unwrap().find("a grasshopper"), Some(4));
    assert_eq!(list("ass\nass hat").unwrap().find("grass ass hat"), Some(1));
}

#[test]
fn an_expression_is_matched_without_regard_to_case() {
    let list = list("re: \\bkill(s|ed|ing)?\\b\nre:\\d{3}-\\d{4}").unwrap();
    assert_eq!(list.find("He KILLED it"), Some(1));
    assert_eq!(list.find("call ５５５-1234"), Some(2));
    assert_eq!(list.find("skilled"), None);
    assert_eq!(format!("{list:?}"), "Blocklist { terms: 0, regexes: 2 }");
}

#[test]
fn a_line_that_means_nothing_is_named() {
    for (content, why) in [
        ("a\nre:(", "blocklist blocklist.txt, line 2: error: unclosed group"),
        ("re:", "blocklist blocklist.txt, line 1: the expression matches every prompt"),
        ("# c\n\nre:x*", "blocklist blocklist.txt, line 3: the expression matches every prompt"),
        ("\u{200b}", "blocklist blocklist.txt, line 1: the term has no visible character"),
    ] {
        assert_eq!(list(content).unwrap_err().to_string(), why);
    }
}

#[test]
fn a_file_is_read_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("terms.txt");
    let error = Blocklist::load(&path).unwrap_err().to_string();
    assert!(error.starts_with(&format!("blocklist {} cannot be read: ", path.display())), "{error}");
    std::fs::write(&path, "bomb\r\nknife\r\n").unwrap();
    assert_eq!(Blocklist::load(&path).unwrap().find("a knife"), Some(2));
}
