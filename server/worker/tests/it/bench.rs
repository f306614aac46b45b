//! A worker in a temporary folder.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use queue::{Event, NewVideo, Queue, QueueOptions, Status, SystemClock, Video, VideoId, VideoParams};
use store::VideoStore;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use worker::{WorkerConfig, WorkerHandle};

use crate::fake::{Baton, FakeGenerator, Held};

/// Nothing is found by polling or heartbeat: whatever happens in a test happens because of a signal.
pub(crate) const CONFIG: WorkerConfig = WorkerConfig {
    heartbeat: Duration::from_hours(1),
    poll: Duration::from_hours(1),
    interrupt_wait: Duration::from_hours(1),
    quality: media::Quality::Compact,
};

/// A bound on a hanging test, no part of any behaviour.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) queue: Queue,
    pub(crate) store: VideoStore,
    pub(crate) baton: Arc<Baton>,
    held: UnboundedReceiver<Held>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::reopen(tempfile::tempdir().unwrap()).await
    }

    /// As a server does that is started on what another left.
    pub(crate) async fn reopen(folder: TempDir) -> Self {
        let (queue, store) = open(folder.path()).await;
        let (sender, held) = unbounded_channel();
        let baton = Arc::new(Baton { built: 0.into(), params: Mutex::default(), held: sender });
        Self { folder, queue, store, baton, held }
    }

    pub(crate) fn start(&self, config: WorkerConfig) -> WorkerHandle {
        let baton = Arc::clone(&self.baton);
        worker::start(config, self.queue.clone(), self.store.clone(), move || Ok(FakeGenerator::new(&baton)))
            .unwrap()
    }

    pub(crate) async fn enqueue(&self, prompt: &str) -> VideoId {
        self.queue.enqueue(new_video(prompt)).await.unwrap().id
    }

    /// The next generation that waits.
    pub(crate) async fn held(&mut self) -> Held {
        tokio::time::timeout(PATIENCE, self.held.recv()).await.expect("a generation waits").unwrap()
    }

    pub(crate) async fn settled(&self, id: VideoId) -> Video {
        settled(&self.queue, id).await
    }

    /// The files of the store, by name.
    pub(crate) fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.folder.path().join("videos")).unwrap();
        files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Shows that the worker goes on: one more video is made.
    pub(crate) async fn assert_goes_on(&self) {
        let id = self.enqueue("make").await;
        assert_eq!(self.settled(id).await.status, Status::Completed);
    }
}

pub(crate) async fn open(folder: &Path) -> (Queue, VideoStore) {
    let options = QueueOptions { capacity: 100, lease_ms: 3_600_000, max_attempts: 3 };
    let queue = Queue::open(&folder.join("jobs.db"), Arc::new(SystemClock), options).await.unwrap();
    (queue, VideoStore::open(&folder.join("videos")).await.unwrap())
}

pub(crate) async fn settled(queue: &Queue, id: VideoId) -> Video {
    let mut news = queue.subscribe(id);
    let video = queue.get(id).await.unwrap();
    if video.status.is_terminal() {
        return video;
    }
    let end = async {
        loop {
            match news.recv().await.unwrap() {
                Event::Settled(video) => return (*video).clone(),
                Event::Lagged => panic!("lagged"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, end).await.expect("the video is settled")
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
        },
        priority: 0,
        prompt_tokens: 2,
        prompt_truncated: false,
        warnings: Vec::new(),
        metadata: BTreeMap::new(),
    }
}
