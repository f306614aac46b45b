//! Finding cuDNN, or not.

use std::path::Path;

use device::Error;
use device::cudnn::{Library, TargetDescription};

use super::{cudnn, fake};

#[test]
fn a_missing_library_is_told_by_its_path() {
    let error = Library::open(Some(Path::new("/nowhere"))).unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)));
    let text = error.to_string();
    assert!(text.starts_with("cuDNN (/nowhere/libcudnn.so.9): "), "{text}");
    assert!(text.contains("cannot open shared object file"), "{text}");
}

#[test]
fn an_older_version_is_refused() {
    let folder = fake::compile(&["VERSION=91500"]);
    let error = Library::open(Some(folder.path())).unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)));
    assert!(error.to_string().ends_with("expected 9.15.1 or newer, found 9.15.0"), "{error}");
    let folder = fake::compile(&["VERSION=91501"]);
    assert_eq!(Library::open(Some(folder.path())).unwrap().version_text(), "9.15.1");
}

#[test]
fn a_description_that_misses_a_key_is_refused_in_cudnns_words() {
    let Some(library) = cudnn() else { return };
    let error = TargetDescription::from_json(&library, r#"{"deviceVer":900}"#).unwrap_err().to_string();
    assert!(error.starts_with("cudnnBackend"), "{error}");
    assert!(error.contains("status 2000"), "{error}");
}
