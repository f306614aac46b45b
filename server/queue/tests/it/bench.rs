//! A database, a clock, and videos to put in.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use queue::{
    Claim, Clock, NewVideo, Output, Owner, Progress, Queue, QueueOptions, Stage, Video, VideoParams,
};
use tempfile::TempDir;

pub(crate) const START_MS: i64 = 1_700_000_000_000;

#[derive(Default)]
pub(crate) struct Hands(AtomicI64);

impl Hands {
    pub(crate) fn advance_ms(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn now_ms(&self) -> i64 {
        START_MS + self.0.load(Ordering::SeqCst)
    }
}

pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) clock: Arc<Hands>,
    pub(crate) queue: Queue,
}

pub(crate) const OPTIONS: QueueOptions = QueueOptions { capacity: 300, lease_ms: 30_000, max_attempts: 2 };

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(OPTIONS).await
    }

    pub(crate) async fn with(options: QueueOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hands::default());
        let queue = Queue::open(&folder.path().join("jobs.db"), clock.clone(), options).await.unwrap();
        Self { folder, clock, queue }
    }

    /// As after a kill: the process is gone, nothing was said to the database.
    pub(crate) async fn kill_and_reopen(self) -> Self {
        let Self { folder, clock, queue } = self;
        drop(queue);
        let queue = Queue::open(&folder.path().join("jobs.db"), clock.clone(), OPTIONS).await.unwrap();
        Self { folder, clock, queue }
    }

    pub(crate) async fn enqueue(&self, prompt: &str) -> Video {
        self.queue.enqueue(new_video(prompt)).await.unwrap()
    }

    pub(crate) async fn claim(&self, owner: &Owner) -> Claim {
        self.queue.claim(owner).await.unwrap().expect("a video waits")
    }
}

pub(crate) fn new_video(prompt: &str) -> NewVideo {
    NewVideo {
        model: "cogvideox-2b".into(),
        params: VideoParams {
            prompt: prompt.into(),
            negative_prompt: "blurry".into(),
            width: 720,
            height: 480,
            num_frames: 49,
            fps: 8,
            num_inference_steps: 50,
            guidance_scale: 6.0,
            use_dynamic_cfg: false,
            scheduler: "ddim".into(),
            seed: (1 << 53) - 1,
        },
        priority: 0,
        prompt_tokens: 12,
        prompt_truncated: false,
        warnings: vec!["seconds were raised to 6".into()],
        metadata: BTreeMap::from([("scene".into(), "4".into())]),
    }
}

pub(crate) fn output() -> Output {
    Output { key: "video_1.mp4".into(), bytes: 4_000_000_000, sha256: "ab".repeat(32) }
}

pub(crate) fn denoise(step: u32, percent: u8) -> Progress {
    Progress { stage: Stage::Denoise, step, total_steps: 50, percent }
}
