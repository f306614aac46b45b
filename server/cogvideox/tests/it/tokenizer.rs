//! Ids of prompts, plain and awkward, against transformers' `T5Tokenizer`; and files that are not a tokenizer.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::DType;
use cogvideox::{Error, Tokenizer};
use serde_json::{Value, json};

use crate::golden::{FORMS, Golden};

const FILES: [&str; 4] =
    ["spiece.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn published() -> Tokenizer {
    Tokenizer::load(&golden_dir().join("t5-tokenizer")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn lines(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(golden_dir().join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn golden_prompts_have_their_ids_in_every_form() {
    for form in FORMS {
        let golden = Golden::open(form);
        let tokenizer = Tokenizer::load(&golden.dir.join("tokenizer")).unwrap();
        for (name, prompt) in golden.json["prompts"].as_object().unwrap() {
            let tokens = tokenizer.encode(prompt.as_str().unwrap(), 226);
            let expected = golden.get(&format!("text.{name}.ids")).to_dtype(DType::U32).unwrap();
            assert_eq!(tokens.ids, expected.to_vec1::<u32>().unwrap(), "{form} {name}");
            assert_eq!(json!(tokens.untruncated_len), golden.json["untruncated_len"][name], "{form} {name}");
        }
    }
}

#[test]
fn published_tokenizer_has_its_ids() {
    let tokenizer = published();
    for line in lines("t5-tokenizer/prompts.jsonl") {
        let expected = ids(&line["ids"]);
        let tokens = tokenizer.encode(line["prompt"].as_str().unwrap(), 226);
        assert_eq!(tokens.ids[..expected.len()], expected, "{line}");
        assert!(tokens.ids[expected.len()..].iter().all(|id| *id == 0), "{line}");
        assert_eq!(json!(tokens.untruncated_len), line["untruncated_len"], "{line}");
    }
}

/// `reference/make_tokenizer_golden.py`: control characters, special tokens, combining marks, ties between pieces.
#[test]
fn awkward_prompts_have_their_ids() {
    let tiny = Tokenizer::load(&golden_dir().join("2b/tokenizer")).unwrap();
    let published = published();
    for line in lines("awkward_prompts.jsonl") {
        for (name, tokenizer) in [("published", &published), ("tiny", &tiny)] {
            let expected = ids(&line[name]);
            let tokens = tokenizer.encode(line["prompt"].as_str().unwrap(), expected.len());
            assert_eq!(tokens.ids, expected, "{name} {}", line["prompt"]);
            assert_eq!(tokens.untruncated_len, expected.len());
        }
    }
}

#[test]
fn truncation_keeps_the_end_of_sequence_and_a_given_one_is_not_doubled() {
    let tokenizer = published();
    // a green car </s>
    assert_eq!(tokenizer.encode("a green car", 5).ids, [3, 9, 1442, 443, 1]);
    assert_eq!(tokenizer.encode("a green car", 4).ids, [3, 9, 1442, 1]);
    assert_eq!(tokenizer.encode("a green car", 7).ids, [3, 9, 1442, 443, 1, 0, 0]);
    // transformers makes room for </s> before it looks whether the prompt brings its own.
    let tokens = tokenizer.encode("a green car</s>", 5);
    assert_eq!((tokens.ids.as_slice(), tokens.untruncated_len), ([3, 9, 1442, 443, 1].as_slice(), 5));
    assert_eq!(tokenizer.encode("a green</s>car", 5).ids, [3, 9, 1442, 1, 0]);
}

/// A copy of the tiny tokenizer's files, some left out.
fn copy(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        fs::copy(golden_dir().join("2b/tokenizer").join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn edit_config(dir: &Path, edit: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let path = dir.join("tokenizer_config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut config);
    fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
}

/// `T5Tokenizer.from_pretrained` on folders with the same files.
#[test]
fn settings_count_as_in_transformers() {
    for case in lines("tokenizer_settings.jsonl") {
        let what = &case["what"];
        let files: Vec<&str> =
            case["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
        let dir = copy(&files);
        for (key, value) in case["edits"].as_object().unwrap() {
            edit_config(dir.path(), |config| match value {
                Value::Null => {
                    config.remove(key);
                }
                value => {
                    config.insert(key.clone(), value.clone());
                }
            });
        }
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        for (text, expected) in case["texts"].as_array().unwrap().iter().zip(case["ids"].as_array().unwrap())
        {
            let expected = ids(expected);
            let tokens = tokenizer.encode(text.as_str().unwrap(), expected.len());
            assert_eq!(tokens.ids, expected, "{what}: {text}");
            assert_eq!(tokens.untruncated_len + 1, expected.len(), "{what}: {text}");
        }
    }
}

#[test]
fn defaults_need_nothing_but_the_model() {
    let bytes = fs::read(golden_dir().join("2b/tokenizer/spiece.model")).unwrap();
    let bare = Tokenizer::from_bytes(&bytes).unwrap();
    let whole = Tokenizer::load(&golden_dir().join("2b/tokenizer")).unwrap();
    for text in ["a small <extra_id_0> panda", "", "</s>", "<extra_id_99>"] {
        assert_eq!(bare.encode(text, 16), whole.encode(text, 16), "{text}");
    }
}

#[track_caller]
fn assert_refused(dir: &Path, expected: &str) {
    match Tokenizer::load(dir) {
        Err(e @ Error::Tokenizer { .. }) => assert!(e.to_string().contains(expected), "{e}"),
        other => panic!("expected a tokenizer error with {expected:?}, found {other:?}"),
    }
}

#[test]
fn settings_that_cannot_be_followed_are_refused_by_key_and_value() {
    let cases: [(&str, Value, &str); 6] = [
        ("padding_side", json!("left"), "padding_side: expected right, found left"),
        (
            "extra_ids",
            json!(7),
            "additional_special_tokens: expected 7 extra ids as extra_ids says, found 100",
        ),
        ("extra_ids", json!(4_000_000_000_u32), "extra_ids: expected at most 10000, found 4000000000"),
        ("extra_ids", json!(-1), "extra_ids"),
        ("added_tokens_decoder", json!({"-3": "x"}), "added_tokens_decoder"),
        (
            "added_tokens_decoder",
            json!({"345": {"content": "word", "single_word": true}}),
            "added token 345 word: expected single_word false, found true",
        ),
    ];
    for (key, value, expected) in cases {
        let dir = copy(&FILES);
        edit_config(dir.path(), |config| {
            config.insert(key.to_owned(), value);
        });
        assert_refused(dir.path(), expected);
    }
    let dir = copy(&FILES);
    fs::write(dir.path().join("tokenizer_config.json"), "{\"extra_ids\": ").unwrap();
    assert_refused(dir.path(), "tokenizer_config.json");
    let dir = tempfile::tempdir().unwrap();
    assert!(
        matches!(Tokenizer::load(dir.path()), Err(Error::Io { path, .. }) if path.ends_with("spiece.model"))
    );
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert_refused(dir.path(), "transformers 5 saves tokenizer.json alone");
}

#[test]
fn foreign_files_are_refused() {
    // A piece: { piece: "a", score: 1.0, type: NORMAL }, then others by type.
    let piece = |text: &[u8], kind: u8| {
        let mut message = vec![0x0a, text.len() as u8];
        message.extend_from_slice(text);
        message.extend_from_slice(&[0x15, 0, 0, 0x80, 0x3f, 0x18, kind]);
        [vec![0x0a, message.len() as u8], message].concat()
    };
    let model = |pieces: &[Vec<u8>], rest: &[u8]| [pieces.concat(), rest.to_vec()].concat();
    let good = [piece(b"<unk>", 2), piece(b"a", 1)];
    assert!(Tokenizer::from_bytes(&model(&good, &[])).is_ok());
    let cases: [(&str, Vec<u8>, &str); 12] = [
        ("empty", vec![], "found no pieces"),
        (
            "git-lfs pointer",
            b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
            "not a sentencepiece model",
        ),
        ("json", b"{\"version\": \"1.0\"}".to_vec(), "not a sentencepiece model"),
        (
            "length beyond any memory",
            [vec![0x0a], vec![0xff; 9], vec![0x01]].concat(),
            "truncated: expected 18446744073709551615",
        ),
        ("endless number", vec![0x80; 11], "longer than 64 bits"),
        ("no unknown piece", model(&[piece(b"a", 1)], &[]), "expected an unknown piece"),
        (
            "two unknown pieces",
            model(&[piece(b"a", 1), piece(b"u", 2), piece(b"v", 2)], &[]),
            "second unknown piece",
        ),
        ("a piece twice", model(&[piece(b"<unk>", 2), piece(b"a", 1), piece(b"a", 1)], &[]), "stands twice"),
        ("a byte piece", model(&[piece(b"<0x0A>", 6)], &[]), "piece 0: type: expected 1, 2, 3 or 5, found 6"),
        ("not UTF-8", model(&[piece(b"\xff", 1)], &[]), "piece 0: piece is not UTF-8"),
        (
            "byte pair encoding",
            model(&good, &[0x12, 2, 0x18, 2]),
            "model_type: expected 1 (unigram), found 2",
        ),
        (
            "rules cut short",
            model(&good, &[0x1a, 7, 0x12, 5, 200, 0, 0, 0, 1]),
            "precompiled_charsmap of 5 bytes is broken",
        ),
    ];
    for (what, bytes, expected) in cases {
        let message = Tokenizer::from_bytes(&bytes).expect_err(what).to_string();
        assert!(message.contains(expected), "{what}: {message}");
    }
}

/// Whatever the file holds, loading and encoding come to an end without a panic.
#[test]
fn damaged_files_never_panic() {
    let bytes = fs::read(golden_dir().join("2b/tokenizer/spiece.model")).unwrap();
    for len in (0..bytes.len()).step_by(997) {
        // A cut between two messages leaves a smaller model.
        if let Ok(tokenizer) = Tokenizer::from_bytes(&bytes[..len]) {
            tokenizer.encode("a small panda", 16);
        }
    }
    // The table of rules is most of the file: these flips make its trie point anywhere.
    let mut seed = 1_u32;
    for _ in 0..60 {
        let mut damaged = bytes.clone();
        for _ in 0..2000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = 8000 + seed as usize % (damaged.len() - 8000);
            damaged[at] = (seed >> 24) as u8;
        }
        if let Ok(tokenizer) = Tokenizer::from_bytes(&damaged) {
            tokenizer.encode("caf\u{e9} \u{4e00}\u{1f43c} \u{fb01}sh \u{ff21} \u{2026} e\u{301}\0 plain", 64);
        }
    }
}
