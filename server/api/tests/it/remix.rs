//! Videos out of videos: of another prompt, and once more. And those that wait, moved.

use axum::http::Method;
use queue::JobError;
use serde_json::{Value, json};

use crate::world::{Answer, NOTICE, World};

async fn remix(world: &World, id: &str, body: Value) -> Answer {
    world.ask(Method::POST, &format!("/v1/videos/{id}/remix"), &[], Some(body)).await
}

async fn retry(world: &World, id: &str) -> Answer {
    world.call(Method::POST, &format!("/v1/videos/{id}/retry")).await
}

/// What makes a video, but for its prompt.
const PARAMS: [&str; 11] = [
    "model",
    "seed",
    "size",
    "seconds",
    "num_frames",
    "fps",
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
    "use_dynamic_cfg",
    "negative_prompt",
];

async fn unusual(world: &World) -> Value {
    let body = json!({
        "prompt": "a cat", "seconds": 3, "num_inference_steps": 20, "guidance_scale": 3.5, "scheduler": "dpm",
        "use_dynamic_cfg": true, "negative_prompt": "rain", "priority": 4, "metadata": { "user": "7" },
    });
    world.post_json(body).await.json()
}

#[tokio::test]
async fn a_remix_has_the_parameters_and_the_seed_and_another_prompt() {
    let world = World::new().await;
    let source = unusual(&world).await;
    let id = source["id"].as_str().unwrap();
    let claim = world.claim().await;
    world.complete(&claim, b"an mp4").await;
    let answer = remix(&world, id, json!({ "prompt": "a dog by night" })).await;
    let video = answer.json();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("location"), format!("/v1/videos/{}", video["id"].as_str().unwrap()));
    assert_eq!(answer.header("openai-poll-after-ms"), "1000");
    for name in PARAMS {
        assert_eq!(video[name], source[name], "{name}");
    }
    assert_eq!((&video["prompt"], &video["prompt_tokens"]), (&json!("a dog by night"), &json!(5)));
    assert_eq!((&video["remixed_from_video_id"], &video["retry_of_video_id"]), (&json!(id), &json!(null)));
    assert_eq!((&video["state"], &video["warnings"]), (&json!("queued"), &json!([NOTICE])));
}

#[tokio::test]
async fn a_remix_is_checked_as_any_request() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let answer = remix(&world, &id, json!({ "prompt": "a dog" })).await;
    answer.assert_refused(400, "video_not_ready");
    let claim = world.claim().await;
    world.complete(&claim, b"an mp4").await;
    for (body, code) in [
        (json!({}), "missing_required_parameter"),
        (json!({ "prompt": " " }), "empty_prompt"),
        (json!({ "prompt": "x".repeat(10_001) }), "prompt_too_long"),
        (json!({ "prompt": "word ".repeat(300) }), "prompt_too_long"),
        (json!({ "prompt": "a dog", "seed": 1 }), "unknown_parameter"),
    ] {
        remix(&world, &id, body).await.assert_refused(400, code);
    }
    let cut = json!({ "prompt": "word ".repeat(300), "truncate_prompt": true });
    assert_eq!(remix(&world, &id, cut).await.json()["prompt_truncated"], true);
    remix(&world, "video_0", json!({ "prompt": "a dog" })).await.assert_refused(404, "video_not_found");
}

#[tokio::test]
async fn another_try_is_the_same_request_again() {
    let world = World::new().await;
    let source = unusual(&world).await;
    let id = source["id"].as_str().unwrap();
    retry(&world, id).await.assert_refused(400, "video_not_ready");
    let claim = world.claim().await;
    retry(&world, id).await.assert_refused(400, "video_not_ready");
    let error = JobError { code: "out_of_memory".to_owned(), message: "the device is full".to_owned() };
    world.queue.fail(&claim.lease, error).await.unwrap();
    let video = retry(&world, id).await.json();
    for name in PARAMS.into_iter().chain(["prompt", "prompt_tokens", "priority", "metadata", "warnings"]) {
        assert_eq!(video[name], source[name], "{name}");
    }
    assert_eq!((&video["retry_of_video_id"], &video["error"]), (&json!(id), &json!(null)));
    assert_ne!(video["id"], source["id"]);
    let other = retry(&world, id).await.json();
    assert_ne!(other["id"], video["id"], "who asks twice gets two");
}

#[tokio::test]
async fn a_prompt_that_was_cut_is_cut_again() {
    let world = World::new().await;
    let request = json!({ "prompt": "word ".repeat(300), "truncate_prompt": true });
    let source = world.post_json(request).await.json();
    let id = source["id"].as_str().unwrap();
    world.call(Method::POST, &format!("/v1/videos/{id}/cancel")).await;
    let video = retry(&world, id).await.json();
    for name in ["prompt_truncated", "warnings", "prompt"] {
        assert_eq!(video[name], source[name], "{name}");
    }
}

#[tokio::test]
async fn a_waiting_video_can_be_moved_and_no_other() {
    let world = World::new().await;
    world.queued("a cat").await;
    let id = world.queued("a dog").await;
    let path = format!("/v1/videos/{id}");
    let change = async |body: Value| world.ask(Method::PATCH, &path, &[], Some(body)).await;
    let video = change(json!({ "priority": 7 })).await.json();
    assert_eq!((&video["priority"], &video["queue_position"]), (&json!(7), &json!(1)));
    for (body, code) in [
        (json!({ "priority": 101 }), "invalid_priority"),
        (json!({ "priority": "high" }), "invalid_type"),
        (json!({}), "missing_required_parameter"),
        (json!({ "priority": 1, "prompt": "a" }), "unknown_parameter"),
    ] {
        change(body).await.assert_refused(400, code);
    }
    assert_eq!(world.claim().await.video.id.to_string(), id, "it goes first now");
    let answer = change(json!({ "priority": 8 })).await;
    answer.assert_refused(409, "video_not_queued");
    assert_eq!(answer.header("x-should-retry"), "false", "the openai client tries a 409 again");
    assert!(!answer.headers.contains_key("retry-after"));
}
