//! Models by name, from a hub in this process: fetched once, then used without it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest as _, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const REPO: &str = "tiny/CogVideoX-2b";

/// A door that answers wait at.
#[derive(Default)]
struct Gate {
    /// Whether it is open, and how many wait.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| !state.0).unwrap());
    }

    fn open(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }

    fn until_someone_waits(&self) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |state| state.1 == 0).unwrap());
    }
}

struct Hub {
    endpoint: String,
    files: BTreeMap<String, Vec<u8>>,
    /// Stands before the last byte of all weights.
    gate: Gate,
    /// Line and range of each request.
    seen: Mutex<Vec<String>>,
}

impl Hub {
    /// Serves the tiny pipeline of the goldens, among files that nobody needs.
    fn serve(changed: &[(&str, Vec<u8>)]) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cogvideox/tests/golden/2b");
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&root).unwrap() {
            let dir = entry.unwrap().path();
            let paths = if dir.is_dir() {
                fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect()
            } else {
                vec![dir]
            };
            for path in paths {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read(path).unwrap());
            }
        }
        for name in ["README.md", "transformer/diffusion_pytorch_model.bin", "vae/model.fp32.safetensors"] {
            files.insert(name.to_owned(), b"nobody needs this".to_vec());
        }
        files.extend(changed.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())));
        let hub = Arc::new(Self {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            files,
            gate: Gate::default(),
            seen: Mutex::default(),
        });
        let serving = Arc::clone(&hub);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (hub, stream) = (Arc::clone(&serving), stream.unwrap());
                std::thread::spawn(move || hub.answer(stream));
            }
        });
        hub
    }

    /// A client that is killed hangs up: no failed write is worth a word.
    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let line = lines.next()?.ok()?;
        let mut from = 0;
        let mut range = String::new();
        for header in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            if let Some(start) = header.strip_prefix("range: bytes=") {
                from = start.trim_end_matches('-').parse().unwrap();
                range = format!(" from {from}");
            }
        }
        self.seen.lock().unwrap().push(format!("{line}{range}"));
        let target = line.split(' ').nth(1)?;
        if target == format!("/api/models/{REPO}/revision/main") {
            let siblings: Vec<_> =
                self.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
            let body = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
            let length = body.len();
            let head = format!("HTTP/1.1 200 x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            return stream.write_all((head + &body).as_bytes()).ok();
        }
        let path = target.strip_prefix(&format!("/{REPO}/resolve/{COMMIT}/"));
        let Some((path, bytes)) = path.and_then(|path| self.files.get_key_value(path)) else {
            return stream
                .write_all(b"HTTP/1.1 404 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .ok();
        };
        let tag = Sha256::digest(bytes).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let (size, length) = (bytes.len(), bytes.len() - from);
        let status = if from > 0 { 206 } else { 200 };
        let head = format!(
            "HTTP/1.1 {status} x\r\netag: \"{tag}\"\r\nx-linked-size: {size}\r\ncontent-length: {length}\r\n\
             content-range: bytes {from}-{}/{size}\r\nconnection: close\r\n\r\n",
            size - 1
        );
        stream.write_all(head.as_bytes()).ok()?;
        if line.starts_with("HEAD") {
            return Some(());
        }
        if path.ends_with(".safetensors") {
            stream.write_all(&bytes[from..size - 1]).ok()?;
            self.gate.pass();
            return stream.write_all(&bytes[size - 1..]).ok();
        }
        stream.write_all(&bytes[from..]).ok()
    }

    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// The program, on a machine of its own.
    fn client(&self, home: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cogvideox-server"));
        command
            .env_clear()
            .env("HOME", home)
            .env("HF_ENDPOINT", &self.endpoint)
            .env("COGVIDEOX_DATA_DIR", home.join("data"))
            .env("COGVIDEOX_SERVER__PORT", "0")
            .args(arguments);
        command
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_video_is_made_from_a_name_and_the_next_without_a_hub() {
    let hub = Hub::serve(&[]);
    hub.gate.open();
    let home = tempfile::tempdir().unwrap();
    let mp4 = home.path().join("video.mp4");
    let arguments = ["generate", "--model", REPO, "--prompt", "a cat", "--num-inference-steps", "2", "-o"];
    let arguments = [&arguments[..], &[mp4.to_str().unwrap()]].concat();
    let made = hub.client(home.path(), &arguments).output().unwrap();
    assert!(made.status.success(), "{}", text(&made));
    assert!(text(&made).contains("download 100 %"), "{}", text(&made));
    let first = fs::read(&mp4).unwrap();
    assert!(first.len() > 100);
    let seen = hub.seen();
    let needless = |line: &&String| line.contains("README") || line.contains(".bin") || line.contains("fp32");
    assert_eq!(seen.iter().find(needless), None);

    let mut again = hub.client(home.path(), &arguments);
    let again = again.env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(again.status.success(), "{}", text(&again));
    let again = hub.client(home.path(), &arguments).output().unwrap();
    assert!(again.status.success(), "{}", text(&again));
    assert_eq!(hub.seen(), [""; 0], "what is whole in the cache needs no hub");

    let found = hub.client(home.path(), &["download", REPO]).output().unwrap();
    let dir = home.path().join(".cache/huggingface/hub/models--tiny--CogVideoX-2b/snapshots").join(COMMIT);
    assert_eq!(String::from_utf8_lossy(&found.stdout).trim(), dir.to_str().unwrap());
}

#[test]
fn refusals_of_names_are_one_line() {
    let hub = Hub::serve(&[]);
    let home = tempfile::tempdir().unwrap();
    for (arguments, words) in [
        (vec!["download", "a/b/c"], "OWNER/NAME"),
        (vec!["download", "tiny/unknown"], "check the spelling"),
        (
            vec!["generate", "--model", "tiny/unknown", "--prompt", "x", "-o", "x.mp4"],
            "has no tiny/unknown (404)",
        ),
        (vec!["serve", "--model", "tiny/unknown"], "has no tiny/unknown (404)"),
        (vec!["download", "cogvideox-2b"], "has no THUDM/CogVideoX-2b (404)"),
        (vec!["download", REPO, "--endpoint", "mirror"], "hub endpoint"),
    ] {
        let output = hub.client(home.path(), &arguments).output().unwrap();
        assert!(!output.status.success());
        let last = text(&output).lines().last().unwrap().to_owned();
        assert!(last.starts_with("error: ") && last.contains(words), "{}", text(&output));
    }
    let mut offline = hub.client(home.path(), &["download", REPO]);
    let offline = offline.env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(text(&offline).contains("HF_HUB_OFFLINE"), "{}", text(&offline));
}

#[test]
fn a_download_that_is_killed_goes_on_where_it_was() {
    let weights = "transformer/diffusion_pytorch_model.safetensors";
    for signal in [Signal::KILL, Signal::TERM] {
        let hub = Hub::serve(&[(weights, vec![7; 8 << 20])]);
        let home = tempfile::tempdir().unwrap();
        let mut child = hub.client(home.path(), &["download", REPO]).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        // Of the weights, some are on the disk once a tenth is told of.
        assert!(lines.any(|line| line.starts_with("download 3 files")));
        assert!(lines.next().unwrap().contains(" %  "));
        hub.gate.until_someone_waits();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), (signal == Signal::TERM).then_some(1));
        if signal == Signal::TERM {
            assert!(lines.any(|line| line.contains("interrupted; what has come is kept")));
        }
        assert!(hub.seen().iter().all(|line| !line.contains(" from ")));

        hub.gate.open();
        let done = hub.client(home.path(), &["download", REPO]).output().unwrap();
        assert!(done.status.success(), "{}", text(&done));
        let resumed = format!("GET /{REPO}/resolve/{COMMIT}/{weights} HTTP/1.1 from ");
        let seen = hub.seen();
        assert!(seen.iter().any(|line| line.starts_with(&resumed)), "{seen:?}");
        let dir = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        assert!(fs::read(Path::new(&dir).join(weights)).unwrap() == hub.files[weights]);
    }
}

/// A running server, killed at the end.
struct Server {
    child: Child,
    stderr: BufReader<ChildStderr>,
    address: String,
}

impl Server {
    fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut server = Self { child, stderr, address: String::new() };
        let line = server.line_with("listening");
        server.address.push_str(line.rsplit_once("address=").unwrap().1);
        server
    }

    fn line_with(&mut self, words: &str) -> String {
        let mut line = String::new();
        while self.stderr.read_line(&mut line).unwrap() > 0 {
            if line.contains(words) {
                return line.trim().to_owned();
            }
            line.clear();
        }
        panic!("the log ended without {words:?}");
    }

    fn call(&self, request: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let (host, length) = (&self.address, body.len());
        let head = format!(
            "{request} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_is_up_and_not_ready_until_its_model_is_here() {
    let hub = Hub::serve(&[]);
    let home = tempfile::tempdir().unwrap();
    let mut server = Server::start(hub.client(home.path(), &["serve", "--model", REPO]));
    hub.gate.until_someone_waits();
    let ready = server.call("GET /readyz", "");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(
        ready.contains(r#""status":"starting""#) && ready.contains("files are being fetched: "),
        "{ready}"
    );
    assert!(server.call("GET /livez", "").starts_with("HTTP/1.1 200"));
    assert!(server.call("GET /v1/models", "").contains(r#""id":"CogVideoX-2b""#));
    let refused = server.call("POST /v1/videos", r#"{"prompt": "a cat"}"#);
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("model_not_ready"), "{refused}");
    hub.gate.open();
    server.line_with("the model is here");
    server.line_with("model loaded");
    // Told of by the worker right after that line.
    while !server.call("GET /readyz", "").starts_with("HTTP/1.1 200") {
        std::thread::yield_now();
    }
    let created = server.call("POST /v1/videos", r#"{"prompt": "a cat", "num_inference_steps": 1}"#);
    assert!(
        created.contains(r#""status":"queued""#) || created.contains(r#""status":"in_progress""#),
        "{created}"
    );
}

#[test]
fn a_server_that_is_stopped_while_it_fetches_ends_in_order() {
    let hub = Hub::serve(&[]);
    let home = tempfile::tempdir().unwrap();
    let mut server = Server::start(hub.client(home.path(), &["serve", "--model", REPO]));
    hub.gate.until_someone_waits();
    kill_process(Pid::from_child(&server.child), Signal::TERM).unwrap();
    assert!(server.child.wait().unwrap().success());
}
