//! What subscribers and readers learn, and in which order.

use queue::{Error, EventKind, Heard, News, Owner, Progress, Stage, Status, Subscription, Topic};

use crate::bench::{Bench, denoise, finished};

/// An event in a form that a test can compare.
async fn next(news: &mut Subscription) -> String {
    let Heard::News(item) = news.recv().await.expect("the queue lives") else { return "lagged".into() };
    match &item.news {
        News::Event { event, video } => {
            assert_eq!((event.video_id, event.attempt), (video.id, video.attempt));
            format!("{} {}", event.kind.as_str(), event.attempt)
        }
        News::Progress { attempt, progress, .. } => {
            format!("{attempt}: {} {} at {}", progress.stage, progress.step, progress.percent)
        }
        News::Preview { attempt, step, jpeg } => format!("{attempt}: {step} as {} bytes", jpeg.len()),
    }
}

#[tokio::test]
async fn a_subscriber_hears_the_whole_story_of_its_video_and_of_no_other() {
    let bench = Bench::new().await;
    let (video, other) = (bench.enqueue("a").await, bench.enqueue("b").await);
    let mut news = bench.queue.subscribe(Topic::Video(video.id));
    news.seen(0, Some(&video));

    let owner = Owner::unique();
    let first = bench.claim(&owner).await;
    bench.queue.set_progress(&first.lease, denoise(30, 50)).await.unwrap();
    bench.queue.requeue(&first.lease).await.unwrap();
    bench.queue.request_cancel(other.id, None).await.unwrap();
    let second = bench.claim(&owner).await;
    bench.queue.set_progress(&second.lease, denoise(1, 5)).await.unwrap();
    bench.queue.request_cancel(video.id, None).await.unwrap();
    bench.queue.request_cancel(video.id, None).await.unwrap();
    bench.queue.cancelled(&second.lease).await.unwrap();

    for expected in [
        "started 1",
        "1: denoise 30 at 50",
        "queued 1",
        "started 2",
        "2: denoise 1 at 50",
        "cancelling 2",
        "cancelled 2",
    ] {
        assert_eq!(next(&mut news).await, expected);
    }
    drop(bench);
    assert!(news.recv().await.is_none());
}

#[tokio::test]
async fn progress_never_goes_backwards() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    let claim = bench.claim(&Owner::unique()).await;
    let mut news = bench.queue.subscribe(Topic::Video(id));
    let decode = Progress { stage: Stage::VaeDecode, step: 50, total_steps: 50, percent: 200 };
    for report in [denoise(5, 10), denoise(4, 8), denoise(6, 9), denoise(6, 9), decode, denoise(50, 95)] {
        bench.queue.set_progress(&claim.lease, report).await.unwrap();
    }
    bench.queue.complete(&claim.lease, finished(1)).await.unwrap();
    for expected in ["1: denoise 5 at 10", "1: denoise 6 at 10", "1: vae_decode 50 at 99", "completed 1"] {
        assert_eq!(next(&mut news).await, expected);
    }
}

#[tokio::test]
async fn readers_see_what_subscribers_see_although_the_row_is_written_once_a_second() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    let claim = bench.claim(&Owner::unique()).await;
    for step in 1..=9 {
        bench.queue.set_progress(&claim.lease, denoise(step, step as u8)).await.unwrap();
        bench.clock.advance_ms(300);
    }
    let everything = queue::ListQuery {
        after: None,
        limit: 1,
        order: queue::Order::Ascending,
        owner: None,
        states: Vec::new(),
    };
    assert_eq!(bench.queue.get(id).await.unwrap().progress, 9);
    assert_eq!(bench.queue.list(everything).await.unwrap().videos[0].progress, 9);

    // Reports at 0 (a new stage), 1200 and 2400 ms were written: the last of them at step 9.
    let claimed = bench.queue.get(id).await.unwrap();
    bench.queue.set_progress(&claim.lease, denoise(10, 10)).await.unwrap();
    let bench = bench.kill_and_reopen().await;
    let row = bench.queue.get(id).await.unwrap();
    assert_eq!((claimed.step, row.step, row.progress), (9, 9, 9));
}

#[tokio::test]
async fn what_the_row_already_says_is_not_told_again() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    let mut news = bench.queue.subscribe(Topic::Video(id));
    let claim = bench.claim(&Owner::unique()).await;
    bench.queue.set_progress(&claim.lease, denoise(1, 2)).await.unwrap();
    bench.queue.set_progress(&claim.lease, denoise(2, 4)).await.unwrap();
    bench.queue.request_cancel(id, None).await.unwrap();
    let (video, seq) = bench.queue.snapshot(id).await.unwrap();
    news.seen(seq, Some(&video));
    bench.queue.set_progress(&claim.lease, denoise(3, 6)).await.unwrap();
    assert_eq!(next(&mut news).await, "1: denoise 3 at 6");
}

#[tokio::test]
async fn a_slow_subscriber_is_told_so_and_still_hears_the_end() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    let claim = bench.claim(&Owner::unique()).await;
    let mut news = bench.queue.subscribe(Topic::Video(id));
    for step in 1..=3000 {
        bench.queue.set_progress(&claim.lease, denoise(step, 50)).await.unwrap();
    }
    bench.queue.complete(&claim.lease, finished(1)).await.unwrap();
    assert_eq!(next(&mut news).await, "lagged");
    let mut last = String::new();
    while !last.starts_with("completed") {
        last = next(&mut news).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_subscribes_before_reading_never_misses_the_end() {
    let bench = Bench::new().await;
    let owner = Owner::unique();
    for n in 0..100 {
        let id = bench.enqueue(&n.to_string()).await.id;
        let claim = bench.claim(&owner).await;
        let queue = bench.queue.clone();
        let watcher = tokio::spawn(async move {
            let mut news = queue.subscribe(Topic::Video(id));
            let (mut video, seq) = queue.snapshot(id).await.unwrap();
            news.seen(seq, Some(&video));
            while !video.status.is_terminal() {
                let Some(Heard::News(item)) = news.recv().await else {
                    panic!("the queue is gone, or too fast")
                };
                match &item.news {
                    News::Event { event, video: now } => {
                        assert!(event.kind == EventKind::Started || now.status.is_terminal());
                        video = (**now).clone();
                    }
                    News::Progress { progress, .. } => {
                        assert!(progress.percent > video.progress, "{progress:?} after {}", video.progress);
                        video.progress = progress.percent;
                    }
                    News::Preview { .. } => {}
                }
            }
            video.status
        });
        for step in 1..=5 {
            bench.queue.set_progress(&claim.lease, denoise(step, step as u8)).await.unwrap();
        }
        bench.queue.complete(&claim.lease, finished(1)).await.unwrap();
        assert_eq!(watcher.await.unwrap(), Status::Completed);
    }
}

#[tokio::test]
async fn an_enqueued_video_wakes_a_worker_even_if_it_did_not_wait_yet() {
    let bench = Bench::new().await;
    bench.enqueue("a").await;
    bench.queue.work_available().await;
    let claim = bench.claim(&Owner::unique()).await;
    bench.queue.requeue(&claim.lease).await.unwrap();
    bench.queue.work_available().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_a_change_halfway() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    let claim = bench.claim(&Owner::unique()).await;
    // The handler's future is polled once, enough to set the change going, and dropped.
    let handler = bench.queue.request_cancel(id, None);
    tokio::select! { biased; _ = handler => {}, () = std::future::ready(()) => {} }
    let heard = tokio::time::timeout(std::time::Duration::from_secs(10), claim.cancel.cancelled()).await;
    assert!(heard.is_ok(), "the worker hears of it all the same");
    let late = bench.queue.complete(&claim.lease, finished(1)).await;
    assert!(matches!(late, Err(Error::CancelRequested(_))), "{late:?}");
}
