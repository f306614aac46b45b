//! The store through its public doors, in a temporary folder.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its tools too")]

use std::{collections::HashSet, fs, path::Path};

use store::{Error, Stored, Swept, VideoStore};
use tokio::io::AsyncReadExt as _;

const KEY: &str = "video_1_2.mp4";

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_is_put_is_read_back_until_it_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("made/by/open");
    let store = VideoStore::open(&folder).await.unwrap();
    let stored = store.put(KEY, b"abc".to_vec()).await.unwrap();
    // FIPS 180-2, appendix B.1.
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned();
    assert_eq!(stored, Stored { bytes: 3, sha256 });
    assert_eq!(names(&folder), [KEY]);

    store.put(KEY, b"other".to_vec()).await.unwrap();
    let mut reader = store.open_file(KEY).await.unwrap();
    assert_eq!(reader.bytes, 5);
    store.delete(KEY).await.unwrap();
    store.delete(KEY).await.unwrap();
    let mut content = Vec::new();
    reader.file.read_to_end(&mut content).await.unwrap();
    assert_eq!(content, b"other", "a download that has begun goes on");
    assert!(matches!(store.open_file(KEY).await, Err(Error::NotFound(key)) if key == KEY));
}

#[tokio::test]
async fn a_key_is_a_name_and_never_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let store = VideoStore::open(folder.path()).await.unwrap();
    for key in ["", ".mp4", "a.mp4.part", "../a.mp4", "a/b.mp4", "A.mp4", "a.mov", "a.mp4\0", "/etc/passwd"] {
        let refused = [
            store.put(key, vec![1]).await.map(drop),
            store.open_file(key).await.map(drop),
            store.delete(key).await,
        ];
        for result in refused {
            assert!(matches!(result, Err(Error::InvalidKey(_))), "{key}: {result:?}");
        }
    }
    assert!(names(folder.path()).is_empty());
}

#[tokio::test]
async fn a_write_that_fails_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = VideoStore::open(folder.path()).await.unwrap();
    // A folder in the way makes the rename fail, after the temporary file was written in full.
    fs::create_dir(folder.path().join(KEY)).unwrap();
    let failed = store.put(KEY, vec![0; 1 << 20]).await.unwrap_err();
    assert!(failed.to_string().contains(KEY), "{failed}");
    assert_eq!(names(folder.path()), [KEY]);
}

#[tokio::test]
async fn a_sweep_takes_what_a_killed_server_left_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = VideoStore::open(folder.path()).await.unwrap();
    for name in [KEY, "video_2_1.mp4", "video_3_1.mp4.0.part", "notes.txt", "Holiday.mp4", "download.part"] {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    let swept = store.sweep(HashSet::from([KEY.to_owned()])).await.unwrap();
    assert_eq!(swept, Swept { orphans: 1, leftovers: 1 });
    assert_eq!(names(folder.path()), ["Holiday.mp4", "download.part", "notes.txt", KEY]);
}
