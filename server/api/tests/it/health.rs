//! Liveness and readiness.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::{Device, Health};
use queue::KeyLimits;
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn readiness_follows_the_worker_and_liveness_does_not() {
    let world = World::new().await;
    world.queued("a cat").await;
    world.queued("a dog").await;
    let _running = world.claim().await;
    let devices = json!([{ "device": "cpu", "status": "ready" }, { "device": "cuda:1", "status": "ready" }]);
    let ready =
        json!({ "status": "ready", "reasons": [], "devices": devices, "queued": 1, "in_progress": 1 });
    for path in ["/readyz", "/healthz"] {
        let answer = world.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, ready.clone()), "a busy server is ready");
    }
    for (health, status, reason) in [
        (Health::Starting, "starting", "the model is being loaded"),
        (Health::Waiting("1 of 2 GiB".to_owned()), "starting", "1 of 2 GiB"),
        (Health::Draining, "draining", "the server is shutting down"),
        (Health::Failed("no device".to_owned()), "failed", "no device"),
    ] {
        world.health.send_replace(health);
        for path in ["/readyz", "/healthz"] {
            let answer = world.get(path).await;
            assert_eq!(answer.status, 503);
            assert_eq!(
                (&answer.json()["status"], &answer.json()["reasons"]),
                (&json!(status), &json!([reason]))
            );
        }
        let alive = world.get("/livez").await;
        assert_eq!((alive.status.as_u16(), alive.json()), (200, json!({ "status": "alive" })));
    }
}

#[tokio::test]
async fn readiness_sees_a_full_disk_without_a_floor_and_looks_once_a_second() {
    let (free, looks) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (seen, counted) = (Arc::clone(&free), Arc::clone(&looks));
    let world = World::custom(KeyLimits::default(), |state| {
        state.limits.min_free_bytes = 0;
        state.free_bytes = Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let bytes = seen.load(Ordering::SeqCst);
            Box::pin(async move { Some(bytes) })
        });
    })
    .await;
    for _ in 0..3 {
        let answer = world.get("/readyz").await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json()["reasons"], json!(["the disk has no room for another video"]));
    }
    assert_eq!(looks.load(Ordering::SeqCst), 1, "the answer stands for a second");

    free.store(1 << 30, Ordering::SeqCst);
    assert_eq!(world.get("/readyz").await.status, 503, "what was found a moment ago");
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.get("/readyz").await.status, 200);
    assert_eq!(looks.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_server_whose_devices_work_in_part_takes_videos_and_says_what_is_wrong() {
    let world = World::new().await;
    let failed = |name: &str, reason: &str| Device {
        name: name.to_owned(),
        health: Health::Failed(reason.to_owned()),
    };
    let starting = Device { name: "cuda:1".to_owned(), health: Health::Starting };
    world.devices.send_modify(|devices| {
        devices.extend([
            failed("cuda:2", "no memory"),
            failed("cuda:3", "device cuda:3: not there"),
            starting,
        ]);
    });
    let answer = world.get("/readyz").await;
    assert_eq!(answer.status, 200);
    let body = answer.json();
    assert_eq!(body["status"], "degraded");
    assert_eq!(body["reasons"], json!(["device cuda:2: no memory", "device cuda:3: not there"]));
    let states: Vec<_> = body["devices"].as_array().unwrap().iter().map(|device| &device["status"]).collect();
    assert_eq!(states, ["ready", "ready", "failed", "failed", "starting"]);
    assert_eq!(world.get("/v1/queue").await.json()["workers"], 2);
    let capabilities = world.get("/v1/capabilities").await.json();
    assert_eq!(capabilities["devices"], json!(["cpu", "cuda:1", "cuda:2", "cuda:3", "cuda:1"]));
    assert_eq!(world.post_json(json!({ "prompt": "a cat" })).await.status, 200);
}
