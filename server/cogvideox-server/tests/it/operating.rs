//! `doctor`, `backup`, `restore` and `migrate` as the operator runs them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

fn server(data_dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cogvideox-server"))
        .env_clear()
        .env("COGVIDEOX_DATA_DIR", data_dir)
        .env("COGVIDEOX_SERVER__PORT", "0")
        .args(arguments)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", text(output));
    text(output)
}

/// A data folder with a job table and a key in it.
fn data_folder(dir: &Path) {
    done(&server(dir, &["keys", "create", "studio"]));
}

#[test]
fn a_backup_comes_back_with_what_was_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let (data, saved, other) =
        (folder.path().join("data"), folder.path().join("saved"), folder.path().join("other"));
    data_folder(&data);
    assert!(done(&server(&data, &["backup", saved.to_str().unwrap()])).contains("0 files"));
    assert!(refused(&server(&data, &["backup", saved.to_str().unwrap()])).contains("is there already"));
    done(&server(&other, &["restore", saved.to_str().unwrap()]));
    assert!(done(&server(&other, &["keys", "list"])).contains("studio"));
    assert!(
        refused(&server(&other, &["restore", saved.to_str().unwrap()])).contains("has a job table already")
    );
    assert!(refused(&server(&other, &["restore", data.to_str().unwrap()])).contains("not a backup"));
}

#[test]
fn a_damaged_backup_is_refused_and_leaves_nothing_that_looks_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (data, saved, other) =
        (folder.path().join("data"), folder.path().join("saved"), folder.path().join("other"));
    data_folder(&data);
    done(&server(&data, &["backup", saved.to_str().unwrap()]));
    let table = saved.join("queue.sqlite");
    let mut bytes = fs::read(&table).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 8192].fill(0xff);
    fs::write(&table, bytes).unwrap();
    refused(&server(&other, &["restore", saved.to_str().unwrap()]));
    assert!(!other.join("queue.sqlite").exists());
}

#[test]
fn migrate_says_what_there_is_to_do() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refused(&server(folder.path(), &["migrate"])).contains("there is no job table"));
    data_folder(folder.path());
    assert!(done(&server(folder.path(), &["migrate", "--dry-run"])).contains("is up to date"));
}

#[test]
fn doctor_finds_a_healthy_set_up_healthy() {
    let folder = tempfile::tempdir().unwrap();
    data_folder(folder.path());
    let found = done(&server(folder.path(), &["doctor"]));
    for line in ["ok       database", "ok       files", "ok       port", "ok       clock"] {
        assert!(found.contains(line), "{found}");
    }
    let json = done(&server(folder.path(), &["doctor", "--json"]));
    assert!(json.lines().all(|line| line.starts_with('{')), "{json}");
}

#[test]
fn doctor_says_of_each_broken_set_up_what_is_wrong_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    data_folder(&data);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("server.port={}", taken.local_addr().unwrap().port());
    let broken = [
        (vec!["--set", "model.dtype=f99"], "error    configuration", "default.toml"),
        (vec!["--set", "model.path=/nowhere"], "error    model", "diffusers' layout"),
        (vec!["--set", "model.device=cuda"], "error    device", "model.device to cpu"),
        (vec!["--set", port.as_str()], "error    port", "server.port"),
    ];
    for (mut arguments, line, advice) in broken {
        arguments.insert(0, "doctor");
        let found = refused(&server(&data, &arguments));
        assert!(found.contains(line) && found.contains(advice), "{found}");
        assert!(found.lines().last().unwrap().starts_with("error: 1 of "), "{found}");
    }
    fs::write(data.join("queue.sqlite"), "no database").unwrap();
    let found = refused(&server(&data, &["doctor"]));
    assert!(found.contains("error    database") && found.contains("restore a backup"), "{found}");
    let found = refused(&server(&folder.path().join("new"), &["doctor", "--set", "server.address=0.0.0.0"]));
    assert!(found.contains("error    keys") && found.contains("keys create"), "{found}");
}

/// Answers one request on a port of its own, which it returns, with this status line and body.
fn answering(status: &'static str, body: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
        assert_eq!(request.next().unwrap().unwrap(), "GET /readyz HTTP/1.1");
        assert!(request.any(|line| line.unwrap().is_empty()));
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    });
    port
}

#[test]
fn health_is_what_the_server_says_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let health = |port: u16, address: &str| {
        let [port, address] = [format!("server.port={port}"), format!("server.address={address}")];
        server(folder.path(), &["health", "--set", &port, "--set", &address])
    };
    let ready = r#"{"status":"ready","reasons":[]}"#;
    // A server that listens everywhere is asked on loopback.
    for address in ["127.0.0.1", "0.0.0.0"] {
        assert_eq!(done(&health(answering("200 OK", ready), address)), "ready\n");
    }
    let starting = r#"{"status":"starting","reasons":["the model is being loaded"]}"#;
    let said = refused(&health(answering("503 Service Unavailable", starting), "127.0.0.1"));
    assert!(said.contains("starting: the model is being loaded"), "{said}");
    let said = refused(&health(answering("200 OK", "hello"), "127.0.0.1"));
    assert!(said.contains("found something else"), "{said}");
}

#[test]
fn health_without_a_server_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let said = refused(&server(folder.path(), &["health", "--set", &format!("server.port={free}")]));
    assert!(said.contains("no server answers") && said.lines().count() == 1, "{said}");
    assert!(refused(&server(folder.path(), &["health"])).contains("server.port"));
}
