//! A database, a clock, and videos to put in.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use queue::{
    ApiKeys, Claim, Clock, DurableEvent, EventKind, Finished, KeyId, KeyLimits, NewKey, NewVideo, Output,
    OutputFile, Owner, Progress, Queue, QueueOptions, Scope, Stage, Timings, Topic, Video, VideoId,
    VideoParams,
};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
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

pub(crate) const OPTIONS: QueueOptions = QueueOptions {
    capacity: 300,
    lease_ms: 30_000,
    max_attempts: 2,
    key_limits: KeyLimits { max_queued: None, max_running: None, requests_per_minute: None },
    model_run_max: 8,
};

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(OPTIONS).await
    }

    pub(crate) async fn with(options: QueueOptions) -> Self {
        // In memory where there is such a folder: the queue syncs each commit, and these tests make many.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let clock = Arc::new(Hands::default());
        let queue = Queue::open(&folder.path().join("jobs.db"), clock.clone(), options).await.unwrap();
        Self { folder, clock, queue }
    }

    /// As after a kill: the process is gone, nothing was said to the database.
    pub(crate) async fn kill_and_reopen(self) -> Self {
        let Self { folder, clock, queue } = self;
        let options = queue.options();
        drop(queue);
        let queue = Queue::open(&folder.path().join("jobs.db"), clock.clone(), options).await.unwrap();
        Self { folder, clock, queue }
    }

    pub(crate) async fn enqueue(&self, prompt: &str) -> Video {
        self.put(new_video(prompt)).await
    }

    pub(crate) async fn put(&self, new: NewVideo) -> Video {
        self.queue.enqueue(new, None).await.unwrap().video
    }

    pub(crate) async fn put_for(&self, owner: Option<&KeyId>, prompt: &str) -> Video {
        self.put(NewVideo { owner: owner.cloned(), ..new_video(prompt) }).await
    }

    pub(crate) async fn keys(&self) -> ApiKeys {
        ApiKeys::open(&self.path(), self.clock.clone()).await.unwrap()
    }

    pub(crate) async fn key(&self, name: &str, limits: KeyLimits) -> KeyId {
        let new = NewKey { name: name.into(), scopes: vec![Scope::Submit], limits };
        self.keys().await.create(new).await.unwrap().0.id
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("jobs.db")
    }

    /// A connection of somebody else's, as another process has one.
    pub(crate) async fn stranger(&self) -> SqliteConnection {
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(self.path())).await.unwrap()
    }

    pub(crate) async fn complete(&self, claim: &Claim) {
        self.queue.complete(&claim.lease, finished(4_000_000_000)).await.unwrap();
    }

    pub(crate) async fn events(&self, id: VideoId) -> Vec<DurableEvent> {
        self.queue.events_after(&Topic::Video(id), 0, 1000).await.unwrap()
    }

    pub(crate) async fn kinds(&self, id: VideoId) -> Vec<EventKind> {
        self.events(id).await.iter().map(|event| event.kind).collect()
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
            lora: Vec::new(),
            image: None,
        },
        priority: 0,
        prompt_tokens: 12,
        prompt_truncated: false,
        warnings: vec!["seconds were raised to 6".into()],
        metadata: BTreeMap::from([("scene".into(), "4".into())]),
        owner: None,
        sent_prompt: None,
        remixed_from: None,
        retry_of: None,
        webhook_url: None,
        submission: None,
    }
}

pub(crate) fn output(bytes: u64) -> Output {
    let file = |name: &str, bytes| OutputFile { key: name.into(), bytes, sha256: "ab".repeat(32) };
    Output {
        video: file("video_1.mp4", bytes),
        thumbnail: Some(file("video_1.webp", 30)),
        spritesheet: Some(file("video_1.jpg", 70)),
    }
}

/// The files take 100 bytes more than the video.
pub(crate) fn finished(bytes: u64) -> Finished {
    let timings = Timings { queue_ms: Some(5_000), denoise_ms: Some(50_000), ..Timings::default() };
    Finished { output: output(bytes), timings, peak_memory_bytes: Some(12 << 30) }
}

pub(crate) fn denoise(step: u32, percent: u8) -> Progress {
    Progress { stage: Stage::Denoise, step, total_steps: 50, percent }
}
