//! What is kept while a video is made, and what is made of it.

use std::{fs, time::Duration};

use queue::{Owner, Status};
use tokio::time::advance;
use worker::WorkerConfig;

use crate::bench::{Bench, FrozenTime, KEEPING, pictures};

/// Leaves a queued video with a checkpoint of 2 steps.
async fn left_behind(bench: &mut Bench, prompt: &str) -> queue::VideoId {
    let worker = bench.start(KEEPING);
    let id = bench.enqueue(prompt).await;
    let held = bench.held().await;
    bench.until_kept(id, 2).await;
    worker.shutdown(Duration::ZERO).await;
    drop(held);
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_missing_checkpoint_costs_time_and_nothing_else() {
    let mut bench = Bench::new().await;
    for damage in ["torn", "flipped", "missing"] {
        let id = left_behind(&mut bench, "hold 2").await;
        let file = bench.folder.path().join("checkpoints").join(format!("{id}.ckpt"));
        let mut bytes = fs::read(&file).unwrap();
        match damage {
            "torn" => fs::write(&file, &bytes[..20]).unwrap(),
            "flipped" => {
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(&file, bytes).unwrap();
            }
            _ => fs::remove_file(&file).unwrap(),
        }
        let worker = bench.start(KEEPING);
        bench.held().await.release();
        let video = bench.settled(id).await;
        assert_eq!((video.status, video.attempt), (Status::Completed, 2), "{damage}");
        assert_eq!(bench.resumed_from().last(), Some(&None), "{damage}");
        worker.shutdown(Duration::from_hours(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_the_generator_refuses_is_dropped_and_the_same_attempt_starts_over() {
    let mut bench = Bench::new().await;
    let id = left_behind(&mut bench, "hold 2").await;
    // Whole, but of another kind: as one by another version of the server.
    let file = bench.folder.path().join("checkpoints").join(format!("{id}.ckpt"));
    fs::write(&file, [sha256_of_nothing(), Vec::new()].concat()).unwrap();
    let worker = bench.start(KEEPING);
    let held = bench.held().await;
    bench.until_kept(id, 2).await;
    held.release();
    let video = bench.settled(id).await;
    assert_eq!((video.status, video.attempt), (Status::Completed, 2));
    assert_eq!(bench.resumed_from(), [None, None, None], "refused, and begun again");
    worker.shutdown(Duration::from_hours(1)).await;
}

fn sha256_of_nothing() -> Vec<u8> {
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    (0..32).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_that_is_gone_on_with_has_the_pictures_of_one_made_at_once() {
    let mut bench = Bench::new().await;
    let id = left_behind(&mut bench, "hold 2").await;
    let worker = bench.start(KEEPING);
    let resumed = bench.settled(id).await;
    let whole = bench.assert_goes_on().await;
    let whole = bench.queue.get(whole).await.unwrap();
    assert_eq!((resumed.attempt, whole.attempt), (2, 1));
    assert_eq!(bench.resumed_from(), [None, Some(2), None]);
    assert_eq!(pictures(&bench.mp4(&resumed).await), pictures(&bench.mp4(&whole).await));
    worker.shutdown(Duration::from_hours(1)).await;
    assert!(bench.checkpoints().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_come_no_further_are_counted_and_those_that_do_are_not() {
    let mut bench = Bench::new().await;
    let mut id = None;
    // As many lost workers as fail a video that comes no further; each kept one step more.
    for step in 1..=3 {
        let worker = bench.start(KEEPING);
        let this = match id {
            None => bench.enqueue("slow").await,
            Some(id) => id,
        };
        id = Some(this);
        bench.held().await.release();
        let held = bench.held().await;
        bench.until_kept(this, step).await;
        bench.queue.rescue(&Owner::unique()).await.unwrap();
        worker.shutdown(Duration::ZERO).await;
        drop(held);
        let video = bench.queue.get(this).await.unwrap();
        assert_eq!((video.status, video.checkpoint_step), (Status::Queued, Some(step)));
    }
    // The last of them is the first in a row since the last checkpoint.
    let id = id.unwrap();
    for lost in 2..=3 {
        let owner = Owner::unique();
        bench.queue.claim(&owner).await.unwrap().unwrap();
        bench.queue.rescue(&Owner::unique()).await.unwrap();
        let video = bench.queue.get(id).await.unwrap();
        assert_eq!(video.status, if lost < 3 { Status::Queued } else { Status::Failed });
    }
    assert_eq!(bench.queue.get(id).await.unwrap().error.unwrap().code, "worker_lost");
}

#[tokio::test(start_paused = true)]
async fn checkpoints_cost_no_more_than_a_hundredth_of_the_denoising() {
    let _frozen = FrozenTime::new();
    let mut bench = Bench::new().await;
    let ten_seconds = Some(Duration::from_secs(10));
    bench.start(WorkerConfig {
        checkpoint_interval: ten_seconds,
        hang_min: Duration::from_hours(9),
        ..KEEPING
    });
    let id = bench.enqueue("slow").await;
    let mut news = bench.news(id);
    // The steps are held after 0, 1, 2, 3 and 4: so long does each take.
    for (step, seconds) in [(0, 9), (1, 2), (2, 20), (3, 1)] {
        let held = bench.held().await;
        news.at_step(step).await;
        advance(Duration::from_secs(seconds)).await;
        held.release();
    }
    bench.held().await.release();
    assert_eq!(news.end().await.status, Status::Completed);
    // Not after 9 s; after 11 s; after 20 s more; and at the last, though only 1 s later, since nothing is cheap to lose.
    assert_eq!(*bench.baton.kept.lock().unwrap(), [2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_costly_checkpoint_is_taken_rarely() {
    let _frozen = FrozenTime::new();
    let mut bench = Bench::new().await;
    let ten_seconds = Some(Duration::from_secs(10));
    bench.start(WorkerConfig {
        checkpoint_interval: ten_seconds,
        hang_min: Duration::from_hours(9),
        ..KEEPING
    });
    let id = bench.enqueue("costly").await;
    let mut news = bench.news(id);
    // After step 0; in the checkpoint of step 1; after steps 1, 2, 3.
    for (step, seconds) in [(0, 11), (1, 1), (1, 60), (2, 200), (3, 1)] {
        let held = bench.held().await;
        if bench.baton.kept.lock().unwrap().is_empty() || step > 1 {
            news.at_step(step).await;
        }
        advance(Duration::from_secs(seconds)).await;
        held.release();
    }
    bench.held().await.release();
    assert_eq!(news.end().await.status, Status::Completed);
    // It took 1 s, so that the next one had to wait for 200 s of denoising in all; that one was cheap.
    assert_eq!(*bench.baton.kept.lock().unwrap(), [1, 3, 4]);
}
