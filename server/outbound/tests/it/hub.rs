//! Downloads from a hub that does everything wrong that hubs do.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use outbound::{
    Error,
    hub::{Hub, HubSettings, Listing, OnProgress, Progress, RepoId, Wait},
};

use crate::{
    hub_stub::{COMMIT, Fault, HubStub, content, git_sha1, sha256},
    stub::free_port,
};

const SMALL: &str = "config.json";
const LARGE: &str = "vae/model.safetensors";
const CDN: &str = "GET /cdn/vae/model.safetensors";

/// A machine with a cache, and time that only passes on paper.
struct Machine {
    home: tempfile::TempDir,
    endpoint: String,
    variables: Vec<(&'static str, &'static str)>,
    waited: Arc<Mutex<Vec<Duration>>>,
}

impl Machine {
    fn of(port: u16) -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            endpoint: format!("http://127.0.0.1:{port}"),
            variables: Vec::new(),
            waited: Arc::default(),
        }
    }

    fn settings(&self) -> HubSettings {
        let variable = |name: &str| match name {
            "HF_HOME" => Some(OsString::from(self.home.path())),
            "HF_ENDPOINT" => Some(OsString::from(&self.endpoint)),
            _ => self.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()),
        };
        HubSettings::from_environment(variable, "")
    }

    fn hub_telling(&self, on_progress: OnProgress) -> Hub {
        let waited = Arc::clone(&self.waited);
        let wait: Wait = Arc::new(move |delay| {
            waited.lock().unwrap().push(delay);
            Box::pin(std::future::ready(()))
        });
        Hub::with_wait(&self.settings(), on_progress, wait).unwrap()
    }

    fn hub(&self) -> Hub {
        self.hub_telling(Arc::new(|_| {}))
    }

    /// The whole of a download of both files.
    async fn download(&self) -> outbound::Result<PathBuf> {
        let hub = self.hub();
        let listing = hub.listing(&repo()).await?;
        let dir = hub.fetch(&listing, &paths()).await?;
        hub.keep(&listing)?;
        Ok(dir)
    }

    fn root(&self) -> PathBuf {
        self.home.path().join("hub/models--o--n")
    }

    fn blobs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root().join("blobs")) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn waited(&self) -> Vec<u64> {
        self.waited.lock().unwrap().iter().map(|delay| delay.as_millis() as u64).collect()
    }
}

fn repo() -> RepoId {
    "o/n".parse().unwrap()
}

fn paths() -> Vec<String> {
    vec![SMALL.to_owned(), LARGE.to_owned()]
}

#[track_caller]
fn assert_whole(stub: &HubStub, dir: &Path) {
    for path in [SMALL, LARGE] {
        assert!(fs::read(dir.join(path)).unwrap() == stub.bytes(path), "{path} is not what the hub has");
    }
}

#[track_caller]
fn assert_says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[tokio::test]
async fn a_download_lies_in_the_cache_as_other_tools_look_for_it() {
    let stub = HubStub::serve().await;
    let mut machine = Machine::of(stub.port);
    machine.variables.push(("HF_TOKEN", "hf_secret"));
    let dir = machine.download().await.unwrap();
    assert_eq!(dir, machine.root().join("snapshots").join(COMMIT));
    assert_whole(&stub, &dir);
    assert_eq!(fs::read_to_string(machine.root().join("refs/main")).unwrap(), COMMIT);
    let mut blobs = vec![git_sha1(&stub.bytes(SMALL)), sha256(&stub.bytes(LARGE))];
    let link = fs::read_link(dir.join(LARGE)).unwrap();
    assert_eq!(link, Path::new("../../../blobs").join(&blobs[1]));
    blobs.sort();
    assert_eq!(machine.blobs(), blobs);
    for seen in stub.seen() {
        let is_elsewhere = seen.line.starts_with("GET /cdn/");
        let expected = (!is_elsewhere).then_some("Bearer hf_secret");
        assert_eq!(seen.header("authorization"), expected, "the token is the hub's alone: {}", seen.line);
    }
}

#[tokio::test]
async fn what_the_cache_has_is_not_asked_for() {
    let stub = HubStub::serve().await;
    let mut machine = Machine::of(stub.port);
    let dir = machine.download().await.unwrap();
    stub.seen();
    machine.download().await.unwrap();
    assert!(stub.seen().iter().all(|seen| !seen.line.starts_with("GET /o/n/resolve")), "fetched again");
    // Of another commit too: what did not change is linked.
    stub.set_commit("89abcdef");
    stub.put(SMALL, false, b"{\"small\": 2}".to_vec());
    let newer = machine.download().await.unwrap();
    assert_ne!(newer, dir);
    assert_whole(&stub, &newer);
    assert_eq!(stub.ranges(), []);
    // Who only looks asks nobody.
    machine.variables.push(("HF_HUB_OFFLINE", "1"));
    assert_eq!(machine.settings().cached(&repo()), Some(newer));
    assert_eq!(
        machine.settings().cached(&"o/n@89abcdef".parse().unwrap()).unwrap().file_name().unwrap(),
        "89abcdef"
    );
    assert_eq!(machine.settings().cached(&"o/other".parse().unwrap()), None);
    assert!(stub.seen().is_empty());
}

#[tokio::test]
async fn a_broken_connection_is_gone_on_with_where_it_broke() {
    let stub = HubStub::serve().await;
    let machine = Machine::of(stub.port);
    stub.fail(CDN, [Fault::BreakAfter(1_200_000), Fault::BreakAfter(10), Fault::BreakAfter(0)]);
    let dir = machine.download().await.unwrap();
    assert_whole(&stub, &dir);
    let ranges = ["bytes=1200000-", "bytes=1200010-", "bytes=1200010-"].map(|range| Some(range.to_owned()));
    assert_eq!(stub.ranges(), [&[None], &ranges[..]].concat());
    assert_eq!(machine.waited(), [500, 1000, 2000]);
}

#[tokio::test]
async fn a_file_that_changes_where_it_is_served_starts_over() {
    let stub = HubStub::serve().await;
    let machine = Machine::of(stub.port);
    let hub = machine.hub();
    let listing = hub.listing(&repo()).await.unwrap();
    stub.fail(CDN, [Fault::StallAfter(1_500_000)]);
    let fetching = tokio::spawn({
        let (hub, listing) = (hub.clone(), listing.clone());
        async move { hub.fetch(&listing, &paths()).await }
    });
    stub.stalled.notified().await;
    stub.put(LARGE, true, content(3_000_000, 7));
    fetching.abort();
    assert!(fetching.await.unwrap_err().is_cancelled());
    let dir = machine.download().await.unwrap();
    assert_whole(&stub, &dir);
    assert_eq!(stub.ranges(), [None, None], "the other file's beginning is of no use");
}

#[tokio::test]
async fn a_tag_that_changes_between_two_attempts_is_asked_for_and_refused_by_the_hub() {
    let stub = HubStub::serve().await;
    let machine = Machine::of(stub.port);
    stub.fail(CDN, [Fault::BreakAfter(1_100_000)]);
    machine.download().await.unwrap();
    let seen = stub.seen();
    let resumed = seen.iter().find(|seen| seen.header("range").is_some()).unwrap();
    let tag = format!("\"cdn-{}\"", &sha256(&stub.bytes(LARGE))[..8]);
    assert_eq!(resumed.header("if-range"), Some(tag.as_str()));

    let other = Machine::of(stub.port);
    let (stub_2, put) = (stub.clone(), std::sync::Once::new());
    stub.fail(CDN, [Fault::BreakAfter(1_100_000)]);
    let hub = other.hub_telling(Arc::new(move |progress| {
        if let Progress::Retry { .. } = progress {
            put.call_once(|| stub_2.put(LARGE, true, content(3_000_000, 7)));
        }
    }));
    let listing = hub.listing(&repo()).await.unwrap();
    let error = hub.fetch(&listing, &paths()).await.unwrap_err();
    assert_says(&error, &[LARGE, "changed on the hub"]);
    assert_whole(&stub, &other.download().await.unwrap());
}

#[tokio::test]
async fn a_stopped_download_is_gone_on_with() {
    let stub = HubStub::serve().await;
    let machine = Machine::of(stub.port);
    // Later than two pieces can end: they are a mebibyte and what hyper reads at once (418 kB at most).
    stub.fail(CDN, [Fault::StallAfter(2_950_000)]);
    let (at, mut stands) = tokio::sync::watch::channel(0);
    let hub = machine.hub_telling(Arc::new(move |progress| {
        if let Progress::File { path: LARGE, present_bytes, .. } = progress {
            at.send_replace(present_bytes);
        }
    }));
    let fetching = tokio::spawn(async move {
        let listing = hub.listing(&repo()).await?;
        hub.fetch(&listing, &paths()).await
    });
    let kept = *stands.wait_for(|bytes| *bytes >= 2 << 20).await.unwrap();
    fetching.abort();
    assert!(fetching.await.unwrap_err().is_cancelled());
    let blob = sha256(&stub.bytes(LARGE));
    assert!(machine.blobs().contains(&format!("{blob}.incomplete")), "{:?}", machine.blobs());
    assert_eq!(machine.settings().cached(&repo()), None, "half a model counts as none");
    stub.seen();
    let dir = machine.download().await.unwrap();
    assert_whole(&stub, &dir);
    assert_eq!(stub.ranges(), [Some(format!("bytes={kept}-"))]);
    assert!(machine.blobs().iter().all(|name| !name.ends_with(".incomplete")));
}

#[tokio::test]
async fn a_damaged_file_is_fetched_once_more_and_never_kept() {
    let stub = HubStub::serve().await;
    let machine = Machine::of(stub.port);
    stub.fail(CDN, [Fault::Flip]);
    assert_whole(&stub, &machine.download().await.unwrap());
    assert_eq!(stub.ranges(), [None, None]);

    for (line, path) in
        [(CDN, LARGE), ("GET /o/n/resolve/0123456789abcdef0123456789abcdef01234567/config", SMALL)]
    {
        let machine = Machine::of(stub.port);
        stub.fail(line, [Fault::Flip, Fault::Flip]);
        let error = machine.download().await.unwrap_err();
        assert_says(&error, &[path, "damaged", "expected checksum"]);
        let bytes = stub.bytes(path);
        let blob = if path == LARGE { sha256(&bytes) } else { git_sha1(&bytes) };
        assert!(!machine.blobs().iter().any(|name| name.starts_with(&blob)), "{:?}", machine.blobs());
        assert_eq!(machine.settings().cached(&repo()), None);
    }
    // What an earlier attempt left may be the damaged part.
    let machine = Machine::of(stub.port);
    fs::create_dir_all(machine.root().join("blobs")).unwrap();
    let partial = machine.root().join("blobs").join(format!("{}.incomplete", sha256(&stub.bytes(LARGE))));
    fs::write(&partial, vec![1; 1000]).unwrap();
    stub.seen();
    assert_whole(&stub, &machine.download().await.unwrap());
    assert_eq!(stub.ranges(), [Some("bytes=1000-".to_owned()), None]);
}

#[tokio::test]
async fn lengths_that_are_not_true_cost_attempts_and_never_the_file() {
    let stub = HubStub::serve().await;
    for fault in
        [Fault::Announce(2_000_000), Fault::Announce(5_000_000), Fault::Endless, Fault::BreakAfter(2_999_999)]
    {
        let machine = Machine::of(stub.port);
        stub.fail(CDN, [fault.clone()]);
        let dir = machine.download().await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_whole(&stub, &dir);
    }
    let machine = Machine::of(stub.port);
    stub.fail(CDN, [Fault::BreakAfter(1_100_000), Fault::WrongRange, Fault::Status(416, "")]);
    assert_whole(&stub, &machine.download().await.unwrap());

    let machine = Machine::of(stub.port);
    stub.fail(CDN, vec![Fault::Announce(2_000_000); 6]);
    let error = machine.download().await.unwrap_err();
    assert_says(&error, &[LARGE, "expected 3000000 bytes", "2000000"]);
    assert_eq!(machine.waited(), [500, 1000, 2000, 4000, 8000]);
}

#[tokio::test]
async fn a_hub_that_asks_for_patience_gets_it_within_bounds() {
    let stub = HubStub::serve().await;
    let machine = Machine::of(stub.port);
    stub.fail("GET /api", [Fault::Status(429, "retry-after: 7\r\n"), Fault::Status(503, "")]);
    assert_whole(&stub, &machine.download().await.unwrap());
    assert_eq!(machine.waited(), [7000, 1000]);

    let machine = Machine::of(stub.port);
    stub.fail("GET /api", [Fault::Status(429, "retry-after: 3600\r\n")]);
    assert_says(&machine.download().await.unwrap_err(), &["429", "3600 seconds", "HF_TOKEN"]);
    assert_eq!(machine.waited(), [0; 0]);

    let machine = Machine::of(stub.port);
    stub.fail("GET /api", vec![Fault::Status(502, ""); 6]);
    assert_says(&machine.download().await.unwrap_err(), &["the hub at 127.0.0.1", "502"]);
}

#[tokio::test]
async fn a_link_that_ran_out_is_asked_for_anew() {
    let stub = HubStub::serve().await;
    let machine = Machine::of(stub.port);
    stub.fail(CDN, [Fault::BreakAfter(1_100_000), Fault::Status(403, "")]);
    assert_whole(&stub, &machine.download().await.unwrap());
    let resolved = |line: &str| line.starts_with("GET /o/n/resolve/") && line.contains(LARGE);
    assert_eq!(stub.seen().iter().filter(|seen| resolved(&seen.line)).count(), 3);
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let stub = HubStub::serve().await;
    let mut machine = Machine::of(stub.port);
    let unknown = machine.hub().listing(&"o/unknown".parse().unwrap()).await.unwrap_err();
    assert_says(&unknown, &["o/unknown", "404", "check the spelling"]);
    stub.fail("GET /api", [Fault::Status(401, "")]);
    assert_says(&machine.download().await.unwrap_err(), &["o/n", "401", "set HF_TOKEN"]);
    machine.variables.push(("HF_TOKEN", "hf_secret"));
    stub.fail("GET /api", [Fault::Status(403, "")]);
    let error = machine.download().await.unwrap_err();
    assert_says(&error, &["o/n", "403", "terms"]);
    assert!(!error.to_string().contains("hf_secret"));
    assert_eq!(machine.waited(), [0; 0]);

    stub.seen();
    machine.variables.push(("HF_HUB_OFFLINE", "1"));
    assert_says(&machine.download().await.unwrap_err(), &["o/n", "HF_HUB_OFFLINE"]);
    assert!(stub.seen().is_empty());

    let nobody = Machine::of(free_port().await);
    assert_says(&nobody.download().await.unwrap_err(), &["the hub at 127.0.0.1", "could not be reached"]);
    let broken = Machine { endpoint: "mirror".to_owned(), ..Machine::of(0) };
    let error = Hub::new(&broken.settings(), Arc::new(|_| {})).unwrap_err();
    assert_says(&error, &["hub endpoint", "mirror"]);
}

#[tokio::test]
async fn a_disk_without_room_is_told_before_anything_is_fetched() {
    let stub = HubStub::serve().await;
    let machine = Machine::of(stub.port);
    let sha = sha256(b"");
    let head = format!("location: /cdn/x\r\nx-linked-etag: \"{sha}\"\r\nx-linked-size: {}\r\n", u64::MAX / 4);
    stub.fail(
        "HEAD /o/n/resolve/0123456789abcdef0123456789abcdef01234567/vae",
        [Fault::Status(302, head.leak())],
    );
    let error = machine.download().await.unwrap_err();
    assert_says(&error, &["models--o--n", "MiB are needed", "are free", "HF_HOME"]);
    assert!(stub.seen().iter().all(|seen| !seen.line.starts_with("GET /o/n/resolve")));
}

#[tokio::test]
async fn two_do_not_fetch_the_same_file() {
    let stub = HubStub::serve().await;
    let machine = Machine::of(stub.port);
    stub.fail(CDN, [Fault::StallAfter(1_500_000)]);
    let hub = machine.hub();
    let listing: Listing = hub.listing(&repo()).await.unwrap();
    let first = tokio::spawn({
        let (hub, listing) = (hub.clone(), listing.clone());
        async move { hub.fetch(&listing, &paths()).await }
    });
    stub.stalled.notified().await;
    let error = hub.fetch(&listing, &[LARGE.to_owned()]).await.unwrap_err();
    assert_says(&error, &[LARGE, "another process"]);
    first.abort();
}

#[test]
fn repositories_are_told_from_paths() {
    for good in ["THUDM/CogVideoX-2b", "o/n@refs/pr/3", "o/n@v1.0"] {
        assert_eq!(good.parse::<RepoId>().unwrap().to_string(), good);
    }
    assert_eq!("o/n@main".parse::<RepoId>().unwrap().to_string(), "o/n");
    for bad in
        ["", "n", "/o/n", "a/b/c", "../n", "./n", "o/n/", "o/n@", "o/n@../x", "o--p/n", "o/n@a//b", "o/n m"]
    {
        assert!(bad.parse::<RepoId>().is_err(), "{bad:?}");
    }
}
