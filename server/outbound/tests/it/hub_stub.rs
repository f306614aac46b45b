//! A hub of one's own making, whose large files lie at another name of this machine. It answers byte by byte, so that it
//! can do what a well-behaved server's library would not: break off, lie about lengths, send what was not asked for. It
//! keeps what it was asked.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What is wrong with one answer.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes of the body.
    BreakAfter(usize),
    /// The connection stays open and silent after so many bytes of the body.
    StallAfter(usize),
    /// Another length is announced, and the body is cut or filled up to it.
    Announce(usize),
    /// More comes than was announced anywhere, in a body without a length.
    Endless,
    /// One bit of the body is another.
    Flip,
    /// A status, and a header.
    Status(u16, &'static str),
    /// The whole file with status 206, as of its first byte.
    WrongRange,
}

#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Method and target.
    pub(crate) line: String,
    head: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

#[derive(Default)]
struct State {
    /// By path; whether it is large, and its bytes.
    files: BTreeMap<String, (bool, Vec<u8>)>,
    commit: String,
    port: u16,
    /// For the first request whose line begins so.
    faults: Vec<(&'static str, Fault)>,
    seen: Vec<Seen>,
}

#[derive(Clone)]
pub(crate) struct HubStub {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
    /// Told of each stalled answer.
    pub(crate) stalled: Arc<Notify>,
}

/// Bytes that are nowhere the same.
pub(crate) fn content(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8 ^ (i / 251) as u8 ^ seed).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn git_sha1(bytes: &[u8]) -> String {
    let mut sha = Sha1::new();
    sha.update(format!("blob {}\0", bytes.len()));
    sha.update(bytes);
    hex(&sha.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

impl HubStub {
    /// With a small file, `config.json`, and a large one, `vae/model.safetensors`.
    pub(crate) async fn serve() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { commit: COMMIT.to_owned(), port, ..State::default() };
        let stub = Self { port, state: Arc::new(Mutex::new(state)), stalled: Arc::default() };
        stub.put("config.json", false, b"{\"small\": true}".to_vec());
        stub.put("vae/model.safetensors", true, content(3_000_000, 0));
        let serving = stub.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(exchange(stream, serving.clone()));
            }
        });
        stub
    }

    pub(crate) fn put(&self, path: &str, is_large: bool, bytes: Vec<u8>) {
        self.state.lock().unwrap().files.insert(path.to_owned(), (is_large, bytes));
    }

    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        self.state.lock().unwrap().files[path].1.clone()
    }

    pub(crate) fn set_commit(&self, commit: &str) {
        commit.clone_into(&mut self.state.lock().unwrap().commit);
    }

    /// Each is for one answer, to the next request whose line begins so.
    pub(crate) fn fail(&self, line: &'static str, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().faults.extend(faults.into_iter().map(|fault| (line, fault)));
    }

    /// What it was asked for since the last time.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }

    /// The ranges that the large files were asked for since the last time.
    pub(crate) fn ranges(&self) -> Vec<Option<String>> {
        let seen = self.seen();
        let of_cdn = seen.iter().filter(|seen| seen.line.starts_with("GET /cdn/"));
        of_cdn.map(|seen| seen.header("range").map(str::to_owned)).collect()
    }
}

struct Reply {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: u16, headers: String, body: Vec<u8>) -> Self {
        Self { status, headers, body }
    }
}

fn reply(state: &State, seen: &Seen) -> Reply {
    let target = seen.line.split(' ').nth(1).unwrap();
    if target == "/api/models/o/n/revision/main" {
        let files: Vec<_> = state.files.keys().map(|path| serde_json::json!({ "rfilename": path })).collect();
        let info = serde_json::json!({ "id": "o/n", "sha": state.commit, "siblings": files });
        return Reply::new(200, String::new(), info.to_string().into_bytes());
    }
    if let Some(path) = target.strip_prefix(&format!("/o/n/resolve/{}/", state.commit))
        && let Some((is_large, bytes)) = state.files.get(path)
    {
        if !is_large {
            return Reply::new(200, format!("etag: \"{}\"\r\n", git_sha1(bytes)), bytes.clone());
        }
        let (sha, size, port) = (sha256(bytes), bytes.len(), state.port);
        let linked = format!(
            "location: http://localhost:{port}/cdn/{path}\r\nx-linked-etag: \"{sha}\"\r\nx-linked-size: {size}\r\n"
        );
        return Reply::new(302, linked, Vec::new());
    }
    if let Some((_, bytes)) = target.strip_prefix("/cdn/").and_then(|path| state.files.get(path)) {
        let tag = format!("\"cdn-{}\"", &sha256(bytes)[..8]);
        let start = seen.header("range").and_then(|range| {
            let fits = seen.header("if-range").is_none_or(|wanted| wanted == tag);
            let start = range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()?;
            fits.then_some(start)
        });
        let Some(start) = start else { return Reply::new(200, format!("etag: {tag}\r\n"), bytes.clone()) };
        if start >= bytes.len() {
            return Reply::new(416, String::new(), Vec::new());
        }
        let range = format!("content-range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len());
        return Reply::new(206, format!("etag: {tag}\r\n{range}"), bytes[start..].to_vec());
    }
    Reply::new(404, String::new(), Vec::new())
}

async fn exchange(mut stream: TcpStream, stub: HubStub) {
    let Some(head) = read_head(&mut stream).await else { return };
    let line = head.lines().next().unwrap().strip_suffix(" HTTP/1.1").unwrap().to_owned();
    let seen = Seen { line, head };
    let (mut reply, fault, stalled) = {
        let mut state = stub.state.lock().unwrap();
        let fault = state.faults.iter().position(|(line, _)| seen.line.starts_with(line));
        let fault = fault.map(|index| state.faults.remove(index).1);
        state.seen.push(seen.clone());
        (reply(&state, &seen), fault, Arc::clone(&stub.stalled))
    };
    let mut length = Some(reply.body.len());
    let mut sent = reply.body.len();
    match fault {
        None => {}
        Some(Fault::BreakAfter(bytes) | Fault::StallAfter(bytes)) => sent = bytes,
        Some(Fault::Announce(bytes)) => {
            length = Some(bytes);
            sent = sent.min(bytes);
        }
        Some(Fault::Endless) => {
            length = None;
            reply.body.extend(content(1 << 20, 9));
            sent = reply.body.len();
        }
        Some(Fault::Flip) => {
            let middle = reply.body.len() / 2;
            reply.body[middle] ^= 1;
        }
        Some(Fault::Status(status, header)) => {
            reply = Reply::new(status, header.to_owned(), Vec::new());
            (length, sent) = (Some(0), 0);
        }
        Some(Fault::WrongRange) => {
            reply.status = 206;
            reply.headers = String::from("content-range: bytes 0-9/10\r\n");
        }
    }
    let length = length.map(|length| format!("content-length: {length}\r\n")).unwrap_or_default();
    let (status, headers) = (reply.status, &reply.headers);
    let head = format!("HTTP/1.1 {status} x\r\n{headers}{length}connection: close\r\n\r\n");
    // A client that has read enough hangs up.
    let _ = stream.write_all(head.as_bytes()).await;
    if seen.line.starts_with("HEAD") {
        return;
    }
    let _ = stream.write_all(&reply.body[..sent]).await;
    if let Some(Fault::StallAfter(_)) = fault {
        stalled.notify_one();
        let _ = stream.read_u8().await;
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    String::from_utf8(bytes).ok()
}
