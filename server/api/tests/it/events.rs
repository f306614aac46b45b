//! Following a video: the frames of the stream, in order, to the end.

use std::time::Duration;

use api::Health;
use axum::body::{Body, BodyDataStream};
use axum::http::{Method, Request};
use futures_util::StreamExt;
use queue::{Claim, JobError, Progress, Stage};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::world::World;

/// The reader's side of one stream.
struct Reader {
    body: BodyDataStream,
    text: String,
}

impl Reader {
    async fn follow(world: &World, id: &str) -> Self {
        let request = Request::get(format!("/v1/videos/{id}/events")).body(Body::empty()).unwrap();
        let response = world.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-store"),
            ("x-accel-buffering", "no"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(response.headers()[name], value, "{name}");
        }
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next frame's lines, or none at the end of the stream.
    async fn frame(&mut self) -> Option<Vec<String>> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let frame: String = self.text.drain(..end + 2).collect();
                return Some(frame.trim_end().lines().map(str::to_owned).collect());
            }
            let chunk = self.body.next().await?.unwrap();
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next event's name and data.
    async fn event(&mut self) -> (String, Value) {
        let frame = self.frame().await.expect("the stream goes on");
        let field = |name: &str| frame.iter().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        (field("event: "), serde_json::from_str(&field("data: ")).unwrap())
    }

    async fn expect(&mut self, name: &str) -> Value {
        let (found, data) = self.event().await;
        assert_eq!(found, name, "{data}");
        data
    }

    async fn expect_end(&mut self) {
        assert_eq!(self.frame().await, None);
    }
}

async fn report(world: &World, claim: &Claim, stage: Stage, step: u32, percent: u8) {
    let progress = Progress { stage, step, total_steps: 50, percent };
    world.queue.set_progress(&claim.lease, progress).await.unwrap();
}

#[tokio::test]
async fn a_video_is_followed_from_the_queue_to_its_end() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let mut reader = Reader::follow(&world, &id).await;
    let first = reader.frame().await.unwrap();
    assert!(
        first.contains(&"retry: 3000".to_owned()) && first.contains(&"event: video.snapshot".to_owned()),
        "{first:?}"
    );
    let data = first.iter().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let snapshot: Value = serde_json::from_str(data).unwrap();
    assert_eq!(snapshot, world.get(&format!("/v1/videos/{id}")).await.json(), "the snapshot is the video");

    let claim = world.claim().await;
    assert_eq!(reader.expect("video.started").await["state"], "in_progress");
    world.clock.advance(Duration::from_secs(2));
    report(&world, &claim, Stage::TextEncode, 0, 2).await;
    assert_eq!(reader.expect("video.stage").await, json!({ "stage": "text_encode" }));
    assert_eq!(
        reader.expect("video.progress").await,
        json!({ "step": 0, "total_steps": 50, "percent": 2, "step_seconds": null, "eta_seconds": 98.0 })
    );
    for step in 1..=50 {
        report(&world, &claim, Stage::Denoise, step, 2 + step as u8).await;
    }
    assert_eq!(reader.expect("video.stage").await, json!({ "stage": "denoise" }));
    for step in 1..=50 {
        let progress = reader.expect("video.progress").await;
        assert_eq!((&progress["step"], &progress["percent"]), (&json!(step), &json!(2 + step)));
        assert_eq!(progress["step_seconds"].is_null(), step == 1, "the first step has none before it");
    }
    report(&world, &claim, Stage::VaeDecode, 50, 90).await;
    assert_eq!(reader.expect("video.stage").await, json!({ "stage": "vae_decode" }));
    assert_eq!(reader.expect("video.progress").await["percent"], 90);

    world.complete(&claim, b"an mp4").await;
    let completed = reader.expect("video.completed").await;
    assert_eq!(completed, world.get(&format!("/v1/videos/{id}")).await.json());
    assert_eq!((&completed["progress"], &completed["bytes"]), (&json!(100), &json!(6)));
    reader.expect_end().await;
}

#[tokio::test]
async fn a_stream_joined_late_begins_where_the_video_is() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let claim = world.claim().await;
    report(&world, &claim, Stage::Denoise, 7, 20).await;
    let mut reader = Reader::follow(&world, &id).await;
    let snapshot = reader.expect("video.snapshot").await;
    assert_eq!((&snapshot["step"], &snapshot["stage"]), (&json!(7), &json!("denoise")));
    report(&world, &claim, Stage::Denoise, 8, 22).await;
    assert_eq!(reader.expect("video.progress").await["step"], 8, "the stage is known from the snapshot");
}

#[tokio::test]
async fn each_end_has_its_name_and_a_settled_video_ends_at_once() {
    let world = World::new().await;
    let failed = world.queued("a cat").await;
    let mut reader = Reader::follow(&world, &failed).await;
    reader.expect("video.snapshot").await;
    let claim = world.claim().await;
    reader.expect("video.started").await;
    let error = JobError { code: "internal".to_owned(), message: "it broke".to_owned() };
    world.queue.fail(&claim.lease, error).await.unwrap();
    assert_eq!(reader.expect("video.failed").await["error"]["message"], "it broke");
    reader.expect_end().await;

    let cancelled = world.queued("a cat").await;
    let mut reader = Reader::follow(&world, &cancelled).await;
    reader.expect("video.snapshot").await;
    let claim = world.claim().await;
    reader.expect("video.started").await;
    world.call(Method::POST, &format!("/v1/videos/{cancelled}/cancel")).await;
    assert_eq!(reader.expect("video.cancelling").await["state"], "cancelling");
    world.queue.cancelled(&claim.lease).await.unwrap();
    assert_eq!(reader.expect("video.cancelled").await["state"], "cancelled");
    reader.expect_end().await;

    let completed = world.completed(b"an mp4").await;
    for (id, end) in
        [(completed, "video.completed"), (failed, "video.failed"), (cancelled, "video.cancelled")]
    {
        let mut reader = Reader::follow(&world, &id).await;
        let snapshot = reader.expect("video.snapshot").await;
        assert_eq!(reader.expect(end).await, snapshot);
        reader.expect_end().await;
    }
}

#[tokio::test]
async fn a_requeued_video_is_followed_on() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let mut reader = Reader::follow(&world, &id).await;
    reader.expect("video.snapshot").await;
    let claim = world.claim().await;
    reader.expect("video.started").await;
    report(&world, &claim, Stage::Denoise, 30, 60).await;
    reader.expect("video.stage").await;
    reader.expect("video.progress").await;
    world.queue.requeue(&claim.lease).await.unwrap();
    let queued = reader.expect("video.queued").await;
    assert_eq!((&queued["state"], &queued["queue_position"]), (&json!("queued"), &json!(1)));
    let claim = world.claim().await;
    assert_eq!(reader.expect("video.started").await["attempt"], 2);
    report(&world, &claim, Stage::Denoise, 1, 3).await;
    assert_eq!(reader.expect("video.stage").await["stage"], "denoise");
    assert_eq!(reader.expect("video.progress").await["percent"], 3);
}

#[tokio::test]
async fn a_slow_reader_gets_a_fresh_snapshot_and_the_end() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let mut reader = Reader::follow(&world, &id).await;
    reader.expect("video.snapshot").await;
    let claim = world.claim().await;
    // More news than the queue keeps for anyone.
    for step in 1..=3000 {
        report(&world, &claim, Stage::Denoise, step, 50).await;
    }
    world.complete(&claim, b"an mp4").await;
    let snapshot = reader.expect("video.snapshot").await;
    assert_eq!(snapshot["state"], "completed");
    assert_eq!(reader.expect("video.completed").await, snapshot);
    reader.expect_end().await;
}

#[tokio::test]
async fn leaving_the_stream_cancels_nothing() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let mut reader = Reader::follow(&world, &id).await;
    reader.expect("video.snapshot").await;
    let claim = world.claim().await;
    drop(reader);
    assert!(!claim.cancel.is_cancelled());
    assert_eq!(world.get(&format!("/v1/videos/{id}")).await.json()["state"], "in_progress");
}

#[tokio::test]
async fn a_shutdown_ends_the_stream_and_says_so() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let mut reader = Reader::follow(&world, &id).await;
    reader.expect("video.snapshot").await;
    world.health.send_replace(Health::Draining);
    assert_eq!(reader.expect("error").await["code"], "server_draining");
    reader.expect_end().await;
}

#[tokio::test]
async fn a_comment_every_15_seconds_keeps_the_stream_open() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let mut reader = Reader::follow(&world, &id).await;
    reader.expect("video.snapshot").await;
    // From here on nobody but the timer has anything to do, and the clock jumps to it.
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(reader.frame().await.unwrap(), [": ping"]);
    }
    assert_eq!(before.elapsed().as_secs(), 150, "longer than the timeout of other requests");
}
