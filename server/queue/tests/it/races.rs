//! Many at once: every video runs once, every request makes one video, and everybody hears the same story.

use std::collections::{HashMap, HashSet};

use queue::{EventKind, Heard, KeyLimits, NewVideo, News, Owner, QueueOptions, Submission, Topic, VideoId};

use crate::bench::{Bench, OPTIONS, finished, new_video};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_videos_and_eight_claimers_make_each_video_once() {
    const VIDEOS: usize = 1_000;
    let bench = Bench::with(QueueOptions { capacity: VIDEOS as u32, ..OPTIONS }).await;
    let key = bench.key("one", KeyLimits { max_running: Some(3), ..KeyLimits::default() }).await;
    let mut asked = HashSet::new();
    for n in 0..VIDEOS {
        asked.insert(bench.put_for((n % 3 == 0).then_some(&key), &n.to_string()).await.id);
    }
    let claimers: Vec<_> = (0..8)
        .map(|_| {
            let queue = bench.queue.clone();
            tokio::spawn(async move {
                let owner = Owner::unique();
                let mut mine = Vec::new();
                while queue.counts().await.unwrap().queued > 0 {
                    // Nothing, where the key that is left has as many running as it may.
                    let Some(claim) = queue.claim(&owner).await.unwrap() else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    assert_eq!(claim.video.attempt, 1);
                    tokio::task::yield_now().await;
                    queue.complete(&claim.lease, finished(1_000)).await.unwrap();
                    mine.push(claim.video.id);
                }
                mine
            })
        })
        .collect();
    let mut made = Vec::new();
    for claimer in claimers {
        made.extend(claimer.await.unwrap());
    }
    assert_eq!(made.len(), VIDEOS);
    assert_eq!(made.into_iter().collect::<HashSet<_>>(), asked);

    // The table tells each story in full and in order, and never more than three of the key at once.
    let events = bench.queue.events_after(&Topic::All, 0, 10_000).await.unwrap();
    let mut stories: HashMap<VideoId, Vec<EventKind>> = HashMap::new();
    let (mut running, mut last) = (0, 0);
    for event in events {
        assert!(event.seq > last);
        last = event.seq;
        if event.owner.is_some() {
            running += i32::from(event.kind == EventKind::Started) - i32::from(event.kind.is_end());
            assert!(running <= 3);
        }
        stories.entry(event.video_id).or_default().push(event.kind);
    }
    assert_eq!(stories.len(), VIDEOS);
    assert!(stories.values().all(|s| *s == [EventKind::Queued, EventKind::Started, EventKind::Completed]));
    assert_eq!(bench.queue.files_bytes().await.unwrap(), 1_100 * VIDEOS as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_requests_with_one_idempotency_key_make_one_video() {
    let bench = Bench::new().await;
    for round in 0..20 {
        let requests: Vec<_> = (0..16)
            .map(|_| {
                let queue = bench.queue.clone();
                let submission = Submission {
                    fingerprint: "f".into(),
                    idempotency_key: Some(format!("k{round}")),
                    retry_count: 0,
                };
                let new = NewVideo { submission: Some(submission), ..new_video("a") };
                tokio::spawn(async move { queue.enqueue(new, None).await.unwrap() })
            })
            .collect();
        let (mut ids, mut made) = (HashSet::new(), 0);
        for request in requests {
            let enqueued = request.await.unwrap();
            ids.insert(enqueued.video.id);
            made += usize::from(!enqueued.replayed);
        }
        assert_eq!((ids.len(), made), (1, 1), "round {round}");
    }
    assert_eq!(bench.queue.counts().await.unwrap().queued, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_news_are_the_table_in_the_tables_order() {
    let bench = Bench::new().await;
    let mut all = bench.queue.subscribe(Topic::All);
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let queue = bench.queue.clone();
            tokio::spawn(async move {
                let owner = Owner::unique();
                for m in 0..10 {
                    let id = queue.enqueue(new_video(&format!("{n} {m}")), None).await.unwrap().video.id;
                    if m % 2 == 0 {
                        queue.request_cancel(id, None).await.unwrap();
                    }
                    if let Some(claim) = queue.claim(&owner).await.unwrap()
                        && queue.complete(&claim.lease, finished(1)).await.is_err()
                    {
                        queue.cancelled(&claim.lease).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for event in bench.queue.events_after(&Topic::All, 0, 10_000).await.unwrap() {
        let Some(Heard::News(item)) = all.recv().await else { panic!("event {} was not told", event.seq) };
        let News::Event { event: told, video } = &item.news else { panic!("{item:?}") };
        assert_eq!(**told, event);
        assert_eq!(video.id, event.video_id);
    }
}
