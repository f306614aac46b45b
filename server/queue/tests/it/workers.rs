//! Several workers of one life on the same line: who gets what, what stays whose, and how the wait is told.

use std::{collections::HashSet, time::Duration};

use queue::{Error, Finished, Owner, QueueOptions, Rescued, Status, Timings, Video};

use crate::bench::{Bench, OPTIONS, denoise, finished};

/// A bound on a hanging test, no part of any behaviour.
const PATIENCE: Duration = Duration::from_mins(1);

fn crew(count: u32) -> Vec<Owner> {
    let first = Owner::unique();
    (0..count).map(|number| first.worker(number)).collect()
}

#[tokio::test]
async fn a_worker_leaves_the_others_of_its_life_alone_and_rescues_those_of_another() {
    let bench = Bench::new().await;
    let (a, b) = (bench.enqueue("a").await, bench.enqueue("b").await);
    let workers = crew(2);
    let first = bench.claim(&workers[0]).await;
    assert_eq!(bench.queue.rescue(&workers[1]).await.unwrap(), Rescued::default());
    let second = bench.claim(&workers[1]).await;
    assert_eq!((first.video.id, second.video.id), (a.id, b.id));
    // They are not each other: neither may write to the other's row.
    assert_eq!(bench.queue.rescue(&workers[0]).await.unwrap(), Rescued::default());
    bench.queue.heartbeat(&first.lease).await.unwrap();
    bench.queue.heartbeat(&second.lease).await.unwrap();

    let bench = bench.kill_and_reopen().await;
    let next = crew(2);
    assert_eq!(bench.queue.rescue(&next[1]).await.unwrap(), Rescued { requeued: 2, ..Rescued::default() });
    assert_eq!(bench.queue.rescue(&next[0]).await.unwrap(), Rescued::default());
    assert!(matches!(bench.queue.heartbeat(&first.lease).await, Err(Error::LeaseLost { .. })));
}

#[tokio::test]
async fn a_silent_worker_loses_its_video_to_another_and_is_fenced_out() {
    let bench = Bench::new().await;
    bench.enqueue("a").await;
    bench.enqueue("b").await;
    let workers = crew(2);
    let (silent, alive) = (bench.claim(&workers[0]).await, bench.claim(&workers[1]).await);
    bench.clock.advance_ms(OPTIONS.lease_ms);
    bench.queue.heartbeat(&alive.lease).await.unwrap();
    bench.clock.advance_ms(1);
    assert_eq!(bench.queue.rescue(&workers[1]).await.unwrap().requeued, 1);
    let again = bench.claim(&workers[1]).await;
    assert_eq!((again.video.id, again.video.attempt), (silent.video.id, 2));
    let late = bench.queue.complete(&silent.lease, finished(1)).await;
    assert!(matches!(late, Err(Error::LeaseLost { .. })), "{late:?}");
    bench.queue.complete(&alive.lease, finished(1)).await.unwrap();
    bench.queue.complete(&again.lease, finished(2)).await.unwrap();
}

#[tokio::test]
async fn a_video_that_is_abandoned_waits_at_its_place_and_does_not_take_worker_after_worker() {
    let bench = Bench::with(QueueOptions { max_attempts: 2, ..OPTIONS }).await;
    let id = bench.enqueue("a").await.id;
    bench.enqueue("b").await;
    let workers = crew(3);
    let first = bench.claim(&workers[0]).await;
    let other = bench.claim(&workers[2]).await;
    bench.queue.abandon(&first.lease).await.unwrap();
    let waiting = bench.queue.get(id).await.unwrap();
    assert_eq!((waiting.status, waiting.started_at_ms), (Status::Queued, None));
    assert!(matches!(bench.queue.abandon(&first.lease).await, Err(Error::LeaseLost { .. })));

    let second = bench.claim(&workers[1]).await;
    assert_eq!((second.video.id, second.video.attempt), (id, 2));
    bench.queue.abandon(&second.lease).await.unwrap();
    let end = bench.queue.get(id).await.unwrap();
    assert_eq!((end.status, end.error.unwrap().code.as_str()), (Status::Failed, "worker_lost"));
    bench.queue.complete(&other.lease, finished(1)).await.unwrap();
}

#[tokio::test]
async fn a_cancelled_video_that_is_abandoned_is_cancelled() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    let claim = bench.claim(&Owner::unique()).await;
    bench.queue.request_cancel(id, None).await.unwrap();
    bench.queue.abandon(&claim.lease).await.unwrap();
    assert_eq!(bench.queue.get(id).await.unwrap().status, Status::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn four_claimers_take_each_video_once_and_none_is_left_waiting_for_a_call() {
    const VIDEOS: usize = 60;
    let bench = Bench::with(QueueOptions { capacity: 100, ..OPTIONS }).await;
    let (sender, mut taken) = tokio::sync::mpsc::unbounded_channel();
    for owner in crew(4) {
        let (queue, sender) = (bench.queue.clone(), sender.clone());
        tokio::spawn(async move {
            loop {
                queue.rescue(&owner).await.unwrap();
                match queue.claim(&owner).await.unwrap() {
                    Some(claim) => {
                        queue.complete(&claim.lease, finished(1)).await.unwrap();
                        sender.send(claim.video.id).unwrap();
                    }
                    None => queue.work_available().await,
                }
            }
        });
    }
    let mut expected = HashSet::new();
    for n in 0..VIDEOS {
        expected.insert(bench.enqueue(&n.to_string()).await.id);
    }
    let mut seen = HashSet::new();
    for _ in 0..VIDEOS {
        let id = tokio::time::timeout(PATIENCE, taken.recv()).await.expect("it is taken").unwrap();
        assert!(seen.insert(id), "{id} twice");
    }
    assert_eq!(seen, expected);
    assert!(taken.try_recv().is_err());
}

#[tokio::test]
async fn every_idle_worker_is_called_although_the_videos_came_before_any_listened() {
    let bench = Bench::new().await;
    let workers = crew(3);
    for n in 0..3 {
        bench.enqueue(&n.to_string()).await;
    }
    // Three calls that nobody heard are one; each claim makes another as long as something waits.
    for owner in &workers {
        tokio::time::timeout(PATIENCE, bench.queue.work_available()).await.expect("a call");
        bench.claim(owner).await;
    }
    let silence = tokio::time::timeout(Duration::from_millis(20), bench.queue.work_available()).await;
    assert!(silence.is_err(), "nothing waits");
}

#[tokio::test]
async fn the_wait_is_shared_among_the_workers() {
    let bench = Bench::new().await;
    let owner = Owner::unique();
    // A video takes ten seconds here.
    bench.enqueue("measured").await;
    let claim = bench.claim(&owner).await;
    let timings = Timings { denoise_ms: Some(10_000), ..Timings::default() };
    bench.queue.complete(&claim.lease, Finished { timings, ..finished(1) }).await.unwrap();
    let mut videos = Vec::new();
    for n in 0..5 {
        videos.push(bench.enqueue(&n.to_string()).await);
    }
    let etas = |videos: &[Video]| {
        let estimates = bench.queue.estimates(videos);
        let places: Vec<_> = estimates.iter().filter_map(|estimate| estimate.queue_position).collect();
        assert_eq!(places, (1..=videos.len() as u32).collect::<Vec<_>>());
        estimates.iter().map(|estimate| estimate.eta_ms.unwrap() / 1000).collect::<Vec<_>>()
    };
    assert_eq!(etas(&videos), [10, 20, 30, 40, 50]);
    assert_eq!(bench.queue.line_eta_ms(), Some(50_000));
    bench.queue.set_workers(2);
    assert_eq!(etas(&videos), [10, 10, 20, 20, 30]);
    assert_eq!(bench.queue.line_eta_ms(), Some(30_000));
    // One of them is half through with its video, and so the next to be free but for who is free now.
    let running = bench.claim(&owner).await;
    bench.queue.set_progress(&running.lease, denoise(0, 2)).await.unwrap();
    bench.clock.advance_ms(5_000);
    bench.queue.set_progress(&running.lease, denoise(25, 45)).await.unwrap();
    assert_eq!(etas(&videos[1..]), [10, 15, 20, 25]);
    assert_eq!(bench.queue.line_eta_ms(), Some(25_000));
    bench.queue.set_workers(3);
    assert_eq!(etas(&videos[1..]), [10, 10, 15, 20]);
    // With none left the line is told as if there were one again.
    bench.queue.set_workers(0);
    assert_eq!(etas(&videos[1..]), [15, 25, 35, 45]);
}
