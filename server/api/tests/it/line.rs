//! The queue as a whole, and what the server says it can do.

use std::time::Duration;

use axum::http::Method;
use queue::{KeyLimits, Progress, Scope, Stage};
use serde_json::json;

use crate::world::{NOTICE, World};

#[tokio::test]
async fn the_queue_says_how_much_there_is_to_do_and_how_long_it_will_take() {
    let world = World::new().await;
    assert_eq!(
        world.get("/v1/queue").await.json(),
        json!({
            "object": "queue", "paused": false, "queued": 0, "in_progress": 0, "capacity": 3, "workers": 2,
            "step_seconds": null, "eta_seconds": null,
        })
    );
    world.queued("a cat").await;
    world.queued("a dog").await;
    let claim = world.claim().await;
    for step in [10, 11] {
        world.clock.advance(Duration::from_secs(2));
        let progress = Progress { stage: Stage::Denoise, step, total_steps: 50, percent: 20 };
        world.queue.set_progress(&claim.lease, progress).await.unwrap();
    }
    let queue = world.get("/v1/queue").await.json();
    assert_eq!((&queue["queued"], &queue["in_progress"]), (&json!(1), &json!(1)));
    assert_eq!((&queue["step_seconds"], &queue["eta_seconds"]), (&json!(2.0), &json!(39.0 * 2.0 + 100.0)));
}

#[tokio::test]
async fn a_paused_queue_takes_videos_and_begins_none() {
    let world = World::new().await;
    let paused = world.call(Method::POST, "/v1/queue/pause").await;
    assert_eq!((paused.status.as_u16(), &paused.json()["paused"]), (200, &json!(true)));
    world.queued("a cat").await;
    assert!(!world.work_waits().await);
    let resumed = world.call(Method::POST, "/v1/queue/resume").await.json();
    assert_eq!((&resumed["paused"], &resumed["queued"]), (&json!(false), &json!(1)));
    assert!(world.work_waits().await);
}

#[tokio::test]
async fn the_capabilities_are_all_that_a_page_needs() {
    let world = World::custom(KeyLimits::default(), |state| {
        state.check_webhook_url = Some(std::sync::Arc::new(|_| Ok(())));
        state.limits.max_wait = Duration::from_secs(90);
    })
    .await;
    let capabilities = world.get("/v1/capabilities").await.json();
    let card = json!({
        "id": "cogvideox-2b", "default": true, "dtype": "f32", "sizes": ["720x480"], "default_size": "720x480",
        "num_frames": { "min": 9, "max": 49, "stride": 8, "default": 49 }, "fps": 8,
        "seconds": ["1.125", "2.125", "3.125", "4.125", "5.125", "6.125"],
        "num_inference_steps": { "default": 50, "max": 100, "refused": [6, 7] },
        "guidance_scale": { "default": 6.0, "min": 0.0, "max": 100.0 }, "use_dynamic_cfg": false,
        "schedulers": ["ddim", "dpm"], "default_scheduler": "ddim", "max_prompt_tokens": 226,
        "supports_image": false, "lora": [], "notice": NOTICE,
    });
    assert_eq!(capabilities["models"][0], card);
    let other = &capabilities["models"][1];
    assert_eq!((&other["id"], &other["default"]), (&json!("cogvideox-5b-i2v"), &json!(false)));
    assert_eq!(capabilities["object"], "capabilities");
    assert_eq!(capabilities["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        capabilities["limits"],
        json!({
            "max_prompt_chars": 10_000, "max_body_bytes": 26 << 20, "queue_capacity": 3, "max_image_bytes": 16 << 20, "max_lora": 8, "max_wait_seconds": 90,
        })
    );
    let mut features = json!({
        "api_keys": false, "refine_prompt": false, "prompt_check": false, "webhooks": true, "previews": true,
    });
    assert_eq!(capabilities["features"], features);
    world.key("studio", &[Scope::Read], KeyLimits::default()).await;
    features["api_keys"] = json!(true);
    assert_eq!(world.get("/v1/capabilities").await.json()["features"], features);
}
