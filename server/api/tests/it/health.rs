//! Liveness and readiness.

use api::Health;
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn readiness_follows_the_worker_and_liveness_does_not() {
    let world = World::new().await;
    world.queued("a cat").await;
    world.queued("a dog").await;
    let _running = world.claim().await;
    let ready = json!({ "status": "ready", "reasons": [], "queued": 1, "in_progress": 1 });
    for path in ["/readyz", "/healthz"] {
        let answer = world.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, ready.clone()), "a busy server is ready");
    }
    for (health, status, reason) in [
        (Health::Starting, "starting", "the model is being loaded"),
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
