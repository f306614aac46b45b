//! How a server stops: at once, after the video at hand, or in spite of a generator that does not listen.

use std::time::Duration;

use queue::{Status, Video};
use worker::{Readiness, WorkerConfig};

use crate::bench::{Bench, CONFIG};

async fn assert_handed_back(bench: &Bench, video: &Video) {
    assert_eq!((video.status, video.attempt), (Status::Queued, 1));
    assert_eq!((video.stage, video.progress, video.started_at_ms), (None, 0, None));
    assert_eq!(bench.queue.queue_position(video.id).await.unwrap(), Some(1));
    assert!(bench.files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_video_waits_in_its_place_and_the_next_server_makes_it() {
    let mut bench = Bench::new().await;
    let worker = bench.start(CONFIG);
    let ready = worker.ready.clone();
    let id = bench.enqueue("hold").await;
    let later = bench.enqueue("make").await;
    let _held = bench.held().await;
    worker.shutdown(Duration::ZERO).await;
    assert_eq!(*ready.borrow(), Readiness::Stopping);
    assert_handed_back(&bench, &bench.queue.get(id).await.unwrap()).await;

    bench.start(CONFIG);
    bench.held().await.release();
    let video = bench.settled(id).await;
    assert_eq!((video.status, video.attempt), (Status::Completed, 2));
    assert_eq!(bench.settled(later).await.status, Status::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_finishes_the_video_at_hand_and_begins_no_other() {
    let mut bench = Bench::new().await;
    let worker = bench.start(CONFIG);
    let mut ready = worker.ready.clone();
    let id = bench.enqueue("hold").await;
    let later = bench.enqueue("make").await;
    let held = bench.held().await;
    let shutdown = tokio::spawn(worker.shutdown(Duration::from_hours(1)));
    ready.wait_for(|ready| *ready == Readiness::Stopping).await.unwrap();
    held.release();
    shutdown.await.unwrap();
    assert_eq!(bench.queue.get(id).await.unwrap().status, Status::Completed);
    assert_eq!(bench.queue.get(later).await.unwrap().status, Status::Queued);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generator_that_does_not_listen_does_not_keep_the_server() {
    let mut bench = Bench::new().await;
    let worker = bench.start(WorkerConfig { interrupt_wait: Duration::from_millis(1), ..CONFIG });
    let id = bench.enqueue("deaf").await;
    let held = bench.held().await;
    worker.shutdown(Duration::ZERO).await;
    assert_handed_back(&bench, &bench.queue.get(id).await.unwrap()).await;
    held.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_that_was_to_be_cancelled_is_not_handed_back() {
    let mut bench = Bench::new().await;
    let worker = bench.start(WorkerConfig { interrupt_wait: Duration::from_millis(1), ..CONFIG });
    let id = bench.enqueue("deaf").await;
    let _held = bench.held().await;
    bench.queue.request_cancel(id).await.unwrap();
    worker.shutdown(Duration::ZERO).await;
    assert_eq!(bench.queue.get(id).await.unwrap().status, Status::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_stops_at_once() {
    let bench = Bench::new().await;
    let mut worker = bench.start(CONFIG);
    worker.ready.wait_for(|ready| *ready == Readiness::Ready).await.unwrap();
    worker.shutdown(Duration::from_hours(1)).await;
    let id = bench.enqueue("make").await;
    assert_eq!(bench.queue.get(id).await.unwrap().status, Status::Queued);
}
