//! The state machine as a whole: random stories, told to the queue and to a model of it, which must agree after each
//! word.

use queue::{
    Claim, Error, EventKind, Heard, JobError, KeyId, KeyLimits, ListQuery, NewVideo, News, Order, Owner,
    QueueOptions, Status, Subscription, Topic, Video, VideoId,
};

use crate::{
    bench::{Bench, OPTIONS, denoise, finished, new_video},
    model::{CAPACITY, FILES_BYTES, LIMITS, MAX_ATTEMPTS, Model},
};

const STORIES: u64 = 80;
const WORDS: usize = 60;

/// `SplitMix64`: the same story for the same seed, on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

struct Story {
    bench: Bench,
    model: Model,
    dice: Dice,
    keys: Vec<Option<KeyId>>,
    ids: Vec<VideoId>,
    /// Every claim ever; and for each video, the one that holds it.
    claims: Vec<(usize, Claim)>,
    held: Vec<Option<usize>>,
    /// Whether the present attempt has reported yet.
    reported: Vec<bool>,
    owner: Owner,
    news: Subscription,
    heard: usize,
}

impl Story {
    async fn begin(seed: u64) -> Self {
        let options = QueueOptions { capacity: CAPACITY as u32, max_attempts: MAX_ATTEMPTS, ..OPTIONS };
        let bench = Bench::with(options).await;
        let mut keys = vec![None];
        for (n, (max_queued, max_running)) in LIMITS.into_iter().enumerate().skip(1) {
            let limits = KeyLimits {
                max_queued: Some(max_queued as u32),
                max_running: Some(max_running as u32),
                requests_per_minute: None,
            };
            keys.push(Some(bench.key(&n.to_string(), limits).await));
        }
        let news = bench.queue.subscribe(Topic::All);
        Self {
            bench,
            model: Model::default(),
            dice: Dice(seed),
            keys,
            ids: Vec::new(),
            claims: Vec::new(),
            held: Vec::new(),
            reported: Vec::new(),
            owner: Owner::unique(),
            news,
            heard: 0,
        }
    }

    async fn word(&mut self) {
        self.bench.clock.advance_ms(1 + self.dice.below(1_500) as i64);
        match self.dice.below(21) {
            0..=4 => self.submit().await,
            5..=7 => self.claim().await,
            8..=14 => self.work().await,
            15 => {
                let paused = self.dice.below(3) == 0;
                self.bench.queue.set_paused(paused).await.unwrap();
                self.model.paused = paused;
            }
            16 => self.hang().await,
            17 => {
                let bytes = self.dice.below(3_000) as u64;
                let gone: Vec<_> =
                    self.bench.queue.expire_oldest(bytes).await.unwrap().iter().map(|v| v.id).collect();
                let mut expected: Vec<_> =
                    self.model.expire(bytes).into_iter().map(|n| self.ids[n]).collect();
                assert_eq!(gone.len(), expected.len());
                expected.retain(|id| !gone.contains(id));
                assert_eq!(expected, []);
            }
            _ => self.ask().await,
        }
    }

    async fn submit(&mut self) {
        let (owner, webhook) = (self.dice.below(3), self.dice.below(2) == 0);
        let priority = self.dice.below(2) as i32;
        let new = NewVideo {
            owner: self.keys[owner].clone(),
            priority,
            webhook_url: webhook.then(|| "https://example.org".into()),
            ..new_video("a")
        };
        let accepted = self.model.submit(owner, priority, webhook);
        match self.bench.queue.enqueue(new, None).await {
            Ok(enqueued) => {
                assert!(accepted);
                self.ids.push(enqueued.video.id);
                self.held.push(None);
                self.reported.push(false);
            }
            Err(Error::QueueFull { .. } | Error::KeyQueueFull { .. }) => assert!(!accepted),
            Err(other) => panic!("{other}"),
        }
    }

    async fn claim(&mut self) {
        let claim = self.bench.queue.claim(&self.owner).await.unwrap();
        let expected = self.model.claim();
        assert_eq!(
            claim.as_ref().map(|claim| claim.video.id),
            expected.map(|n| self.ids[n]),
            "whose turn it is"
        );
        if let (Some(claim), Some(n)) = (claim, expected) {
            self.held[n] = Some(self.claims.len());
            self.reported[n] = false;
            self.claims.push((n, claim));
        }
    }

    /// What a worker does, with any lease there ever was: those of now go through, the others are refused.
    async fn work(&mut self) {
        if self.claims.is_empty() {
            return;
        }
        let newest_first = self.claims.len() - 1;
        let c = newest_first - self.dice.below(self.claims.len().min(4));
        let n = self.claims[c].0;
        let (queue, lease) = (self.bench.queue.clone(), self.claims[c].1.lease.clone());
        let holds = self.held[n] == Some(c);
        let step = 1 + self.dice.below(49) as u32;
        let model = &mut self.model;
        let outcome = match self.dice.below(10) {
            0 => queue
                .heartbeat(&lease)
                .await
                .map(|beat| assert_eq!(beat.cancel_requested, model.rows[n].cancelling)),
            1..=2 => {
                let percent = (step * 2) as u8;
                let result = queue.set_progress(&lease, denoise(step, percent)).await;
                if holds {
                    model.progress(n, step, percent, !self.reported[n]);
                    self.reported[n] = true;
                }
                result
            }
            3 => {
                let result = queue.keep_checkpoint(&lease, step).await;
                if holds {
                    model.checkpoint(n, Some(step));
                }
                result
            }
            4 => {
                let result = queue.drop_checkpoint(&lease).await;
                if holds {
                    model.checkpoint(n, None);
                    self.reported[n] = false;
                }
                result
            }
            end => {
                let result = match end {
                    5..=6 => queue.complete(&lease, finished(FILES_BYTES - 100)).await,
                    7 => queue.fail(&lease, JobError { code: "nan".into(), message: String::new() }).await,
                    8 => queue.requeue(&lease).await,
                    _ => queue.requeue_in_low_memory(&lease, "tiles").await,
                };
                if holds && end <= 6 && model.rows[n].cancelling {
                    assert!(matches!(result, Err(Error::CancelRequested(_))), "{result:?}");
                    model.end(n, Status::Cancelled);
                    self.held[n] = None;
                    return queue.cancelled(&lease).await.unwrap();
                }
                if holds {
                    self.held[n] = None;
                    match end {
                        5..=6 => model.end(n, Status::Completed),
                        7 => model.end(n, Status::Failed),
                        _ => model.give_back(n, end == 9),
                    }
                }
                result
            }
        };
        match outcome {
            Ok(()) => assert!(holds, "a lost lease wrote"),
            Err(Error::LeaseLost { .. }) => assert!(!holds, "a lease was refused"),
            Err(other) => panic!("{other}"),
        }
    }

    /// The worker hangs until its lease is over.
    async fn hang(&mut self) {
        self.bench.clock.advance_ms(OPTIONS.lease_ms + 1);
        self.rescue().await;
    }

    /// The server is killed, and another one starts.
    async fn crash(mut self) -> Self {
        self.hear().await;
        self.bench = self.bench.kill_and_reopen().await;
        self.news = self.bench.queue.subscribe(Topic::All);
        self.owner = Owner::unique();
        // What was told within the last second may not have been written.
        for n in (0..self.ids.len()).filter(|n| self.held[*n].is_some()) {
            let video = self.bench.queue.get(self.ids[n]).await.unwrap();
            let row = &mut self.model.rows[n];
            assert!(video.progress <= row.progress && video.step <= row.step);
            (row.progress, row.step) = (video.progress, video.step);
        }
        self.rescue().await;
        self
    }

    async fn rescue(&mut self) {
        let rescued = self.bench.queue.rescue(&self.owner).await.unwrap();
        let running = self.held.iter().filter(|held| held.is_some()).count() as u32;
        assert_eq!(rescued.requeued + rescued.failed + rescued.cancelled, running);
        self.model.rescue();
        self.held.iter_mut().for_each(|held| *held = None);
    }

    async fn ask(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let n = self.dice.below(self.ids.len());
        let (queue, id) = (self.bench.queue.clone(), self.ids[n]);
        let there = !self.model.rows[n].deleted;
        let missing = |result: &queue::Result<Video>| matches!(result, Err(Error::NotFound(_)));
        match self.dice.below(3) {
            0 => {
                let asked = queue.request_cancel(id, Some("ops")).await;
                assert_eq!(missing(&asked), !there);
                self.model.cancel(n);
            }
            1 => {
                let priority = self.dice.below(2) as i32;
                let moved = queue.set_priority(id, priority, None).await;
                assert_eq!(moved.is_ok(), self.model.set_priority(n, priority));
            }
            _ => {
                let deleted = queue.delete(id, None).await;
                assert_eq!(missing(&deleted), !there);
                assert_eq!(deleted.is_ok(), self.model.delete(n));
            }
        }
    }

    /// Holds the queue against the model.
    async fn check(&mut self) {
        let query =
            ListQuery { after: None, limit: 1_000, order: Order::Ascending, owner: None, states: Vec::new() };
        let videos = self.bench.queue.list(query).await.unwrap().videos;
        let estimates = self.bench.queue.estimates(&videos);
        let line = self.model.line();
        let rows: Vec<_> = (0..self.ids.len()).filter(|n| !self.model.rows[*n].deleted).collect();
        assert_eq!(videos.len(), rows.len());
        for ((n, video), estimate) in rows.into_iter().zip(&videos).zip(estimates) {
            let row = &self.model.rows[n];
            assert_eq!(video.id, self.ids[n]);
            let is = (
                video.status,
                video.attempt,
                video.priority,
                video.step,
                video.progress,
                video.checkpoint_step,
            );
            assert_eq!(
                is,
                (row.status, row.attempt, row.priority, row.step, row.progress, row.checkpoint),
                "{n}"
            );
            let is =
                (video.cancel_requested_at_ms.is_some(), video.low_memory, video.expired_at_ms.is_some());
            assert_eq!(is, (row.cancelling, row.low_memory, row.expired), "{n}");
            let place = line.iter().position(|waiting| *waiting == n).map(|place| place as u32 + 1);
            assert_eq!(estimate.queue_position, place, "{n}");
        }
        let counts = self.bench.queue.counts().await.unwrap();
        assert_eq!((counts.queued as usize, counts.paused), (line.len(), self.model.paused));
        assert_eq!(self.bench.queue.outbox().await.unwrap().pending as usize, self.model.deliveries);

        let events = self.bench.queue.events_after(&Topic::All, 0, 10_000).await.unwrap();
        let is = events.iter().map(|event| (event.video_id, event.kind, event.attempt));
        let expected = self.model.events.iter().map(|(n, kind, attempt)| (self.ids[*n], *kind, *attempt));
        // Those that one rescue or one expiry tells of have no order among themselves.
        assert_eq!(sorted(is), sorted(expected));
        assert!(events.is_sorted_by_key(|event| event.seq));
        self.hear().await;
    }

    /// The subscription tells what the table holds.
    async fn hear(&mut self) {
        let events = self.bench.queue.events_after(&Topic::All, 0, 10_000).await.unwrap();
        while self.heard < events.len() {
            let Some(Heard::News(item)) = self.news.recv().await else { panic!("the news are over") };
            if let News::Event { event, .. } = &item.news {
                assert_eq!(**event, events[self.heard]);
                self.heard += 1;
            }
        }
    }

    /// Brings every video to its end, of which there is one.
    async fn finish(self) {
        let mut story = self.crash().await;
        story.bench.queue.set_paused(false).await.unwrap();
        story.model.paused = false;
        while !story.model.line().is_empty() {
            story.claim().await;
            let (n, claim) = story.claims.last().unwrap();
            story.bench.queue.complete(&claim.lease, finished(FILES_BYTES - 100)).await.unwrap();
            story.model.end(*n, Status::Completed);
            story.held[*n] = None;
        }
        story.check().await;
        for id in &story.ids {
            let ends = story.bench.kinds(*id).await.into_iter().filter(|kind| kind.is_end()).count();
            assert_eq!(ends, 1, "{id}");
        }
    }
}

fn sorted(events: impl Iterator<Item = (VideoId, EventKind, u32)>) -> Vec<(VideoId, EventKind, u32)> {
    let mut events: Vec<_> = events.collect();
    events.sort_by_key(|(id, ..)| *id);
    events
}

#[tokio::test]
async fn the_queue_and_its_model_agree_whatever_is_asked_of_them() {
    for seed in 0..STORIES {
        let told = tokio::spawn(async move {
            let mut story = Story::begin(seed).await;
            for _ in 0..WORDS {
                if story.dice.below(21) == 0 {
                    story = story.crash().await;
                } else {
                    story.word().await;
                }
                story.check().await;
            }
            story.finish().await;
        });
        assert!(told.await.is_ok(), "the story of seed {seed}");
    }
}
