//! Following a video: the frames of the stream, in order, to the end.

use std::time::Duration;

use api::{Health, Limits};
use axum::http::{Method, StatusCode};
use queue::{Claim, JobError, KeyLimits, Progress, Scope, Stage};
use serde_json::{Value, json};

use crate::reader::{Ask, Reader};
use crate::world::World;

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
    assert_eq!(reader.expect("video.stage").await, json!({ "video_id": id, "stage": "text_encode" }));
    assert_eq!(
        reader.expect("video.progress").await,
        json!({
            "video_id": id, "step": 0, "total_steps": 50, "percent": 2, "step_seconds": null, "eta_seconds": null
        })
    );
    for step in 1..=50 {
        world.clock.advance(Duration::from_secs(3));
        report(&world, &claim, Stage::Denoise, step, 2 + step as u8).await;
        if step == 1 {
            assert_eq!(reader.expect("video.stage").await, json!({ "video_id": id, "stage": "denoise" }));
        }
        let progress = reader.expect("video.progress").await;
        assert_eq!((&progress["step"], &progress["percent"]), (&json!(step), &json!(2 + step)));
        let step_seconds = if step == 1 { Value::Null } else { json!(3.0) };
        assert_eq!(progress["step_seconds"], step_seconds, "the first step has none before it");
    }
    report(&world, &claim, Stage::VaeDecode, 50, 90).await;
    assert_eq!(reader.expect("video.stage").await, json!({ "video_id": id, "stage": "vae_decode" }));
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
    let progress = reader.expect("video.progress").await;
    assert_eq!((&progress["step"], &progress["percent"]), (&json!(1), &json!(60)), "percents never fall");
}

#[tokio::test]
async fn a_reader_that_is_behind_is_told_the_latest_progress() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let mut reader = Reader::follow(&world, &id).await;
    reader.expect("video.snapshot").await;
    let claim = world.claim().await;
    for step in 1..=900 {
        report(&world, &claim, Stage::Denoise, step, 50).await;
    }
    world.call(Method::POST, &format!("/v1/videos/{id}/cancel")).await;
    report(&world, &claim, Stage::Denoise, 901, 51).await;
    report(&world, &claim, Stage::VaeDecode, 901, 90).await;
    world.queue.cancelled(&claim.lease).await.unwrap();
    let told: Vec<_> =
        reader.rest().await.into_iter().map(|event| (event.name, event.data["step"].clone())).collect();
    let expected = [
        ("video.started", json!(0)),
        ("video.stage", Value::Null),
        ("video.progress", json!(900)),
        ("video.cancelling", json!(900)),
        ("video.stage", Value::Null),
        ("video.progress", json!(901)),
        ("video.cancelled", json!(901)),
    ];
    assert_eq!(told, expected.map(|(name, step)| (name.to_owned(), step)));
}

#[tokio::test]
async fn a_reader_out_of_reach_is_told_every_durable_event_and_a_fresh_snapshot() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let mut reader = Reader::follow(&world, &id).await;
    reader.expect("video.snapshot").await;
    let claim = world.claim().await;
    // More news than the queue keeps for anyone.
    for step in 1..=3000 {
        report(&world, &claim, Stage::Denoise, step, 50).await;
    }
    world.queue.requeue(&claim.lease).await.unwrap();
    let claim = world.claim().await;
    report(&world, &claim, Stage::Denoise, 20, 60).await;
    for name in ["video.started", "video.queued", "video.started"] {
        reader.expect(name).await;
    }
    let snapshot = reader.event().await.unwrap();
    assert_eq!((snapshot.name.as_str(), &snapshot.data["step"]), ("video.snapshot", &json!(20)));
    assert_eq!(snapshot.id, world.queue.last_event().await.unwrap().to_string());
    // What it says was told; what comes is news.
    report(&world, &claim, Stage::Denoise, 21, 61).await;
    assert_eq!(reader.expect("video.progress").await["step"], 21);
    for step in 22..=3000 {
        report(&world, &claim, Stage::Denoise, step, 61).await;
    }
    world.complete(&claim, b"an mp4").await;
    assert_eq!(reader.expect("video.completed").await["state"], "completed");
    reader.expect_end().await;
}

#[tokio::test]
async fn news_are_written_out_once_for_all_readers() {
    let world = World::new().await;
    let _recorder = metrics::set_default_local_recorder(&world.recorder);
    let id = world.queued("a cat").await;
    let mut readers = Vec::new();
    for _ in 0..20 {
        let mut reader = Reader::follow(&world, &id).await;
        reader.expect("video.snapshot").await;
        readers.push(reader);
    }
    let mut all = Reader::follow_all(&world, Ask::default()).await;
    let claim = world.claim().await;
    report(&world, &claim, Stage::Denoise, 1, 5).await;
    world.complete(&claim, b"an mp4").await;
    let expected = ["video.started", "video.stage", "video.progress", "video.completed"];
    let first = readers[0].until("video.completed").await;
    assert_eq!(first.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), expected);
    for reader in &mut readers[1..] {
        assert_eq!(reader.rest().await, first);
    }
    assert_eq!(all.until("video.completed").await, first);
    let metrics = world.get("/metrics").await.text();
    assert!(metrics.contains("\ncogvideox_sse_rendered_total 3\n"), "{metrics}");
}

#[tokio::test]
async fn previews_are_for_those_who_want_them() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let path = format!("/v1/videos/{id}/events");
    let mut without = Reader::follow(&world, &id).await;
    let claim = world.claim().await;
    assert!(!world.queue.previews_wanted(claim.video.id));
    let mut one = Reader::ask(&world, &format!("{path}?preview=1"), Ask::default()).await.unwrap();
    let mut all = Reader::ask(&world, "/v1/events?preview=1", Ask::default()).await.unwrap();
    assert!(world.queue.previews_wanted(claim.video.id));
    world.queue.show_preview(&claim.lease, 7, b"a jpeg".to_vec());
    let preview = json!({ "video_id": id, "step": 7, "content_type": "image/jpeg", "b64": "YSBqcGVn" });
    one.expect("video.snapshot").await;
    assert_eq!(one.expect("video.preview").await, preview);
    assert_eq!(one.last_id, format!("{}.7", world.queue.last_event().await.unwrap()));
    all.frame().await.unwrap();
    assert_eq!(all.expect("video.preview").await, preview);
    drop((one, all));
    assert!(!world.queue.previews_wanted(claim.video.id), "nobody looks any more");
    world.queue.cancelled(&claim.lease).await.unwrap();
    assert!(without.rest().await.iter().all(|event| event.name != "video.preview"));
}

#[tokio::test]
async fn no_previews_are_made_where_the_operator_wants_none() {
    let world = World::custom(KeyLimits::default(), |state| state.previews = false).await;
    let id = world.queued("a cat").await;
    let path = format!("/v1/videos/{id}/events?preview=1");
    let mut reader = Reader::ask(&world, &path, Ask::default()).await.unwrap();
    let claim = world.claim().await;
    assert!(!world.queue.previews_wanted(claim.video.id));
    reader.expect("video.snapshot").await;
}

#[tokio::test]
async fn streams_are_counted_and_bounded() {
    let limits = Limits { max_streams_per_key: 2, max_streams: 3, ..Limits::default() };
    let world = World::with(limits).await;
    let _recorder = metrics::set_default_local_recorder(&world.recorder);
    let (one, two) = (world.key_for("one", &[Scope::Read]).await, world.key_for("two", &[Scope::Read]).await);
    let ask = |key| Ask { key: Some(key), ..Ask::default() };
    let first = Reader::follow_all(&world, ask(&one)).await;
    let _second = Reader::follow_all(&world, ask(&one)).await;
    assert_eq!(Reader::ask(&world, "/v1/events", ask(&one)).await.err(), Some(StatusCode::TOO_MANY_REQUESTS));
    let _other = Reader::follow_all(&world, ask(&two)).await;
    assert!(world.get("/metrics").await.text().contains("\ncogvideox_sse_subscribers 3\n"));
    assert_eq!(Reader::ask(&world, "/v1/events", ask(&two)).await.err(), Some(StatusCode::TOO_MANY_REQUESTS));
    drop(first);
    Reader::follow_all(&world, ask(&one)).await;
    assert!(world.get("/metrics").await.text().contains("\ncogvideox_sse_subscribers 2\n"));
}

#[tokio::test]
async fn the_videos_of_other_keys_are_not_heard_of() {
    let world = World::new().await;
    let (one, two) = (
        world.key_for("one", &[Scope::Read, Scope::Submit]).await,
        world.key_for("two", &[Scope::Read]).await,
    );
    let admin = world.key_for("admin", &[Scope::Admin]).await;
    let ask = |key| Ask { key: Some(key), ..Ask::default() };
    let mut own = Reader::follow_all(&world, ask(&one)).await;
    let mut other = Reader::follow_all(&world, ask(&two)).await;
    let mut everything = Reader::follow_all(&world, ask(&admin)).await;
    let id = world.queued_by(&one, "a cat").await;
    let path = format!("/v1/videos/{id}/events");
    assert_eq!(Reader::ask(&world, &path, ask(&two)).await.err(), Some(StatusCode::NOT_FOUND));
    assert_eq!(Reader::ask(&world, &path, Ask::default()).await.err(), Some(StatusCode::UNAUTHORIZED));
    assert_eq!(own.expect("video.queued").await["id"], id);
    assert_eq!(everything.expect("video.queued").await["id"], id);
    // Also what is past is theirs alone.
    let again = Ask { key: Some(&two), last_event_id: Some("0") };
    let mut again = Reader::follow_all(&world, again).await;
    world.health.send_replace(Health::Draining);
    again.expect("error").await;
    other.expect("error").await;
}

#[tokio::test]
async fn a_revoked_key_hears_no_more() {
    let world = World::new().await;
    let key = world.key_for("one", &[Scope::Read]).await;
    let mut reader = Reader::follow_all(&world, Ask { key: Some(&key), ..Ask::default() }).await;
    world.keys().await.revoke("one").await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(16)).await;
    // The database has no clock of ours.
    tokio::time::resume();
    assert_eq!(reader.expect("error").await["code"], "invalid_api_key");
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
