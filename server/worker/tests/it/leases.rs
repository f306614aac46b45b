//! A worker that is given up for lost while it works.

use std::time::Duration;

use queue::{Owner, Stage, Status};
use worker::WorkerConfig;

use crate::bench::{Bench, CONFIG, Told};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_its_lease_stops_and_leaves_the_row_alone() {
    let mut bench = Bench::new().await;
    bench.start(WorkerConfig { heartbeat: Duration::from_millis(5), ..CONFIG });
    let id = bench.enqueue("hold").await;
    let first = bench.held().await;
    let mut news = bench.news(id);
    assert_eq!(bench.queue.rescue(&Owner::unique()).await.unwrap().requeued, 1);

    // Not released: the heartbeat is refused, which stops the generation, and the worker takes the video anew.
    let second = bench.held().await;
    drop(first);
    second.release();
    let end = news.end().await;
    assert_eq!((end.status, end.attempt), (Status::Completed, 2));
    assert_eq!(bench.files(), ["jpg", "mp4", "webp"].map(|kind| format!("{id}_2.{kind}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_comes_after_the_lease_is_lost_is_dropped_with_its_file() {
    let mut bench = Bench::new().await;
    bench.start(CONFIG);
    let id = bench.enqueue("deaf").await;
    let held = bench.held().await;
    // Another worker takes the row over and finishes it; this one hears nothing of it until it writes.
    let other = Owner::unique();
    bench.queue.rescue(&other).await.unwrap();
    let claim = bench.queue.claim(&other).await.unwrap().unwrap();
    bench.queue.cancelled(&claim.lease).await.unwrap();
    let before = bench.queue.get(id).await.unwrap();
    held.release();
    bench.assert_goes_on().await;
    assert_eq!(bench.queue.get(id).await.unwrap(), before);
    assert_eq!(bench.files().len(), 3, "only the files of the video that went on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_made_after_the_lease_is_lost_is_removed() {
    let bench = Bench::new().await;
    bench.start(CONFIG);
    let id = bench.enqueue("make").await;
    let mut news = bench.news(id);
    let mut attempts = 1;
    let end = loop {
        match news.next().await {
            // The file is about to be written. Should the worker be the quicker one, nothing is lost.
            Told::Progress(1, progress) if progress.stage == Stage::Store => {
                attempts += bench.queue.rescue(&Owner::unique()).await.unwrap().requeued;
            }
            Told::Event(event, video) if event.kind.is_end() => break video,
            _ => {}
        }
    };
    assert_eq!((end.status, end.attempt), (Status::Completed, attempts));
    assert_eq!(bench.files(), ["jpg", "mp4", "webp"].map(|kind| format!("{id}_{attempts}.{kind}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_lost_its_worker_is_taken_up_again() {
    let bench = Bench::new().await;
    let id = bench.enqueue("make").await;
    bench.queue.claim(&Owner::unique()).await.unwrap().unwrap();
    bench.start(CONFIG);
    let video = bench.settled(id).await;
    assert_eq!((video.status, video.attempt), (Status::Completed, 2));
}
