//! Making a video: the three ways a request may come, and what the answer says.

use api::Health;
use serde_json::{Value, json};

use crate::world::{NOTICE, World};

pub(crate) const BOUNDARY: &str = "7f5d1b7e4c5b4f7a9d0e";

/// A body as httpx, under the openai client, writes it: text parts without a content type.
pub(crate) fn multipart(fields: &[(&str, &str)]) -> String {
    let parts = fields.iter().map(|(name, value)| {
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    });
    format!("{}--{BOUNDARY}--\r\n", parts.collect::<String>())
}

pub(crate) fn multipart_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

#[tokio::test]
async fn a_bare_prompt_takes_the_models_defaults() {
    let world = World::new().await;
    let answer = world.post_json(json!({ "prompt": "a cat" })).await;
    assert_eq!(answer.status, 200);
    let video = answer.json();
    let id = video["id"].as_str().unwrap();
    assert_eq!(answer.header("location"), format!("/v1/videos/{id}"));
    assert_eq!(answer.header("openai-poll-after-ms"), "1000");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert!(answer.header("x-request-id").starts_with("req_"));
    let seed = video["seed"].as_u64().unwrap();
    assert!(seed < 1 << 53);
    assert_eq!(
        video,
        json!({
            "id": id, "object": "video", "model": "cogvideox-2b", "status": "queued", "state": "queued",
            "progress": 0, "created_at": 1_700_000_000, "started_at": null, "completed_at": null,
            "expires_at": null, "seconds": "6.125", "size": "720x480", "prompt": "a cat",
            "refined_prompt": null, "remixed_from_video_id": null, "retry_of_video_id": null, "webhook_url": null, "checkpoint_step": null,
            "peak_memory_bytes": null, "error": null, "fps": 8, "num_frames": 49, "width": 720,
            "height": 480, "seed": seed, "num_inference_steps": 50, "guidance_scale": 6.0,
            "use_dynamic_cfg": false, "scheduler": "ddim", "input_reference": null, "lora": [], "negative_prompt": "", "prompt_tokens": 3,
            "prompt_truncated": false, "priority": 0, "metadata": {}, "stage": null, "step": 0,
            "total_steps": 50, "eta_seconds": null, "queue_position": 1, "attempt": 0,
            "warnings": [NOTICE],
            "timings": {
                "queue_ms": null, "load_model_ms": null, "text_encode_ms": null, "denoise_ms": null, "vae_decode_ms": null,
                "encode_mp4_ms": null, "store_ms": null,
            },
            "bytes": null, "sha256": null,
            "urls": {
                "self": format!("/v1/videos/{id}"), "content": format!("/v1/videos/{id}/content"),
                "thumbnail": format!("/v1/videos/{id}/content?variant=thumbnail"),
                "spritesheet": format!("/v1/videos/{id}/content?variant=spritesheet"),
                "events": format!("/v1/videos/{id}/events"), "cancel": format!("/v1/videos/{id}/cancel"),
                "retry": format!("/v1/videos/{id}/retry"),
            },
        })
    );
}

#[tokio::test]
async fn two_requests_without_a_seed_get_two_seeds() {
    let world = World::new().await;
    let seed = async || world.post_json(json!({ "prompt": "a cat" })).await.json()["seed"].as_u64().unwrap();
    assert_ne!(seed().await, seed().await);
}

const FIELDS: &[(&str, &str)] = &[
    ("prompt", "ein Schäferhund & eine Katze"),
    ("model", "cogvideox-2b"),
    ("seconds", "4"),
    ("size", "720x480"),
    ("seed", "9007199254740991"),
    ("num_inference_steps", "20"),
    ("guidance_scale", "7.5"),
    ("use_dynamic_cfg", "true"),
    ("scheduler", "dpm"),
    ("negative_prompt", "rain"),
    ("fps", "8"),
    ("priority", "-5"),
    ("n", "1"),
    ("truncate_prompt", "False"),
    ("metadata[user]", "7"),
    ("metadata[session id]", ""),
];

fn assert_has_fields(video: &Value) {
    let expected = json!({
        "prompt": "ein Schäferhund & eine Katze", "num_frames": 33, "seconds": "4.125", "seed": 9_007_199_254_740_991_u64,
        "num_inference_steps": 20, "guidance_scale": 7.5, "use_dynamic_cfg": true, "scheduler": "dpm",
        "negative_prompt": "rain", "priority": -5, "metadata": { "user": "7", "session id": "" },
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&video[name], value, "{name}");
    }
}

#[tokio::test]
async fn a_multipart_form_as_the_openai_client_sends_it() {
    let world = World::new().await;
    let answer = world.post(&multipart_type(), multipart(FIELDS)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_has_fields(&answer.json());
}

#[tokio::test]
async fn an_urlencoded_form() {
    let world = World::new().await;
    let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(FIELDS).finish();
    let answer = world.post("application/x-www-form-urlencoded", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_has_fields(&answer.json());
}

#[tokio::test]
async fn json_with_every_field() {
    let world = World::new().await;
    let answer = world
        .post_json(json!({
            "prompt": "ein Schäferhund & eine Katze", "model": "cogvideox-2b", "seconds": 4, "width": 720,
            "height": 480, "size": null, "num_frames": 33.0, "seed": 9_007_199_254_740_991_u64,
            "num_inference_steps": 20, "guidance_scale": 7.5, "use_dynamic_cfg": true, "scheduler": "dpm",
            "negative_prompt": "rain", "fps": 8, "priority": -5, "n": 1, "truncate_prompt": false,
            "metadata": { "user": "7", "session id": "" },
        }))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_has_fields(&answer.json());
}

#[tokio::test]
async fn metadata_may_be_json_text_in_a_form() {
    let world = World::new().await;
    let fields = [("prompt", "a cat"), ("metadata", r#"{"user":"7"}"#)];
    let answer = world.post(&multipart_type(), multipart(&fields)).await;
    assert_eq!(answer.json()["metadata"], json!({ "user": "7" }));
}

#[tokio::test]
async fn seconds_snap_to_the_nearest_length_the_model_makes() {
    for (asked, frames, made) in [
        ("6", 49, "6.125"),
        ("6.125", 49, "6.125"),
        ("1", 9, "1.125"),
        ("5", 41, "5.125"),
        // Of two equally near, the longer.
        ("5.625", 49, "6.125"),
        // Half a stride beyond the ends.
        ("6.6", 49, "6.125"),
    ] {
        let world = World::new().await;
        let video = world.post_json(json!({ "prompt": "a cat", "seconds": asked })).await.json();
        assert_eq!((&video["num_frames"], &video["seconds"]), (&json!(frames), &json!(made)), "{asked}");
    }
}

#[tokio::test]
async fn a_long_prompt_is_refused_with_its_count_unless_it_may_be_cut() {
    let world = World::new().await;
    let prompt = "word ".repeat(226);
    let answer = world.post_json(json!({ "prompt": prompt })).await;
    answer.assert_refused(400, "prompt_too_long");
    let error = answer.error();
    assert_eq!(error["param"], "prompt");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("227") && message.contains("226"), "{message}");

    let answer = world.post_json(json!({ "prompt": prompt, "truncate_prompt": true })).await;
    let video = answer.json();
    assert_eq!((&video["prompt_tokens"], &video["prompt_truncated"]), (&json!(227), &json!(true)));
    assert_eq!(video["warnings"], json!([NOTICE, "the model reads the first 226 tokens only"]));

    let fits = world.post_json(json!({ "prompt": "word ".repeat(225) })).await.json();
    assert_eq!((&fits["prompt_tokens"], &fits["prompt_truncated"]), (&json!(226), &json!(false)));
}

#[tokio::test]
async fn a_full_queue_asks_to_come_back() {
    let world = World::new().await;
    for _ in 0..3 {
        world.queued("a cat").await;
    }
    let answer = world.post_json(json!({ "prompt": "a cat" })).await;
    answer.assert_refused(429, "queue_full");
    assert_eq!(answer.error()["type"], "rate_limit_exceeded");
    assert_eq!((answer.header("retry-after"), answer.header("retry-after-ms")), ("15", "15000"));
}

#[tokio::test]
async fn a_server_that_cannot_work_takes_no_videos_but_shows_them() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let states = [
        (Health::Starting, "model_not_ready"),
        (Health::Waiting("1 of 2 GiB".to_owned()), "model_not_ready"),
        (Health::Draining, "server_draining"),
        (Health::Failed("the device fell off the bus".to_owned()), "worker_failed"),
    ];
    for (health, code) in states {
        world.health.send_replace(health);
        let answer = world.post_json(json!({ "prompt": "a cat" })).await;
        answer.assert_refused(503, code);
        assert_eq!(answer.header("retry-after"), "15");
        assert_eq!(answer.error()["type"], "server_error");
        assert_eq!(world.get(&format!("/v1/videos/{id}")).await.status, 200);
    }
    assert_eq!(world.get("/v1/videos").await.json()["data"].as_array().unwrap().len(), 1);
}
