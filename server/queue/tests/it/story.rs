//! The life of videos as a user sees it, and the door's limits.

use std::collections::HashSet;

use queue::{
    Counts, Error, Finished, JobError, ListQuery, Lora, NewVideo, Order, Owner, Queue, Stage, State, Status,
    Timings, VideoId,
};

use crate::bench::{Bench, OPTIONS, START_MS, denoise, finished, new_video, output};

#[tokio::test]
async fn a_video_goes_from_the_door_to_its_file() {
    let bench = Bench::new().await;
    let asked = new_video("a panda");
    let queued = bench.put(asked.clone()).await;
    assert_eq!((queued.status, queued.progress, queued.attempt), (Status::Queued, 0, 0));
    assert_eq!((queued.created_at_ms, queued.started_at_ms, queued.total_steps), (START_MS, None, 50));
    assert_eq!(queued.params, asked.params);
    assert_eq!((&queued.metadata, &queued.warnings), (&asked.metadata, &asked.warnings));
    assert_eq!(bench.queue.get(queued.id).await.unwrap(), queued);
    assert_eq!(bench.queue.estimate(&queued).queue_position, Some(1));

    bench.clock.advance_ms(5_000);
    let claim = bench.claim(&Owner::unique()).await;
    assert_eq!(claim.video.id, queued.id);
    assert_eq!((claim.video.status, claim.video.attempt), (Status::InProgress, 1));
    assert_eq!(claim.video.started_at_ms, Some(START_MS + 5_000));
    assert_eq!(bench.queue.estimate(&claim.video).queue_position, None);
    assert_eq!(
        bench.queue.counts().await.unwrap(),
        Counts { queued: 0, in_progress: 1, oldest_queued_at_ms: None, paused: false }
    );

    bench.queue.set_progress(&claim.lease, denoise(25, 45)).await.unwrap();
    let running = bench.queue.get(queued.id).await.unwrap();
    assert_eq!((running.stage, running.step, running.progress), (Some(Stage::Denoise), 25, 45));

    bench.clock.advance_ms(60_000);
    let timings = Timings { queue_ms: Some(5_000), denoise_ms: Some(50_000), ..Timings::default() };
    bench.queue.complete(&claim.lease, Finished { timings, ..finished(1) }).await.unwrap();
    let done = bench.queue.get(queued.id).await.unwrap();
    assert_eq!((done.status, done.progress, done.step), (Status::Completed, 100, 50));
    assert_eq!((done.output, done.timings, done.error), (Some(output(1)), timings, None));
    assert_eq!(done.completed_at_ms, Some(START_MS + 65_000));
    assert_eq!(bench.queue.file_keys().await.unwrap(), ["video_1.mp4", "video_1.webp", "video_1.jpg"]);

    let deleted = bench.queue.delete(queued.id, None).await.unwrap();
    assert_eq!(deleted.output, Some(output(1)));
    assert!(matches!(bench.queue.get(queued.id).await, Err(Error::NotFound(id)) if id == queued.id));
    assert!(matches!(bench.queue.delete(queued.id, None).await, Err(Error::NotFound(_))));
    assert!(matches!(bench.queue.request_cancel(queued.id, None).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn a_video_keeps_its_adapters_with_their_digests() {
    let bench = Bench::new().await;
    let mut asked = new_video("a panda");
    asked.params.lora = vec![
        Lora { name: "motion".into(), scale: 0.8, sha256: "ab".repeat(32) },
        Lora { name: "style".into(), scale: -0.5, sha256: "cd".repeat(32) },
    ];
    let queued = bench.put(asked.clone()).await;
    assert_eq!(queued.params.lora, asked.params.lora);
    // A row from before there were adapters says nothing of them.
    let mut stranger = bench.stranger().await;
    sqlx::query("UPDATE videos SET params = json_remove(params, '$.lora')")
        .execute(&mut stranger)
        .await
        .unwrap();
    assert_eq!(bench.queue.get(queued.id).await.unwrap().params.lora, []);
}

#[tokio::test]
async fn what_was_written_is_there_after_a_kill() {
    let bench = Bench::new().await;
    let waiting = bench.enqueue("one").await;
    let failed = bench.put(NewVideo { priority: 1, ..new_video("two") }).await;
    let claim = bench.claim(&Owner::unique()).await;
    let error = JobError { code: "nan_latents".into(), message: "the latents hold NaN after step 3".into() };
    bench.queue.fail(&claim.lease, error.clone()).await.unwrap();
    let failed = bench.queue.get(failed.id).await.unwrap();
    assert_eq!((failed.status, failed.error.clone()), (Status::Failed, Some(error)));

    let bench = bench.kill_and_reopen().await;
    assert_eq!(bench.queue.get(waiting.id).await.unwrap(), waiting);
    assert_eq!(bench.queue.get(failed.id).await.unwrap(), failed);
    assert_eq!(bench.claim(&Owner::unique()).await.video.id, waiting.id);
}

#[tokio::test]
async fn two_servers_cannot_share_a_database() {
    let bench = Bench::new().await;
    let path = bench.folder.path().join("jobs.db");
    let second = Queue::open(&path, bench.clock.clone(), OPTIONS).await;
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
}

#[tokio::test]
async fn priority_goes_first_and_age_decides_among_equals() {
    let bench = Bench::new().await;
    let (mut expected, mut videos) = (Vec::new(), Vec::new());
    for (prompt, priority) in [("a", 0), ("b", -1), ("c", 5), ("d", 0), ("e", 5)] {
        let video = bench.put(NewVideo { priority, ..new_video(prompt) }).await;
        expected.push((std::cmp::Reverse(priority), video.id));
        videos.push(video);
    }
    expected.sort();
    let together = bench.queue.estimates(&videos);
    for (video, estimate) in videos.iter().zip(together) {
        let place = expected.iter().position(|(_, id)| *id == video.id).unwrap() as u32 + 1;
        assert_eq!(estimate.queue_position, Some(place));
        assert_eq!(bench.queue.estimate(video), estimate);
    }
    let owner = Owner::unique();
    for (_, id) in expected {
        assert_eq!(bench.claim(&owner).await.video.id, id);
    }
    assert!(bench.queue.claim(&owner).await.unwrap().is_none());
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_running_video_does_not_fill_it() {
    let bench = Bench::with(queue::QueueOptions { capacity: 2, ..OPTIONS }).await;
    bench.enqueue("a").await;
    bench.enqueue("b").await;
    let refused = bench.queue.enqueue(new_video("c"), None).await;
    assert!(matches!(refused, Err(Error::QueueFull { capacity: 2 })), "{refused:?}");
    bench.claim(&Owner::unique()).await;
    bench.enqueue("c").await;
}

#[tokio::test]
async fn pages_neither_repeat_nor_miss() {
    let bench = Bench::new().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(bench.enqueue(&n.to_string()).await.id);
    }
    for order in [Order::Ascending, Order::Descending] {
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let page = bench
                .queue
                .list(ListQuery { after, limit: 2, order, owner: None, states: Vec::new() })
                .await
                .unwrap();
            seen.extend(page.videos.iter().map(|v| v.id));
            after = seen.last().copied();
            if !page.has_more {
                break;
            }
            assert_eq!(page.videos.len(), 2);
        }
        assert_eq!(seen, ids);
        ids.reverse();
    }
    let exact = bench
        .queue
        .list(ListQuery { after: None, limit: 5, order: Order::Ascending, owner: None, states: Vec::new() })
        .await
        .unwrap();
    assert!(!exact.has_more);
    let unknown: VideoId = "video_0190163d8694739bae3c4d5e6f708192".parse().unwrap();
    let behind = ListQuery {
        after: Some(unknown),
        limit: 5,
        order: Order::Ascending,
        owner: None,
        states: Vec::new(),
    };
    assert!(matches!(bench.queue.list(behind).await, Err(Error::NotFound(id)) if id == unknown));
}

#[tokio::test]
async fn a_list_may_be_of_some_states_only() {
    let bench = Bench::new().await;
    let (running, cancelled, waiting) =
        (bench.enqueue("a").await, bench.enqueue("b").await, bench.enqueue("c").await);
    bench.claim(&Owner::unique()).await;
    bench.queue.request_cancel(cancelled.id, None).await.unwrap();
    let of = async |states: &[State]| {
        let query = ListQuery {
            after: None,
            limit: 9,
            order: Order::Ascending,
            owner: None,
            states: states.to_vec(),
        };
        let videos = bench.queue.list(query).await.unwrap().videos;
        assert!(states.is_empty() || videos.iter().all(|video| states.contains(&video.state())));
        videos.iter().map(|video| video.id).collect::<Vec<_>>()
    };
    assert_eq!(of(&[]).await, [running.id, cancelled.id, waiting.id]);
    assert_eq!(of(&[State::Queued, State::Cancelled]).await, [cancelled.id, waiting.id]);
    assert_eq!(of(&[State::InProgress]).await, [running.id]);
    bench.queue.request_cancel(running.id, None).await.unwrap();
    assert_eq!(of(&[State::InProgress]).await, []);
    assert_eq!(of(&[State::Cancelling]).await, [running.id]);
    assert_eq!(of(&[State::Completed, State::Expired]).await, []);
}

#[tokio::test]
async fn only_settled_videos_are_deleted() {
    let bench = Bench::new().await;
    let video = bench.enqueue("a").await;
    let waiting = bench.queue.delete(video.id, None).await;
    assert!(matches!(waiting, Err(Error::NotTerminal { status: Status::Queued, .. })), "{waiting:?}");
    let claim = bench.claim(&Owner::unique()).await;
    let running = bench.queue.delete(video.id, None).await;
    assert!(matches!(running, Err(Error::NotTerminal { status: Status::InProgress, .. })), "{running:?}");
    bench.queue.cancelled(&claim.lease).await.unwrap();
    bench.queue.delete(video.id, None).await.unwrap();
}

#[test]
fn an_id_has_one_spelling() {
    let text = "video_0190163d8694739bae3c4d5e6f708192";
    assert_eq!(text.parse::<VideoId>().unwrap().to_string(), text);
    for wrong in [
        "",
        "video_",
        "0190163d8694739bae3c4d5e6f708192",
        "video_0190163D8694739BAE3C4D5E6F708192",
        "video_0190163d-8694-739b-ae3c-4d5e6f708192",
        "video_0190163d8694739bae3c4d5e6f70819",
        "video_0190163d8694739bae3c4d5e6f70819g",
        "Video_0190163d8694739bae3c4d5e6f708192",
    ] {
        assert!(matches!(wrong.parse::<VideoId>(), Err(Error::InvalidId(_))), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_video_is_claimed_once_however_many_ask() {
    let bench = Bench::new().await;
    let mut asked = HashSet::new();
    for n in 0..200 {
        asked.insert(bench.enqueue(&n.to_string()).await.id);
    }
    let claimers: Vec<_> = (0..8)
        .map(|_| {
            let queue = bench.queue.clone();
            tokio::spawn(async move {
                let owner = Owner::unique();
                let mut mine = Vec::new();
                while let Some(claim) = queue.claim(&owner).await.unwrap() {
                    assert_eq!(claim.video.attempt, 1);
                    mine.push(claim.video.id);
                    tokio::task::yield_now().await;
                }
                mine
            })
        })
        .collect();
    let mut claimed = Vec::new();
    for claimer in claimers {
        claimed.extend(claimer.await.unwrap());
    }
    assert_eq!(claimed.len(), 200);
    assert_eq!(claimed.into_iter().collect::<HashSet<_>>(), asked);
}
