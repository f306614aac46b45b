//! What an operator may switch on or off: webhooks, OpenAI's model names; and what a foreign client may ask for.

use std::sync::Arc;

use axum::http::Method;
use queue::KeyLimits;
use serde_json::json;

use crate::world::{NOTICE, World};

#[tokio::test]
async fn a_webhook_is_kept_if_it_would_be_called() {
    let world = World::custom(KeyLimits::default(), |state| {
        state.check_webhook_url = Some(Arc::new(|url: &str| {
            if url.starts_with("https://") { Ok(()) } else { Err("it must be https".to_owned()) }
        }));
    })
    .await;
    let make = async |url: &str| world.post_json(json!({ "prompt": "a cat", "webhook_url": url })).await;
    assert_eq!(make("https://example.org/hook").await.json()["webhook_url"], "https://example.org/hook");
    let answer = make("http://10.0.0.1/").await;
    answer.assert_refused(400, "invalid_webhook_url");
    assert_eq!(answer.error()["param"], "webhook_url");
    assert!(answer.error()["message"].as_str().unwrap().contains("it must be https"));
    assert_eq!(world.queue.counts().await.unwrap().queued, 1);
}

#[tokio::test]
async fn what_is_switched_off_is_refused_and_not_passed_over() {
    let world = World::new().await;
    for (field, value) in [("webhook_url", json!("https://example.org/hook")), ("refine_prompt", json!(true))]
    {
        let answer = world.post_json(json!({ "prompt": "a cat", field: value })).await;
        answer.assert_refused(400, "unsupported_parameter");
        assert_eq!(answer.error()["param"], field);
    }
    let answer =
        world.post_json(json!({ "prompt": "a cat", "refine_prompt": false, "webhook_url": null })).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn openais_model_names_may_mean_the_default() {
    let world = World::custom(KeyLimits::default(), |state| state.limits.accept_sora_names = true).await;
    for name in ["sora-2", "sora-2-pro"] {
        let video = world.post_json(json!({ "prompt": "a cat", "model": name })).await.json();
        assert_eq!(video["model"], "cogvideox-2b");
        assert_eq!(
            video["warnings"],
            json!([NOTICE, format!("'{name}' is not here; 'cogvideox-2b' makes this video")])
        );
    }
    world
        .post_json(json!({ "prompt": "a cat", "model": "sora-3" }))
        .await
        .assert_refused(404, "model_not_found");
}

#[tokio::test]
async fn unknown_fields_are_ignored_where_that_is_asked_for_and_named() {
    let world = World::new().await;
    let body = json!({ "prompt": "a cat", "style": "noir", "quality": { "level": 7 } });
    let ask = async |value: &str| {
        let headers = [("x-cogvideox-ignore-unknown", value)];
        world.ask(Method::POST, "/v1/videos", &headers, Some(body.clone())).await
    };
    assert_eq!(
        ask("true").await.json()["warnings"],
        json!([
            NOTICE,
            "the field 'quality' is unknown and was ignored",
            "the field 'style' is unknown and was ignored"
        ])
    );
    ask("false").await.assert_refused(400, "unknown_parameter");
    for value in ["1", "yes", ""] {
        ask(value).await.assert_refused(400, "invalid_type");
    }
    let form = axum::http::Request::post("/v1/videos")
        .header("x-cogvideox-ignore-unknown", "true")
        .header("content-type", "application/x-www-form-urlencoded")
        .body("prompt=a+cat&flags%5B%5D=1&flags%5B%5D=2&metadata%5Ba%5D=1".into());
    let video = world.send(form.unwrap()).await.json();
    assert_eq!(video["metadata"], json!({ "a": "1" }));
    assert_eq!(video["warnings"][1], "the field 'flags' is unknown and was ignored");
}
