//! What the queue takes of a request, on an empty line and on a long one: `cargo bench -p queue`.
//!
//! Prints a table of milliseconds. The database lies in the folder for temporary files, and every commit is synced:
//! say what disk that is, and what else the machine does, with the numbers.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and fails by panicking")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use queue::{
    ApiKeys, Finished, KeyId, KeyLimits, ListQuery, NewKey, NewVideo, Order, Output, OutputFile, Owner,
    Queue, QueueOptions, Scope, SystemClock, Timings, Topic, Video, VideoParams,
};

const LONG_LINE: usize = 10_000;
const KEYS: usize = 5;
const ROUNDS: usize = 300;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let options = QueueOptions {
        capacity: u32::MAX,
        lease_ms: 60_000,
        max_attempts: 3,
        key_limits: KeyLimits { max_queued: None, max_running: Some(2), requests_per_minute: None },
        model_run_max: 8,
    };
    let queue = Queue::open(&path, Arc::new(SystemClock), options).await.unwrap();
    let keys = keys(&path).await;

    println!("{:>8} {:<22} {:>9} {:>9} {:>9}", "waiting", "operation", "p50 ms", "p99 ms", "max ms");
    measure(&queue, &keys).await;
    let mut n = 0;
    while (queue.counts().await.unwrap().queued as usize) < LONG_LINE {
        queue.enqueue(video(&keys, n), None).await.unwrap();
        n += 1;
    }
    measure(&queue, &keys).await;
}

async fn keys(path: &Path) -> Vec<KeyId> {
    let table = ApiKeys::open(path, Arc::new(SystemClock)).await.unwrap();
    let mut keys = Vec::new();
    for n in 0..KEYS {
        let new = NewKey { name: format!("k{n}"), scopes: vec![Scope::Submit], limits: KeyLimits::default() };
        keys.push(table.create(new).await.unwrap().0.id);
    }
    keys
}

fn video(keys: &[KeyId], n: usize) -> NewVideo {
    NewVideo {
        model: "cogvideox-2b".into(),
        params: VideoParams {
            prompt: "A panda plays the guitar in a bamboo forest. ".repeat(8),
            negative_prompt: String::new(),
            width: 720,
            height: 480,
            num_frames: 49,
            fps: 8,
            num_inference_steps: 50,
            guidance_scale: 6.0,
            use_dynamic_cfg: false,
            scheduler: "ddim".into(),
            seed: n as u64,
            lora: Vec::new(),
            image: None,
        },
        priority: i32::from(n.is_multiple_of(10)),
        prompt_tokens: 100,
        prompt_truncated: false,
        warnings: Vec::new(),
        metadata: BTreeMap::new(),
        owner: Some(keys[n % keys.len()].clone()),
        sent_prompt: None,
        remixed_from: None,
        retry_of: None,
        webhook_url: None,
        submission: None,
    }
}

fn finished() -> Finished {
    let video = OutputFile { key: "video.mp4".into(), bytes: 1_000_000, sha256: "ab".repeat(32) };
    let timings = Timings { denoise_ms: Some(100_000), ..Timings::default() };
    Finished {
        output: Output { video, thumbnail: None, spritesheet: None },
        timings,
        peak_memory_bytes: None,
    }
}

/// Each operation so often, and its line of the table. As many videos wait afterwards as before.
async fn measure(queue: &Queue, keys: &[KeyId]) {
    let waiting = queue.counts().await.unwrap().queued;
    let row = |operation, times| print_row(waiting, operation, times);
    let owner = Owner::unique();
    let (mut submitted, mut claimed, mut videos) = (Vec::new(), Vec::new(), Vec::<Video>::new());
    for n in 0..ROUNDS {
        let new = video(keys, n);
        let began = Instant::now();
        videos.push(queue.enqueue(new, None).await.unwrap().video);
        submitted.push(began.elapsed());
        let began = Instant::now();
        let claim = queue.claim(&owner).await.unwrap().unwrap();
        queue.complete(&claim.lease, finished()).await.unwrap();
        claimed.push(began.elapsed());
    }
    row("enqueue", submitted);
    row("claim + complete", claimed);

    let page = |after| ListQuery {
        after,
        limit: 100,
        order: Order::Descending,
        owner: Some(keys[0].clone()),
        states: Vec::new(),
    };
    let listed = queue.list(page(None)).await.unwrap().videos;
    let (mut got, mut paged, mut placed, mut all_placed, mut told) = (vec![], vec![], vec![], vec![], vec![]);
    for n in 0..ROUNDS {
        let video = &videos[n % videos.len()];
        got.push(time(queue.get(video.id)).await);
        paged.push(time(queue.list(page(None))).await);
        placed.push(time(async { Ok(queue.estimate(video)) }).await);
        all_placed.push(time(async { Ok(queue.estimates(&listed)) }).await);
        told.push(time(queue.events_after(&Topic::Video(video.id), 0, 100)).await);
    }
    row("get", got);
    row("list of 100", paged);
    row("estimate", placed);
    row("estimates of 100", all_placed);
    row("events_after", told);
}

async fn time<T>(asked: impl Future<Output = queue::Result<T>>) -> Duration {
    let began = Instant::now();
    asked.await.unwrap();
    began.elapsed()
}

fn print_row(waiting: u32, operation: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!("{waiting:>8} {operation:<22} {:>9.3} {:>9.3} {:>9.3}", at(50), at(99), at(100));
}
