//! Which files of a repository are copied.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use cogvideox::repository::{is_complete, small_files, weight_files};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/2b")
}

/// What the published repositories hold, duplicates and all.
fn published() -> BTreeSet<String> {
    [
        ".gitattributes",
        "LICENSE",
        "README.md",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.json",
        "text_encoder/pytorch_model.bin",
        "tokenizer/added_tokens.json",
        "tokenizer/special_tokens_map.json",
        "tokenizer/spiece.model",
        "tokenizer/tokenizer_config.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "transformer/diffusion_pytorch_model.fp16.safetensors",
        "transformer/diffusion_pytorch_model.bin",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    .map(str::to_owned)
    .into()
}

#[test]
fn only_what_a_pipeline_reads_is_taken() {
    let small = small_files(&published()).unwrap();
    assert_eq!(small.len(), 10, "{small:?}");
    assert!(small.contains(&"text_encoder/model.safetensors.index.json".to_owned()), "{small:?}");
    assert!(!small.iter().any(|path| path.ends_with(".safetensors") || path == "README.md"), "{small:?}");

    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("text_encoder")).unwrap();
    let index = dir.path().join("text_encoder/model.safetensors.index.json");
    let map = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    fs::write(&index, map).unwrap();
    let expected = [
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ];
    assert_eq!(weight_files(&published(), dir.path()).unwrap(), expected);

    fs::write(&index, r#"{"weight_map": {"a": "model-00003-of-00003.safetensors"}}"#).unwrap();
    let error = weight_files(&published(), dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("names model-00003-of-00003.safetensors, which is not there"), "{error}");
}

#[test]
fn what_is_no_pipeline_is_refused_by_what_it_lacks() {
    let mut listing = published();
    listing.remove("tokenizer/spiece.model");
    let error = small_files(&listing).unwrap_err().to_string();
    assert!(error.starts_with("tokenizer/spiece.model: is missing"), "{error}");
    let mut listing = published();
    listing.remove("vae/diffusion_pytorch_model.safetensors");
    let error = small_files(&listing).unwrap_err().to_string();
    assert!(error.contains("vae") && error.contains("found neither"), "{error}");
}

#[test]
fn a_folder_is_complete_with_its_last_file() {
    assert!(is_complete(&golden()));
    let dir = tempfile::tempdir().unwrap();
    for path in
        small_files(&published()).unwrap().iter().filter(|path| !path.ends_with(".safetensors.index.json"))
    {
        let to = dir.path().join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(golden().join(path), to).unwrap();
    }
    let weights =
        ["text_encoder/model", "transformer/diffusion_pytorch_model", "vae/diffusion_pytorch_model"];
    for path in weights.map(|stem| format!("{stem}.safetensors")) {
        assert!(!is_complete(dir.path()));
        // As a hub's cache has it: a link, which counts once what it leads to is there.
        let blob = dir.path().join("blob").join(path.replace('/', "-"));
        std::os::unix::fs::symlink(&blob, dir.path().join(&path)).unwrap();
        assert!(!is_complete(dir.path()));
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::copy(golden().join(&path), blob).unwrap();
    }
    assert!(is_complete(dir.path()));
}
