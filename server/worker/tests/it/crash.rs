//! A server that is killed with -9 in mid-job and started again. The server is this test binary once more.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _, read_to_string, stdin, stdout},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use queue::Status;
use tokio::sync::mpsc::unbounded_channel;

use crate::{
    bench::{Bench, CONFIG, new_video, open, settled},
    fake::{Baton, FakeGenerator},
};

const FOLDER: &str = "WORKER_TEST_FOLDER";
const IN_MID_JOB: &str = "in mid-job";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs as the server that the next test kills"]
async fn server() {
    let Ok(folder) = env::var(FOLDER) else { return };
    let (queue, store) = open(Path::new(&folder)).await;
    queue.enqueue(new_video("hold")).await.unwrap();
    queue.enqueue(new_video("make")).await.unwrap();
    let (sender, mut held) = unbounded_channel();
    let baton = Arc::new(Baton { built: 0.into(), params: Mutex::default(), held: sender });
    let _worker = worker::start(CONFIG, queue, store, move || Ok(FakeGenerator::new(&baton))).unwrap();
    let _held = held.recv().await.unwrap();
    writeln!(stdout(), "\n{IN_MID_JOB}").unwrap();
    // Ends with the test that started it, if that comes to no kill.
    let _ = read_to_string(stdin());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_mid_job_and_started_again_finishes_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Command::new(env::current_exe().unwrap())
        .args(["--exact", "crash::server", "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == IN_MID_JOB), "the server came to its job");
    server.kill().unwrap();
    server.wait().unwrap();

    let mut bench = Bench::reopen(folder).await;
    let page = queue::ListQuery { after: None, limit: 9, order: queue::Order::Ascending };
    let videos = bench.queue.list(page).await.unwrap().videos;
    assert_eq!((videos[0].status, videos[0].attempt), (Status::InProgress, 1));
    bench.start(CONFIG);
    bench.held().await.release();
    for (video, attempt) in videos.iter().zip([2, 1]) {
        let end = settled(&bench.queue, video.id).await;
        assert_eq!((end.status, end.attempt), (Status::Completed, attempt));
    }
}
