//! Too much: requests a minute, videos that wait, bytes on the disk. And the count of what was refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::Method;
use metrics_exporter_prometheus::PrometheusBuilder;
use queue::{KeyLimits, Scope};
use serde_json::json;

use crate::world::{Answer, World};

async fn list(world: &World, key: &str) -> Answer {
    world.ask(Method::GET, "/v1/videos", &[("authorization", &format!("Bearer {key}"))], None).await
}

async fn make(world: &World, key: &str) -> Answer {
    let authorization = format!("Bearer {key}");
    let body = Some(json!({ "prompt": "a cat" }));
    world.ask(Method::POST, "/v1/videos", &[("authorization", &authorization)], body).await
}

#[tokio::test]
async fn a_key_may_ask_so_often_a_minute_and_then_at_that_pace() {
    let most = KeyLimits { requests_per_minute: Some(6), ..KeyLimits::default() };
    let world = World::custom(most, |_| {}).await;
    let scopes = [Scope::Read];
    let key = world.key("busy", &scopes, KeyLimits::default()).await;
    let other = world.key("calm", &scopes, KeyLimits::default()).await;
    let own = KeyLimits { requests_per_minute: Some(60), ..KeyLimits::default() };
    let fast = world.key("fast", &scopes, own).await;
    for _ in 0..6 {
        assert_eq!(list(&world, &key).await.status, 200);
    }
    let answer = list(&world, &key).await;
    answer.assert_refused(429, "rate_limit_exceeded");
    assert_eq!(answer.error()["type"], "rate_limit_exceeded");
    assert_eq!((answer.header("retry-after"), answer.header("retry-after-ms")), ("10", "10000"));
    assert_eq!(list(&world, &other).await.status, 200, "each key has its own");
    for _ in 0..60 {
        assert_eq!(list(&world, &fast).await.status, 200, "a key's own limit counts");
    }
    list(&world, &fast).await.assert_refused(429, "rate_limit_exceeded");
    world.clock.advance(Duration::from_secs(9));
    assert_eq!(list(&world, &key).await.header("retry-after-ms"), "1000");
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(list(&world, &key).await.status, 200);
    list(&world, &key).await.assert_refused(429, "rate_limit_exceeded");
    assert_eq!(world.get("/v1/capabilities").await.status, 200, "what needs no key counts for none");
}

#[tokio::test]
async fn a_key_has_so_many_videos_waiting() {
    let world = World::custom(KeyLimits { max_queued: Some(1), ..KeyLimits::default() }, |_| {}).await;
    let scopes = [Scope::Submit];
    let key = world.key("one", &scopes, KeyLimits::default()).await;
    let other = world.key("other", &scopes, KeyLimits::default()).await;
    assert_eq!(make(&world, &key).await.status, 200);
    let answer = make(&world, &key).await;
    answer.assert_refused(429, "queue_full");
    assert!(answer.error()["message"].as_str().unwrap().contains("this API key"), "{}", answer.text());
    assert_eq!(answer.header("retry-after"), "15");
    assert_eq!(make(&world, &other).await.status, 200);
}

#[tokio::test]
async fn a_full_disk_takes_no_videos_and_says_that_trying_again_is_of_no_use() {
    let free = Arc::new(AtomicU64::new(999));
    let seen = Arc::clone(&free);
    let world = World::custom(KeyLimits::default(), |state| {
        state.limits.min_free_bytes = 1000;
        state.free_bytes = Arc::new(move || {
            let bytes = seen.load(Ordering::SeqCst);
            Box::pin(async move { (bytes > 0).then_some(bytes) })
        });
    })
    .await;
    let answer = world.post_json(json!({ "prompt": "a cat" })).await;
    answer.assert_refused(503, "insufficient_storage");
    assert_eq!(answer.header("x-should-retry"), "false");
    assert!(!answer.headers.contains_key("retry-after"));
    assert!(!answer.text().contains("999"), "how much there is, is nobody's business");
    for bytes in [1000, 0] {
        free.store(bytes, Ordering::SeqCst);
        assert_eq!(world.post_json(json!({ "prompt": "a cat" })).await.status, 200, "0: nobody knows");
    }
}

#[tokio::test]
async fn what_is_refused_is_counted_by_its_code() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let world = World::new().await;
    world.post_json(json!({ "prompt": "" })).await;
    world.post("text/plain", "").await;
    let id = world.queued("a cat").await;
    world.call(Method::POST, &format!("/v1/videos/{id}/retry")).await;
    let remix = Some(json!({ "prompt": "a dog" }));
    world.ask(Method::POST, &format!("/v1/videos/{id}/remix"), &[], remix).await;
    for _ in 0..3 {
        world.post_json(json!({ "prompt": "a cat" })).await;
    }
    let text = recorder.handle().render();
    let mut counted: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("cogvideox_jobs_rejected_total")).collect();
    counted.sort_unstable();
    assert_eq!(
        counted,
        [
            "{reason=\"empty_prompt\"} 1",
            "{reason=\"queue_full\"} 1",
            "{reason=\"unsupported_media_type\"} 1",
            "{reason=\"video_not_ready\"} 2",
        ]
    );
}
