//! A worker in a temporary folder.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use queue::{
    DurableEvent, Heard, KeyLimits, NewVideo, News, Progress, Queue, QueueOptions, Stage, Status,
    Subscription, SystemClock, Topic, Video, VideoId, VideoParams,
};
use store::VideoStore;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use worker::{Device, Stores, WorkerConfig, Workers};

use crate::fake::{Baton, FakeGenerator, Held};

/// Nothing is found by polling or heartbeat: whatever happens in a test happens because of a signal.
pub(crate) const CONFIG: WorkerConfig = WorkerConfig {
    heartbeat: Duration::from_hours(1),
    poll: Duration::from_hours(1),
    interrupt_wait: Duration::from_hours(1),
    quality: media::Quality::Compact,
    metadata: true,
    checkpoint_interval: None,
    preview_interval: Duration::ZERO,
    hang_factor: 10,
    hang_min: Duration::from_hours(1),
};

/// With a checkpoint after every step.
pub(crate) const KEEPING: WorkerConfig = WorkerConfig { checkpoint_interval: Some(Duration::ZERO), ..CONFIG };

/// A bound on a hanging test, no part of any behaviour.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) queue: Queue,
    pub(crate) stores: Stores,
    pub(crate) baton: Arc<Baton>,
    held: UnboundedReceiver<Held>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::reopen(tempfile::tempdir().unwrap()).await
    }

    /// As a server does that is started on what another left.
    pub(crate) async fn reopen(folder: TempDir) -> Self {
        let (queue, stores) = open(folder.path()).await;
        let (sender, held) = unbounded_channel();
        Self { folder, queue, stores, baton: Arc::new(Baton::new(sender)), held }
    }

    pub(crate) fn start(&self, config: WorkerConfig) -> Workers {
        self.start_many(config, 1)
    }

    /// So many workers, all on the same baton.
    pub(crate) fn start_many(&self, config: WorkerConfig, count: usize) -> Workers {
        let build = || {
            let baton = Arc::clone(&self.baton);
            move || FakeGenerator::build(&baton)
        };
        let devices = (0..count).map(|number| Device { name: format!("fake:{number}"), build: build() });
        worker::start(config, &self.queue, &self.stores, devices.collect()).unwrap()
    }

    pub(crate) async fn enqueue(&self, prompt: &str) -> VideoId {
        self.queue.enqueue(new_video(prompt), None).await.unwrap().video.id
    }

    /// The next generation that waits.
    pub(crate) async fn held(&mut self) -> Held {
        patient(self.held.recv()).await.unwrap()
    }

    pub(crate) async fn settled(&self, id: VideoId) -> Video {
        settled(&self.queue, id).await
    }

    pub(crate) fn news(&self, id: VideoId) -> NewsOf {
        NewsOf(self.queue.subscribe(Topic::Video(id)))
    }

    /// The files of the store, by name, in order.
    pub(crate) fn files(&self) -> Vec<String> {
        names(&self.folder.path().join("videos"))
    }

    /// The checkpoints, by name.
    pub(crate) fn checkpoints(&self) -> Vec<String> {
        names(&self.folder.path().join("checkpoints"))
    }

    /// The steps from which the generations began, in order; none for those that began at the start.
    pub(crate) fn resumed_from(&self) -> Vec<Option<u32>> {
        self.baton.asked.lock().unwrap().iter().map(|asked| asked.resumed_from).collect()
    }

    /// The bytes of a finished video.
    pub(crate) async fn mp4(&self, video: &Video) -> Vec<u8> {
        self.stores.videos.read(&video.output.as_ref().unwrap().video.key).await.unwrap()
    }

    pub(crate) async fn until_kept(&self, id: VideoId, step: u32) {
        until_kept(&self.queue, id, step).await;
    }

    /// Shows that the worker goes on: one more video is made.
    pub(crate) async fn assert_goes_on(&self) -> VideoId {
        let id = self.enqueue("make").await;
        assert_eq!(self.settled(id).await.status, Status::Completed);
        id
    }
}

fn names(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The coded pictures of a file, without what it says about itself.
pub(crate) fn pictures(mp4: &[u8]) -> &[u8] {
    let at = mp4.windows(4).rposition(|kind| kind == b"mdat").unwrap();
    &mp4[at..]
}

/// News of one video.
pub(crate) struct NewsOf(Subscription);

/// The news that tests look for.
#[derive(Debug)]
pub(crate) enum Told {
    Event(Arc<DurableEvent>, Arc<Video>),
    Progress(u32, Progress),
    Preview(u32, Arc<[u8]>),
}

impl NewsOf {
    pub(crate) async fn next(&mut self) -> Told {
        match patient(self.0.recv()).await.unwrap() {
            Heard::News(item) => match &item.news {
                News::Event { event, video } => Told::Event(Arc::clone(event), Arc::clone(video)),
                News::Progress { attempt, progress, .. } => Told::Progress(*attempt, *progress),
                News::Preview { step, jpeg, .. } => Told::Preview(*step, Arc::clone(jpeg)),
            },
            Heard::Lagged => panic!("lagged"),
        }
    }

    /// Waits until so many steps are finished.
    pub(crate) async fn at_step(&mut self, step: u32) {
        self.until(|progress| progress.stage == Stage::Denoise && progress.step == step).await;
    }

    pub(crate) async fn until(&mut self, mut there: impl FnMut(Progress) -> bool) {
        while !matches!(self.next().await, Told::Progress(_, progress) if there(progress)) {}
    }

    /// The video as it ends.
    pub(crate) async fn end(&mut self) -> Video {
        loop {
            if let Told::Event(event, video) = self.next().await
                && event.kind.is_end()
            {
                return (*video).clone();
            }
        }
    }
}

/// Stops the runtime's clock until it is dropped; only `tokio::time::advance` moves it. (A paused clock runs on by
/// itself when all tasks sleep, but not while something blocks.)
pub(crate) struct FrozenTime(#[expect(dead_code, reason = "held for its drop")] mpsc::Sender<()>);

impl FrozenTime {
    pub(crate) fn new() -> Self {
        let (sender, until_dropped) = mpsc::channel();
        tokio::task::spawn_blocking(move || until_dropped.recv().is_err());
        Self(sender)
    }
}

pub(crate) async fn patient<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens")
}

pub(crate) async fn open(folder: &Path) -> (Queue, Stores) {
    let options = QueueOptions {
        capacity: 100,
        lease_ms: 3_600_000,
        max_attempts: 3,
        key_limits: KeyLimits::default(),
        model_run_max: 8,
    };
    let queue = Queue::open(&folder.join("jobs.db"), Arc::new(SystemClock), options).await.unwrap();
    let videos = VideoStore::open(&folder.join("videos")).await.unwrap();
    let checkpoints = VideoStore::open(&folder.join("checkpoints")).await.unwrap();
    (queue, Stores { videos, checkpoints })
}

pub(crate) async fn settled(queue: &Queue, id: VideoId) -> Video {
    let mut news = NewsOf(queue.subscribe(Topic::Video(id)));
    let video = queue.get(id).await.unwrap();
    if video.status.is_terminal() { video } else { news.end().await }
}

/// Waits until a checkpoint of so many steps is noted in the row; it is written while the generation goes on.
pub(crate) async fn until_kept(queue: &Queue, id: VideoId, step: u32) {
    let noted = async {
        while queue.get(id).await.unwrap().checkpoint_step != Some(step) {
            tokio::task::yield_now().await;
        }
    };
    patient(noted).await;
}

pub(crate) fn new_video(prompt: &str) -> NewVideo {
    NewVideo {
        model: "fake".into(),
        params: VideoParams {
            prompt: prompt.into(),
            negative_prompt: "blurry".into(),
            width: 64,
            height: 48,
            num_frames: 9,
            fps: 8,
            num_inference_steps: 4,
            guidance_scale: 6.0,
            use_dynamic_cfg: true,
            scheduler: "dpm".into(),
            seed: 42,
            lora: Vec::new(),
            image: None,
        },
        priority: 0,
        prompt_tokens: 2,
        prompt_truncated: false,
        warnings: Vec::new(),
        metadata: BTreeMap::new(),
        owner: None,
        sent_prompt: None,
        remixed_from: None,
        retry_of: None,
        webhook_url: None,
        submission: None,
    }
}
