//! A server that is killed with -9 in mid-job and started again. The server is this test binary once more.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _, read_to_string, stdin, stdout},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use queue::Status;
use tokio::sync::mpsc::unbounded_channel;

use crate::{
    bench::{Bench, CONFIG, KEEPING, new_video, open, settled, until_kept},
    fake::{Baton, FakeGenerator},
};

const FOLDER: &str = "WORKER_TEST_FOLDER";
const IN_MID_JOB: &str = "in mid-job";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs as the server that the next test kills"]
async fn server() {
    let Ok(folder) = env::var(FOLDER) else { return };
    let (queue, stores) = open(Path::new(&folder)).await;
    let id = queue.enqueue(new_video("hold 3"), None).await.unwrap().video.id;
    queue.enqueue(new_video("make"), None).await.unwrap();
    let (sender, mut held) = unbounded_channel();
    let baton = Arc::new(Baton::new(sender));
    let device = worker::Device { name: "fake".to_owned(), build: move || FakeGenerator::build(&baton) };
    let _worker = worker::start(KEEPING, &queue, &stores, vec![device]).unwrap();
    let _held = held.recv().await.unwrap();
    until_kept(&queue, id, 3).await;
    writeln!(stdout(), "\n{IN_MID_JOB}").unwrap();
    // Ends with the test that started it, if that comes to no kill.
    let _ = read_to_string(stdin());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_mid_job_and_started_again_goes_on_where_it_was() {
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

    let bench = Bench::reopen(folder).await;
    let page = queue::ListQuery {
        after: None,
        limit: 9,
        order: queue::Order::Ascending,
        owner: None,
        states: Vec::new(),
    };
    let videos = bench.queue.list(page).await.unwrap().videos;
    assert_eq!((videos[0].status, videos[0].attempt), (Status::InProgress, 1));
    assert_eq!((videos[0].checkpoint_step, bench.checkpoints().len()), (Some(3), 1));
    let worker = bench.start(CONFIG);
    for (video, attempt) in videos.iter().zip([2, 1]) {
        let end = settled(&bench.queue, video.id).await;
        assert_eq!((end.status, end.attempt), (Status::Completed, attempt));
    }
    assert_eq!(bench.resumed_from(), [Some(3), None]);
    worker.shutdown(std::time::Duration::from_hours(1)).await;
    assert!(bench.checkpoints().is_empty());
}
