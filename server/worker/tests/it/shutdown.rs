//! How a server stops: at once, after the video at hand, or in spite of a generator that does not listen.

use std::time::Duration;

use queue::{Status, Video};
use worker::{Readiness, WorkerConfig};

use crate::bench::{Bench, CONFIG, KEEPING, new_video, pictures};

fn assert_handed_back(bench: &Bench, video: &Video) {
    assert_eq!((video.status, video.attempt), (Status::Queued, 1));
    assert_eq!((video.stage, video.started_at_ms), (None, None));
    assert_eq!(bench.queue.estimate(video).queue_position, Some(1));
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
    assert_handed_back(&bench, &bench.queue.get(id).await.unwrap());

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
    assert_handed_back(&bench, &bench.queue.get(id).await.unwrap());
    held.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_that_was_to_be_cancelled_is_not_handed_back() {
    let mut bench = Bench::new().await;
    let worker = bench.start(WorkerConfig { interrupt_wait: Duration::from_millis(1), ..CONFIG });
    let id = bench.enqueue("deaf").await;
    let _held = bench.held().await;
    bench.queue.request_cancel(id, None).await.unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_while_denoising_keeps_the_next_step_and_the_next_server_goes_on_from_it() {
    let mut bench = Bench::new().await;
    let whole = bench.start(CONFIG);
    let id = bench.assert_goes_on().await;
    let expected = bench.mp4(&bench.queue.get(id).await.unwrap()).await;
    whole.shutdown(Duration::ZERO).await;
    // Never due by itself: only a stop takes one.
    let config = WorkerConfig { checkpoint_interval: Some(Duration::from_hours(1)), ..CONFIG };
    for step in 0..=4 {
        let video = queue::NewVideo {
            params: queue::VideoParams { prompt: format!("hold {step}"), ..new_video("").params },
            ..new_video("")
        };
        let worker = bench.start(config);
        let id = bench.queue.enqueue(video, None).await.unwrap().video.id;
        let mut news = bench.news(id);
        let held = bench.held().await;
        let mut ready = worker.ready.clone();
        let shutdown = tokio::spawn(worker.shutdown(Duration::from_hours(1)));
        ready.wait_for(|ready| *ready == Readiness::Stopping).await.unwrap();
        held.release();
        if step == 4 {
            // Nothing is left to be kept: the decoder may finish.
            shutdown.await.unwrap();
            assert_eq!(bench.queue.get(id).await.unwrap().status, Status::Completed);
            continue;
        }
        shutdown.await.unwrap();
        let parked = bench.queue.get(id).await.unwrap();
        assert_eq!(
            (parked.status, parked.checkpoint_step, parked.step),
            (Status::Queued, Some(step + 1), step + 1)
        );
        assert_eq!(bench.checkpoints(), [format!("{id}.ckpt")]);

        let next = bench.start(config);
        let end = news.end().await;
        assert_eq!((end.status, end.attempt), (Status::Completed, 2));
        assert_eq!(bench.resumed_from().last(), Some(&Some(step + 1)));
        assert_eq!(pictures(&bench.mp4(&end).await), pictures(&expected), "as if nothing had happened");
        next.shutdown(Duration::from_hours(1)).await;
        assert!(bench.checkpoints().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_interrupted_in_mid_step_goes_on_from_the_last_checkpoint() {
    let mut bench = Bench::new().await;
    for prompt in ["hold 2", "deaf 2", "hold vae"] {
        let wait = if prompt == "deaf 2" { Duration::from_millis(1) } else { CONFIG.interrupt_wait };
        let worker = bench.start(WorkerConfig { interrupt_wait: wait, ..KEEPING });
        let id = bench.enqueue(prompt).await;
        let held = bench.held().await;
        let kept = if prompt == "hold vae" { 4 } else { 2 };
        bench.until_kept(id, kept).await;
        worker.shutdown(Duration::ZERO).await;
        let video = bench.queue.get(id).await.unwrap();
        assert_eq!((video.status, video.checkpoint_step), (Status::Queued, Some(kept)), "{prompt}");
        held.release();

        let next = bench.start(KEEPING);
        if prompt == "hold vae" {
            bench.held().await.release();
        }
        assert_eq!(bench.settled(id).await.status, Status::Completed);
        assert_eq!(bench.resumed_from().last(), Some(&Some(kept)), "{prompt}");
        next.shutdown(Duration::from_hours(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_cannot_be_taken_does_not_stop_the_generation() {
    let bench = Bench::new().await;
    bench.start(KEEPING);
    let id = bench.enqueue("unkeepable").await;
    let video = bench.settled(id).await;
    assert_eq!((video.status, video.checkpoint_step), (Status::Completed, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_gives_nothing_and_a_resumed_one_wakes_the_worker() {
    let bench = Bench::new().await;
    let mut worker = bench.start(CONFIG);
    worker.ready.wait_for(|ready| *ready == Readiness::Ready).await.unwrap();
    bench.assert_goes_on().await;
    bench.queue.set_paused(true).await.unwrap();
    let id = bench.enqueue("make").await;
    worker.shutdown(Duration::from_hours(1)).await;
    let next = bench.start(CONFIG);
    let mut ready = next.ready.clone();
    ready.wait_for(|ready| *ready == Readiness::Ready).await.unwrap();
    assert_eq!(bench.queue.get(id).await.unwrap().status, Status::Queued);
    bench.queue.set_paused(false).await.unwrap();
    assert_eq!(bench.settled(id).await.status, Status::Completed);
}
