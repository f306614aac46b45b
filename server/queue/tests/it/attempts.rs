//! What one attempt leaves to the next: checkpoints, progress, and how many may be lost.

use queue::{EventKind, Owner, QueueOptions, Rescued, Status};

use crate::bench::{Bench, OPTIONS, START_MS, denoise};

const THREE: QueueOptions = QueueOptions { max_attempts: 3, ..OPTIONS };

/// Claims the only video, does what a worker does, and dies.
async fn lose(bench: Bench, checkpoint: Option<u32>) -> (Bench, Rescued) {
    let claim = bench.claim(&Owner::unique()).await;
    match checkpoint {
        Some(step) => bench.queue.keep_checkpoint(&claim.lease, step).await.unwrap(),
        None => bench.queue.drop_checkpoint(&claim.lease).await.unwrap(),
    }
    let bench = bench.kill_and_reopen().await;
    let rescued = bench.queue.rescue(&Owner::unique()).await.unwrap();
    (bench, rescued)
}

#[tokio::test]
async fn who_gets_further_each_time_may_be_lost_any_number_of_times() {
    let mut bench = Bench::with(THREE).await;
    let id = bench.enqueue("a").await.id;
    for step in 1..=6 {
        let rescued;
        (bench, rescued) = lose(bench, Some(step)).await;
        assert_eq!(rescued.requeued, 1, "step {step}");
        let video = bench.queue.get(id).await.unwrap();
        assert_eq!((video.checkpoint_step, video.step, video.stage), (Some(step), step, None));
    }
}

#[tokio::test]
async fn three_lost_attempts_that_came_no_further_are_the_end() {
    let mut bench = Bench::with(THREE).await;
    let id = bench.enqueue("a").await.id;
    // The fifth step is news once; to come there again is not.
    for (step, requeued) in [(5, 1), (5, 1), (3, 0)] {
        let rescued;
        (bench, rescued) = lose(bench, Some(step)).await;
        assert_eq!((rescued.requeued, rescued.failed), (requeued, 1 - requeued), "step {step}");
    }
    let video = bench.queue.get(id).await.unwrap();
    let error = video.error.unwrap();
    assert_eq!((error.code.as_str(), video.completed_at_ms), ("worker_lost", Some(START_MS)));
    assert!(error.message.contains("3 times in a row"), "{}", error.message);
    assert_eq!((video.status, video.checkpoint_step, video.attempt), (Status::Failed, None, 3));
    assert_eq!(video.started_at_ms, Some(START_MS), "what is known of the last attempt stays");
    let kinds = bench.kinds(id).await;
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::Started).count(), 3);
    assert_eq!(kinds.last(), Some(&EventKind::Failed));
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_read_does_not_buy_attempts_for_ever() {
    let mut bench = Bench::with(THREE).await;
    let id = bench.enqueue("a").await.id;
    (bench, _) = lose(bench, Some(20)).await;
    for attempt in 2.. {
        // It drops the broken file, comes to step 10 again, and dies.
        let claim = bench.claim(&Owner::unique()).await;
        bench.queue.drop_checkpoint(&claim.lease).await.unwrap();
        assert_eq!(bench.queue.get(id).await.unwrap().checkpoint_step, None);
        bench.queue.keep_checkpoint(&claim.lease, 10).await.unwrap();
        bench = bench.kill_and_reopen().await;
        if bench.queue.rescue(&Owner::unique()).await.unwrap().failed == 1 {
            assert_eq!(attempt, 3);
            break;
        }
        assert_eq!(bench.queue.get(id).await.unwrap().checkpoint_step, Some(10));
    }
}

#[tokio::test]
async fn progress_never_falls_whatever_ends_an_attempt() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    let owner = Owner::unique();
    let shown = async |bench: &Bench| bench.queue.get(id).await.unwrap().progress;

    // The first report of a stage is written at once, the second not before a second is over.
    let claim = bench.claim(&owner).await;
    bench.queue.set_progress(&claim.lease, denoise(1, 2)).await.unwrap();
    bench.queue.set_progress(&claim.lease, denoise(30, 50)).await.unwrap();
    bench.queue.requeue(&claim.lease).await.unwrap();
    assert_eq!(shown(&bench).await, 50);

    let claim = bench.claim(&owner).await;
    bench.queue.set_progress(&claim.lease, denoise(3, 7)).await.unwrap();
    assert_eq!(shown(&bench).await, 50);
    bench.queue.set_progress(&claim.lease, denoise(31, 52)).await.unwrap();
    bench.clock.advance_ms(OPTIONS.lease_ms + 1);
    assert_eq!(bench.queue.rescue(&owner).await.unwrap().requeued, 1);
    assert_eq!(shown(&bench).await, 52);

    let claim = bench.claim(&owner).await;
    bench.queue.set_progress(&claim.lease, denoise(1, 2)).await.unwrap();
    bench.queue.set_progress(&claim.lease, denoise(40, 66)).await.unwrap();
    bench.queue.request_cancel(id, None).await.unwrap();
    bench.queue.cancelled(&claim.lease).await.unwrap();
    let end = bench.queue.get(id).await.unwrap();
    assert_eq!((end.progress, end.step, end.status), (66, 40, Status::Cancelled));
}

#[tokio::test]
async fn out_of_memory_goes_back_once_with_a_warning() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    let owner = Owner::unique();
    let claim = bench.claim(&owner).await;
    assert!(!claim.video.low_memory);
    bench.queue.keep_checkpoint(&claim.lease, 50).await.unwrap();
    bench.queue.requeue_in_low_memory(&claim.lease, "decoded in tiles").await.unwrap();
    let waiting = bench.queue.get(id).await.unwrap();
    assert_eq!(waiting.warnings, ["seconds were raised to 6", "decoded in tiles"]);
    assert_eq!((waiting.status, waiting.low_memory), (Status::Queued, true));
    let event = bench.events(id).await.pop().unwrap();
    assert_eq!((event.kind, event.detail.as_deref()), (EventKind::Queued, Some("out_of_memory")));

    // It stays in that mode, through an orderly stop too, and knows where to go on.
    let claim = bench.claim(&owner).await;
    assert_eq!((claim.video.low_memory, claim.video.checkpoint_step), (true, Some(50)));
    bench.queue.requeue(&claim.lease).await.unwrap();
    let waiting = bench.queue.get(id).await.unwrap();
    assert_eq!((waiting.low_memory, waiting.warnings.len()), (true, 2));
}

#[tokio::test]
async fn a_video_that_is_to_be_cancelled_ends_when_it_is_given_back() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    let claim = bench.claim(&Owner::unique()).await;
    bench.queue.keep_checkpoint(&claim.lease, 5).await.unwrap();
    bench.queue.set_progress(&claim.lease, denoise(6, 12)).await.unwrap();
    bench.queue.request_cancel(id, Some("ops")).await.unwrap();
    bench.queue.requeue_in_low_memory(&claim.lease, "decoded in tiles").await.unwrap();
    let end = bench.queue.get(id).await.unwrap();
    assert_eq!((end.status, end.checkpoint_step, end.step), (Status::Cancelled, None, 6));
    assert!(!end.low_memory && end.warnings.len() == 1);
    let told: Vec<_> = bench.events(id).await.into_iter().map(|e| (e.kind, e.actor)).collect();
    assert_eq!(told[2], (EventKind::Cancelling, Some("ops".into())));
    assert_eq!(told[3], (EventKind::Cancelled, None));
    assert_eq!(told.len(), 4);
}
