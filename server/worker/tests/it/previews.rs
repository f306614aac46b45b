//! Pictures of a video in the making, for whoever wants to see them.

use std::time::Duration;

use tokio::time::advance;
use worker::WorkerConfig;

use crate::bench::{Bench, CONFIG, FrozenTime, Told};

#[tokio::test(flavor = "multi_thread")]
async fn nobody_s_wish_costs_nothing_and_a_wish_brings_pictures() {
    let mut bench = Bench::new().await;
    bench.start(CONFIG);
    bench.assert_goes_on().await;
    assert!(bench.baton.previewed.lock().unwrap().is_empty());

    let id = bench.enqueue("slow").await;
    bench.held().await.release();
    let mut news = bench.news(id);
    let held = bench.held().await;
    let wish = bench.queue.wish_previews(queue::Topic::Video(id));
    held.release();
    let held = bench.held().await;
    let (step, jpeg) = loop {
        if let Told::Preview(step, jpeg) = news.next().await {
            break (step, jpeg);
        }
    };
    assert_eq!((step, &jpeg[..2]), (2, [0xFF, 0xD8].as_slice()));
    drop(wish);
    held.release();
    bench.held().await.release();
    bench.held().await.release();
    news.end().await;
    assert_eq!(*bench.baton.previewed.lock().unwrap(), [2]);
}

#[tokio::test(start_paused = true)]
async fn previews_keep_their_distance() {
    let _frozen = FrozenTime::new();
    let mut bench = Bench::new().await;
    bench.start(WorkerConfig { preview_interval: Duration::from_secs(1), ..CONFIG });
    let id = bench.enqueue("slow").await;
    let _wish = bench.queue.wish_previews(queue::Topic::Video(id));
    let mut news = bench.news(id);
    for (step, ms) in [(0, 600), (1, 600), (2, 600), (3, 600)] {
        let held = bench.held().await;
        news.at_step(step).await;
        advance(Duration::from_millis(ms)).await;
        held.release();
    }
    bench.held().await.release();
    news.end().await;
    assert_eq!(*bench.baton.previewed.lock().unwrap(), [2, 4]);
}
