//! A generator that comes no further. The runtime's clock stands still but for what a test moves it.

use std::time::Duration;

use queue::{Stage, Status};
use tokio::time::advance;
use worker::{Readiness, WorkerConfig};

use crate::bench::{Bench, CONFIG, FrozenTime};

const WATCHED: WorkerConfig = WorkerConfig {
    interrupt_wait: Duration::from_secs(5),
    hang_factor: 10,
    hang_min: Duration::from_mins(1),
    ..CONFIG
};

#[tokio::test(start_paused = true)]
async fn a_hanging_generator_that_still_listens_costs_one_video() {
    let _frozen = FrozenTime::new();
    let mut bench = Bench::new().await;
    let worker = bench.start(WATCHED);
    // The first video shows what a step takes: nothing, so that the least time counts.
    bench.assert_goes_on().await;
    let id = bench.enqueue("hold").await;
    let mut news = bench.news(id);
    let _held = bench.held().await;
    news.at_step(1).await;
    advance(Duration::from_secs(61)).await;
    let video = news.end().await;
    let error = video.error.unwrap();
    assert_eq!((video.status, error.code.as_str()), (Status::Failed, "worker_hung"));
    assert!(error.message.contains("61 seconds"), "{}", error.message);
    bench.assert_goes_on().await;
    assert_eq!(*worker.ready.borrow(), Readiness::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_generator_that_never_comes_back_ends_the_worker_and_settles_its_video() {
    let _frozen = FrozenTime::new();
    let mut bench = Bench::new().await;
    let mut worker = bench.start(WATCHED);
    bench.assert_goes_on().await;
    let id = bench.enqueue("deaf").await;
    let waiting = bench.enqueue("make").await;
    let mut news = bench.news(id);
    let held = bench.held().await;
    news.at_step(1).await;
    advance(Duration::from_secs(61)).await;
    assert_eq!(news.end().await.error.unwrap().code, "worker_hung");
    assert_eq!(*worker.ready.borrow(), Readiness::Ready, "it has a while to come back");
    // The wait begins some time after the news of the end, so the clock is moved until it is over.
    let failed = loop {
        tokio::select! {
            state = worker.ready.wait_for(|state| *state != Readiness::Ready) => break state.unwrap().clone(),
            () = advance(Duration::from_secs(1)) => {}
        }
    };
    assert!(matches!(&failed, Readiness::Hung(why) if why.contains("hangs")), "{failed:?}");
    assert_eq!(bench.queue.get(waiting).await.unwrap().status, Status::Queued);
    held.release();
}

#[tokio::test(start_paused = true)]
async fn slow_steps_are_no_hang() {
    let _frozen = FrozenTime::new();
    let mut bench = Bench::new().await;
    bench.start(WATCHED);
    // Nobody knows what a step takes here; that it asks whether to stop shows that it lives.
    let id = bench.enqueue("slow").await;
    let mut news = bench.news(id);
    for step in 0..4 {
        let held = bench.held().await;
        news.at_step(step).await;
        for _ in 0..5 {
            // Ten times the step before, in the end: within the factor.
            advance(Duration::from_secs(59)).await;
            bench.baton.calls_once_more().await;
        }
        held.release();
    }
    let held = bench.held().await;
    news.at_step(4).await;
    advance(Duration::from_secs(295 * 9)).await;
    held.release();
    assert_eq!(news.end().await.status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_hang_in_the_decoder_is_noticed_and_a_cancelled_video_is_cancelled() {
    let _frozen = FrozenTime::new();
    let mut bench = Bench::new().await;
    bench.start(WATCHED);
    bench.assert_goes_on().await;
    let id = bench.enqueue("deaf vae").await;
    let mut news = bench.news(id);
    let held = bench.held().await;
    news.until(|progress| progress.stage == Stage::VaeDecode && progress.percent > 88).await;
    bench.queue.request_cancel(id, None).await.unwrap();
    advance(Duration::from_secs(61)).await;
    assert_eq!(news.end().await.status, Status::Cancelled);
    held.release();
    bench.assert_goes_on().await;
}

#[tokio::test(start_paused = true)]
async fn loading_a_model_is_no_hang_however_long_it_takes_and_what_follows_is_watched() {
    let _frozen = FrozenTime::new();
    let mut bench = Bench::new().await;
    bench.start(WATCHED);
    bench.assert_goes_on().await;
    let id = bench.enqueue("slow load").await;
    let mut news = bench.news(id);
    let loading = bench.held().await;
    news.until(|progress| progress.stage == Stage::LoadModel).await;
    advance(Duration::from_hours(2)).await;
    bench.baton.calls_once_more().await;
    loading.release();
    let _held = bench.held().await;
    news.at_step(0).await;
    advance(Duration::from_secs(61)).await;
    let error = news.end().await.error.unwrap();
    assert_eq!(error.code, "worker_hung");
    assert!(error.message.contains("61 seconds"), "{}", error.message);
}
