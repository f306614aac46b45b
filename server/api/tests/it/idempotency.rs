//! The same request twice: one video.

use axum::http::{Method, header};
use queue::{KeyLimits, Scope};
use serde_json::{Value, json};

use crate::world::{Answer, World};

async fn make(world: &World, headers: &[(&str, &str)], body: Value) -> Answer {
    world.ask(Method::POST, "/v1/videos", headers, Some(body)).await
}

fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_key_and_the_same_fields_give_the_same_video_however_they_are_sent() {
    let world = World::new().await;
    let key = [("idempotency-key", "order-7")];
    let body = json!({ "prompt": "a cat", "seconds": 4, "metadata": { "b": "2", "a": "1" } });
    let first = make(&world, &key, body).await;
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let again = make(
        &world,
        &key,
        json!({ "metadata": { "a": "1", "b": "2" }, "seconds": "4.0", "prompt": "a cat" }),
    )
    .await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(again.json(), first.json(), "the seed, which was drawn, included");
    let form = axum::http::Request::post("/v1/videos")
        .header("idempotency-key", "order-7")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body("metadata%5Bb%5D=2&metadata%5Ba%5D=1&prompt=a+cat&seconds=4".into());
    assert_eq!(id(&world.send(form.unwrap()).await), id(&first));
    assert_eq!(world.queue.counts().await.unwrap().queued, 1);
    assert_ne!(
        id(&make(&world, &[("idempotency-key", "order-8")], json!({ "prompt": "a cat" })).await),
        id(&first)
    );
}

#[tokio::test]
async fn a_key_with_other_fields_is_refused() {
    let world = World::new().await;
    let key = [("idempotency-key", "order-7")];
    let source = world.completed(b"an mp4").await;
    make(&world, &key, json!({ "prompt": "a cat" })).await;
    for body in [json!({ "prompt": "a dog" }), json!({ "prompt": "a cat", "seed": 1 })] {
        let answer = make(&world, &key, body).await;
        answer.assert_refused(422, "idempotency_key_reuse");
        assert_eq!(answer.error()["type"], "invalid_request_error");
    }
    let remix = format!("/v1/videos/{source}/remix");
    let answer = world.ask(Method::POST, &remix, &key, Some(json!({ "prompt": "a cat" }))).await;
    answer.assert_refused(422, "idempotency_key_reuse");
}

#[tokio::test]
async fn a_key_is_one_value_of_visible_ascii() {
    let world = World::new().await;
    for key in ["", "two words", "café", &"k".repeat(256)] {
        let answer = make(&world, &[("idempotency-key", key)], json!({ "prompt": "a cat" })).await;
        answer.assert_refused(400, "invalid_idempotency_key");
        assert_eq!(answer.error()["param"], "idempotency-key");
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    make(&world, &twice, json!({ "prompt": "a cat" })).await.assert_refused(400, "invalid_idempotency_key");
    id(&make(&world, &[("idempotency-key", &"k".repeat(255))], json!({ "prompt": "a cat" })).await);
}

#[tokio::test]
async fn a_full_queue_and_a_server_that_stops_still_answer_a_repeated_request() {
    let world = World::new().await;
    let key = [("idempotency-key", "order-7")];
    let first = make(&world, &key, json!({ "prompt": "a cat" })).await;
    for _ in 0..2 {
        world.queued("a cat").await;
    }
    make(&world, &[], json!({ "prompt": "a cat" })).await.assert_refused(429, "queue_full");
    assert_eq!(id(&make(&world, &key, json!({ "prompt": "a cat" })).await), id(&first));
    world.health.send_replace(api::Health::Draining);
    assert_eq!(id(&make(&world, &key, json!({ "prompt": "a cat" })).await), id(&first));
}

#[tokio::test]
async fn a_clients_own_retry_is_known_by_its_count() {
    let world = World::new().await;
    let tried = async |count: &str| {
        make(&world, &[("x-stainless-retry-count", count)], json!({ "prompt": "a cat" })).await
    };
    let first = tried("0").await;
    let retry = tried("1").await;
    assert_eq!((id(&retry), retry.header("idempotent-replayed")), (id(&first), "true"));
    let second = tried("0").await;
    assert_ne!(id(&second), id(&first), "a new request, as the client counts");
    assert_eq!(id(&tried("2").await), id(&second));
    let other = make(&world, &[("x-stainless-retry-count", "1")], json!({ "prompt": "a dog" })).await;
    assert_ne!(id(&other), id(&first), "other fields");
    assert!(!other.headers.contains_key("idempotent-replayed"));
}

#[tokio::test]
async fn a_deleted_video_frees_its_key() {
    let world = World::new().await;
    let key = [("idempotency-key", "order-7")];
    let first = id(&make(&world, &key, json!({ "prompt": "a cat" })).await);
    world.call(Method::DELETE, &format!("/v1/videos/{first}")).await;
    assert_ne!(id(&make(&world, &key, json!({ "prompt": "a dog" })).await), first);
}

#[tokio::test]
async fn remixes_and_other_tries_are_known_again_too() {
    let world = World::new().await;
    let source = world.completed(b"an mp4").await;
    for (operation, body) in [("remix", Some(json!({ "prompt": "a dog" }))), ("retry", None)] {
        let path = format!("/v1/videos/{source}/{operation}");
        let ask = async |count| {
            world.ask(Method::POST, &path, &[("x-stainless-retry-count", count)], body.clone()).await
        };
        let first = ask("0").await;
        assert_eq!(id(&ask("1").await), id(&first), "{operation}");
    }
}

#[tokio::test]
async fn each_api_key_has_its_own_idempotency_keys() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for name in ["one", "other"] {
        let key = world.key(name, &[Scope::Submit], KeyLimits::default()).await;
        let authorization = format!("Bearer {key}");
        let headers = [("authorization", authorization.as_str()), ("idempotency-key", "order-7")];
        ids.push(id(&make(&world, &headers, json!({ "prompt": "a cat" })).await));
    }
    assert_ne!(ids[0], ids[1]);
}
