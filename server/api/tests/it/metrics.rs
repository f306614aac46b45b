//! What Prometheus is told.

use std::time::Duration;

use axum::http::Method;
use queue::{JobError, Scope};

use crate::world::{World, text_to_video};

/// Asserts that the text has each of these lines.
#[track_caller]
fn assert_lines(text: &str, expected: &[&str]) {
    for line in expected {
        assert!(text.lines().any(|found| found == *line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn the_queue_and_the_disk_are_gauged_when_asked() {
    let world = World::new().await;
    let _recorder = metrics::set_default_local_recorder(&world.recorder);
    world.completed(b"an mp4").await;
    world.queued("runs").await;
    world.claim().await;
    world.queued("waits").await;
    world.clock.advance(Duration::from_secs(90));
    world.call(Method::POST, "/v1/queue/pause").await;
    let answer = world.get("/metrics").await;
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let version = format!("cogvideox_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    let model = format!("cogvideox_model_info{{model=\"{}\",precision=\"f32\"}} 1", text_to_video().id);
    let gauges = [
        version.as_str(),
        model.as_str(),
        "cogvideox_ready 1",
        "cogvideox_queue_jobs{state=\"queued\"} 1",
        "cogvideox_queue_jobs{state=\"running\"} 1",
        "cogvideox_queue_capacity 3",
        "cogvideox_queue_oldest_age_seconds 90",
        "cogvideox_queue_paused 1",
        "cogvideox_webhook_outbox_pending 0",
        "cogvideox_storage_bytes{kind=\"videos\"} 6",
        "cogvideox_storage_free_bytes 1099511627776",
    ];
    assert_lines(&answer.text(), &gauges);
    world.health.send_replace(api::Health::Failed("it broke".to_owned()));
    assert_lines(&world.get("/metrics").await.text(), &["cogvideox_ready 0"]);
}

#[tokio::test]
async fn jobs_are_counted_by_how_they_end() {
    let world = World::new().await;
    let _recorder = metrics::set_default_local_recorder(&world.recorder);
    let key = world.key_for("studio", &[Scope::Submit, Scope::Read]).await;
    world.queued_by(&key, "fails").await;
    let claim = world.claim().await;
    world.clock.advance(Duration::from_secs(30));
    let error = JobError { code: "nan_latents".to_owned(), message: "no numbers".to_owned() };
    world.queue.fail(&claim.lease, error).await.unwrap();
    world.queued_by(&key, "is made").await;
    world.clock.advance(Duration::from_secs(5));
    let claim = world.claim().await;
    world.clock.advance(Duration::from_secs(12));
    world.complete(&claim, b"an mp4").await;
    world.queue.expire_before(i64::MAX).await.unwrap();
    let lines = [
        "cogvideox_jobs_submitted_total{model=\"cogvideox-2b\"} 2",
        "cogvideox_jobs_total{status=\"failed\",reason=\"nan_latents\",model=\"cogvideox-2b\"} 1",
        "cogvideox_jobs_total{status=\"completed\",reason=\"\",model=\"cogvideox-2b\"} 1",
        "cogvideox_job_queue_seconds_sum 5",
        "cogvideox_job_queue_seconds_count 2",
        "cogvideox_job_duration_seconds_sum 12",
        "cogvideox_files_expired_total 1",
        "cogvideox_gpu_seconds_total{api_key_name=\"studio\"} 42",
    ];
    let request = axum::http::Request::get("/metrics").header("authorization", format!("Bearer {key}"));
    let text = world.send(request.body(axum::body::Body::empty()).unwrap()).await.text();
    assert_lines(&text, &lines);
    assert!(!text.contains("video_0") && !text.contains("is made"), "no ids and no prompts");
}

#[tokio::test]
async fn requests_are_counted_by_route_and_never_by_path() {
    let world = World::new().await;
    let _recorder = metrics::set_default_local_recorder(&world.recorder);
    let id = world.queued("a cat").await;
    world.get(&format!("/v1/videos/{id}")).await;
    world.get("/v1/videos/video_none").await;
    world.get("/wp-admin.php").await;
    world.call(Method::from_bytes(b"BREW").unwrap(), "/livez").await;
    world.call(Method::PUT, "/livez").await;
    let text = world.get("/metrics").await.text();
    let lines = [
        "http_requests_total{method=\"POST\",route=\"/v1/videos\",status=\"200\"} 1",
        "http_requests_total{method=\"GET\",route=\"/v1/videos/{video_id}\",status=\"200\"} 1",
        "http_requests_total{method=\"GET\",route=\"/v1/videos/{video_id}\",status=\"404\"} 1",
        "http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 1",
        "http_requests_total{method=\"other\",route=\"/livez\",status=\"405\"} 1",
        "http_requests_total{method=\"PUT\",route=\"/livez\",status=\"405\"} 1",
        "http_request_duration_seconds_count{method=\"POST\",route=\"/v1/videos\"} 1",
        // This one.
        "http_requests_in_flight 1",
    ];
    assert_lines(&text, &lines);
    assert!(!text.contains(&id) && !text.contains("wp-admin") && !text.contains("BREW"));
}
