//! The store through its public doors, in a temporary folder.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its tools too")]

use std::{collections::HashSet, env, fs, path::Path, process::Command};

use store::{Error, Stored, Swept, VideoStore};
use tokio::io::AsyncReadExt as _;

const KEY: &str = "video_1_2.mp4";

/// One key of each kind.
const KINDS: [&str; 5] = [KEY, "video_1_2.webp", "video_1_2.jpg", "video_1_2.ckpt", "input_1.image"];

/// The error names the step and the path.
fn assert_failed<T: std::fmt::Debug>(result: Result<T, Error>, step: &str, at: &Path) {
    let error = result.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot {step} {}: ", at.display())), "{error}");
}

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
    for key in [
        "",
        ".mp4",
        "mp4",
        "a",
        "a.",
        "a.mp4.part",
        "a.webp.mp4",
        "a.jpeg",
        "../a.mp4",
        "a/b.mp4",
        "A.mp4",
        "a.mov",
        "a.mp4\0",
        "/etc/passwd",
    ] {
        let refused = [
            store.put(key, vec![1]).await.map(drop),
            store.put_volatile(key, vec![1]).await.map(drop),
            store.read(key).await.map(drop),
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
async fn every_kind_is_kept_by_either_way_of_putting() {
    let folder = tempfile::tempdir().unwrap();
    let store = VideoStore::open(folder.path()).await.unwrap();
    for key in KINDS {
        let synced = store.put(key, b"first".to_vec()).await.unwrap();
        assert_eq!(store.read(key).await.unwrap(), b"first");
        assert_eq!(store.put_volatile(key, b"first".to_vec()).await.unwrap(), synced);
        store.put_volatile(key, b"second".to_vec()).await.unwrap();
        assert_eq!(store.read(key).await.unwrap(), b"second");
        assert_eq!(store.open_file(key).await.unwrap().bytes, 6);
        assert_eq!(names(folder.path()), [key], "no temporary file is left");
        store.delete(key).await.unwrap();
        assert!(matches!(store.read(key).await, Err(Error::NotFound(missing)) if missing == key));
    }
}

#[tokio::test]
async fn used_bytes_are_those_of_our_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = VideoStore::open(folder.path()).await.unwrap();
    assert_eq!(store.used_bytes().await.unwrap(), 0);
    for (key, bytes) in KINDS.into_iter().zip([1, 10, 100, 1000]) {
        store.put(key, vec![0; bytes]).await.unwrap();
    }
    fs::write(folder.path().join("video_3_1.mp4.0.part"), vec![0; 10_000]).unwrap();
    fs::write(folder.path().join("notes.txt"), vec![0; 100_000]).unwrap();
    assert_eq!(store.used_bytes().await.unwrap(), 11_111);
    store.delete(KINDS[2]).await.unwrap();
    assert_eq!(store.used_bytes().await.unwrap(), 11_011);
}

#[tokio::test]
async fn free_bytes_are_the_file_systems() {
    let folder = tempfile::tempdir().unwrap();
    let store = VideoStore::open(folder.path()).await.unwrap();
    let df =
        Command::new("df").args(["--output=avail", "--block-size=1"]).arg(folder.path()).output().unwrap();
    let expected: u64 = String::from_utf8(df.stdout).unwrap().lines().nth(1).unwrap().trim().parse().unwrap();
    let free = store.free_bytes().await.unwrap();
    // Others write to the same disk meanwhile; a wrong unit would be off by a factor of 512 or more.
    assert!(free / 2 < expected && expected / 2 < free, "{free}, df says {expected}");
}

#[tokio::test]
async fn a_write_that_fails_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = VideoStore::open(folder.path()).await.unwrap();
    // A folder in the way makes the rename fail, after the temporary file was written in full.
    fs::create_dir(folder.path().join(KEY)).unwrap();
    let path = folder.path().join(KEY);
    for failed in [store.put(KEY, vec![0; 1 << 20]).await, store.put_volatile(KEY, vec![0; 1 << 20]).await] {
        assert_failed(failed, "rename to", &path);
        assert_eq!(names(folder.path()), [KEY]);
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_behind() {
    // A limit on file sizes breaks a write off half-way as a full disk does, and takes no privileges to set up. It
    // binds a whole process, hence one of its own.
    let limited = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact --ignored where_a_megabyte_does_not_fit";
    let child = Command::new("sh").args(["-c", limited]).arg(env::current_exe().unwrap()).output().unwrap();
    let report = String::from_utf8(child.stdout).unwrap();
    assert!(child.status.success() && report.contains("1 passed"), "{report}");
}

/// Also says what a disk that really is full does: with `TMPDIR` on a tmpfs of 64 kB.
#[tokio::test]
#[ignore = "run by the test above, under its limit"]
async fn where_a_megabyte_does_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let store = VideoStore::open(folder.path()).await.unwrap();
    store.put(KEY, vec![1; 1000]).await.unwrap();
    let temporary = |write: u32| folder.path().join(format!("{KEY}.{write}.part"));
    assert_failed(store.put(KEY, vec![2; 1 << 20]).await, "write", &temporary(1));
    assert_failed(store.put_volatile(KEY, vec![3; 1 << 20]).await, "write", &temporary(2));
    assert_eq!(names(folder.path()), [KEY]);
    assert_eq!(store.read(KEY).await.unwrap(), [1; 1000], "the file that was there stays");
    store.put(KEY, vec![4; 1000]).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_is_none_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("videos");
    fs::write(&folder, "a file").unwrap();
    assert_failed(VideoStore::open(&folder).await, "create", &folder);

    // Or it became none while the server ran.
    fs::remove_file(&folder).unwrap();
    let store = VideoStore::open(&folder).await.unwrap();
    fs::remove_dir(&folder).unwrap();
    fs::write(&folder, "a file").unwrap();
    assert_failed(store.put(KEY, vec![1]).await, "create", &folder.join(format!("{KEY}.0.part")));
    assert_failed(store.read(KEY).await, "read", &folder.join(KEY));
    assert_failed(store.used_bytes().await, "list", &folder);
    fs::remove_file(&folder).unwrap();
    assert_failed(store.free_bytes().await, "read the free space of", &folder);
}

#[tokio::test]
async fn a_sweep_takes_what_a_killed_server_left_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = VideoStore::open(folder.path()).await.unwrap();
    let orphans = ["video_2_1.mp4", "video_2_1.webp", "video_2_1.jpg", "video_2_1.ckpt", "input_2.image"];
    let leftovers =
        ["video_3_1.mp4.0.part", "video_3_1.webp.1.part", "video_3_1.jpg.2.part", "video_3_1.ckpt.30.part"];
    let others = ["Holiday.mp4", "download.part", "notes.txt"];
    for name in [&KINDS[..], &orphans, &leftovers, &others].concat() {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    let swept = store.sweep(HashSet::from(KINDS.map(str::to_owned))).await.unwrap();
    assert_eq!(swept, Swept { orphans: 5, leftovers: 4 });
    let mut kept = [&others[..], &KINDS].concat();
    kept.sort_unstable();
    assert_eq!(names(folder.path()), kept);
}
