//! Several models: a worker goes on with the one it has, and nobody waits for ever because of it.

use std::collections::HashMap;

use queue::{Claim, KeyId, KeyLimits, NewVideo, Owner, Queue, QueueOptions, Video, VideoId};

use crate::bench::{Bench, OPTIONS, new_video};

const RUN_MAX: u32 = 4;
const WITH_RUNS: QueueOptions = QueueOptions { model_run_max: RUN_MAX, ..OPTIONS };

/// A worker that has room for one model.
struct Worker {
    owner: Owner,
    loaded: Vec<String>,
    swaps: u32,
}

impl Worker {
    fn with(model: &str) -> Self {
        Self { owner: Owner::unique(), loaded: vec![model.to_owned()], swaps: 0 }
    }

    async fn claim(&mut self, queue: &Queue) -> Option<Claim> {
        let claim = queue.claim_preferring(&self.owner, &self.loaded).await.unwrap()?;
        if !self.loaded.contains(&claim.video.model) {
            self.swaps += 1;
            self.loaded = vec![claim.video.model.clone()];
        }
        Some(claim)
    }
}

async fn put(bench: &Bench, model: &str) -> Video {
    bench.put(NewVideo { model: model.to_owned(), ..new_video(model) }).await
}

#[tokio::test]
async fn videos_of_one_model_are_made_together() {
    for models in [&["a", "b"][..], &["a", "b", "c"]] {
        let bench = Bench::with(WITH_RUNS).await;
        for n in 0..48 {
            put(&bench, models[n % models.len()]).await;
        }
        let mut worker = Worker::with("a");
        let mut made = Vec::new();
        while let Some(claim) = worker.claim(&bench.queue).await {
            made.push((claim.video.model.clone(), claim.video.id));
        }
        assert_eq!(made.len(), 48);
        assert!(worker.swaps <= 48 / RUN_MAX, "{} swaps of {} models", worker.swaps, models.len());
        assert!(worker.swaps >= models.len() as u32 - 1);
        for model in models {
            let of_model: Vec<VideoId> = made.iter().filter(|(m, _)| m == model).map(|(_, id)| *id).collect();
            assert!(of_model.is_sorted(), "within a model the order is the line's");
        }
    }
}

#[tokio::test]
async fn who_waits_for_another_model_is_passed_over_so_often_and_no_more() {
    let bench = Bench::with(WITH_RUNS).await;
    let mut worker = Worker::with("a");
    put(&bench, "a").await;
    let waiting = put(&bench, "b").await;
    assert_eq!(worker.claim(&bench.queue).await.unwrap().video.model, "a");
    // There is always more for the model that is loaded.
    for _ in 0..RUN_MAX {
        put(&bench, "a").await;
        put(&bench, "a").await;
        assert_eq!(worker.claim(&bench.queue).await.unwrap().video.model, "a");
    }
    assert_eq!(worker.claim(&bench.queue).await.unwrap().video.id, waiting.id);
    assert_eq!(worker.swaps, 1);
}

#[tokio::test]
async fn without_runs_and_across_priorities_the_line_is_kept() {
    let bench = Bench::with(QueueOptions { model_run_max: 0, ..OPTIONS }).await;
    let mut worker = Worker::with("a");
    let ids = [put(&bench, "b").await.id, put(&bench, "a").await.id];
    for id in ids {
        assert_eq!(worker.claim(&bench.queue).await.unwrap().video.id, id);
    }

    let bench = Bench::with(WITH_RUNS).await;
    let mut worker = Worker::with("a");
    put(&bench, "a").await;
    let urgent = bench.put(NewVideo { model: "b".into(), priority: 1, ..new_video("urgent") }).await;
    assert_eq!(worker.claim(&bench.queue).await.unwrap().video.id, urgent.id);
}

/// Random lines of several keys, priorities and models, with new videos all the time.
#[tokio::test]
async fn in_any_line_the_first_is_overtaken_seldom_and_only_for_a_loaded_model() {
    for seed in 1..=12 {
        let bench = Bench::with(WITH_RUNS).await;
        let keys: [Option<KeyId>; 3] = [
            None,
            Some(bench.key("x", KeyLimits::default()).await),
            Some(bench.key("y", KeyLimits::default()).await),
        ];
        let mut dice = Dice(seed);
        let mut worker = Worker::with("a");
        let mut waiting: HashMap<VideoId, Video> = HashMap::new();
        let mut passed_over: HashMap<VideoId, u32> = HashMap::new();
        let mut to_come = 80;
        while to_come > 0 || !waiting.is_empty() {
            for _ in 0..dice.below(3).min(to_come) {
                to_come -= 1;
                let new = NewVideo {
                    model: ["a", "b", "c"][dice.below(3)].to_owned(),
                    priority: dice.below(2) as i32,
                    owner: keys[dice.below(3)].clone(),
                    ..new_video("any")
                };
                let video = bench.put(new).await;
                waiting.insert(video.id, video);
            }
            let line: Vec<Video> = waiting.values().cloned().collect();
            let places = bench.queue.estimates(&line);
            let first = line.iter().zip(&places).find(|(_, place)| place.queue_position == Some(1));
            let before = worker.loaded.clone();
            let Some(claim) = worker.claim(&bench.queue).await else { continue };
            let (first, taken) = (first.unwrap().0, waiting.remove(&claim.video.id).unwrap());
            if taken.id == first.id {
                continue;
            }
            assert_eq!(taken.priority, first.priority);
            assert!(before.contains(&taken.model) && !before.contains(&first.model));
            let times = passed_over.entry(first.id).or_default();
            *times += 1;
            assert!(*times <= RUN_MAX, "seed {seed}: passed over {times} times");
        }
        assert!(!passed_over.is_empty(), "seed {seed}: nobody was passed over, so nothing was seen");
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}
