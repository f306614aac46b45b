//! `Prefer: wait=N`: the answer when the video has ended.

use std::time::Duration;

use api::{Health, Limits};
use axum::http::Method;
use serde_json::json;

use crate::world::{Answer, World};

async fn make(world: &World, prefer: &str) -> Answer {
    world.ask(Method::POST, "/v1/videos", &[("prefer", prefer)], Some(json!({ "prompt": "a cat" }))).await
}

/// A worker that makes the next video as soon as there is one.
async fn work(world: &World) {
    world.queue.work_available().await;
    let claim = world.claim().await;
    world.complete(&claim, b"an mp4").await;
}

#[tokio::test]
async fn the_answer_comes_with_the_end_of_the_video() {
    let world = World::new().await;
    let before = std::time::Instant::now();
    let (answer, ()) = tokio::join!(make(&world, "respond-async, Wait=\"30\"; x=1"), work(&world));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!((&answer.json()["status"], &answer.json()["bytes"]), (&json!("completed"), &json!(6)));
    assert_eq!(answer.header("preference-applied"), "wait=30");
    assert!(!answer.headers.contains_key("openai-poll-after-ms"));
    assert!(before.elapsed() < Duration::from_secs(20));
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.json(), world.get(&format!("/v1/videos/{id}")).await.json());
}

#[tokio::test]
async fn the_answer_comes_as_it_is_when_the_time_is_up() {
    // Longer than a request may take otherwise.
    let limits = Limits {
        request_timeout: Duration::from_millis(500),
        max_wait: Duration::from_secs(1),
        ..Limits::default()
    };
    let world = World::with(limits).await;
    let before = std::time::Instant::now();
    let answer = make(&world, "wait=100").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["status"]), (200, &json!("queued")));
    assert_eq!(answer.header("preference-applied"), "wait=1", "as much as the server grants");
    assert_eq!(answer.header("openai-poll-after-ms"), "1000");
    assert!(before.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_preference_that_is_none_is_passed_over() {
    let world = World::new().await;
    for prefer in ["wait=soon", "wait=-1", "wait", "wait=0"] {
        let answer = make(&world, prefer).await;
        assert!(!answer.headers.contains_key("preference-applied"), "{prefer}");
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        world.call(Method::DELETE, &format!("/v1/videos/{id}")).await;
    }
    let never = World::with(Limits { max_wait: Duration::ZERO, ..Limits::default() }).await;
    assert!(!make(&never, "wait=5").await.headers.contains_key("preference-applied"));
}

#[tokio::test]
async fn a_shutdown_and_a_cancellation_end_the_wait() {
    let world = World::new().await;
    let cancel = async {
        world.queue.work_available().await;
        let id = world.get("/v1/videos").await.json()["first_id"].as_str().unwrap().to_owned();
        world.call(Method::POST, &format!("/v1/videos/{id}/cancel")).await;
    };
    let (answer, ()) = tokio::join!(make(&world, "wait=100"), cancel);
    assert_eq!((answer.status.as_u16(), &answer.json()["state"]), (200, &json!("cancelled")));
    let stop = async {
        world.queue.work_available().await;
        world.health.send_replace(Health::Draining);
    };
    let (answer, ()) = tokio::join!(make(&world, "wait=100"), stop);
    assert_eq!((answer.status.as_u16(), &answer.json()["state"]), (200, &json!("queued")));
}

#[tokio::test]
async fn a_repeated_request_for_a_finished_video_does_not_wait() {
    let world = World::new().await;
    let headers = [("idempotency-key", "order-7"), ("prefer", "wait=100")];
    let ask = || world.ask(Method::POST, "/v1/videos", &headers, Some(json!({ "prompt": "a cat" })));
    let (first, ()) = tokio::join!(ask(), work(&world));
    let again = ask().await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.json(), first.json());
}
