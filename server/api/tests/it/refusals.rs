//! What is refused at the door: each fault with its own code, the field, and words that name both sides.

use api::Limits;
use serde_json::json;

use crate::world::World;

/// A JSON body, the code it is refused with, the field at fault, and words of the message.
type Case = (serde_json::Value, &'static str, &'static str, &'static str);

fn cases() -> Vec<Case> {
    vec![
        (json!({}), "missing_required_parameter", "prompt", "must be given"),
        (json!({ "prompt": null }), "missing_required_parameter", "prompt", "must be given"),
        (json!({ "prompt": 7 }), "invalid_type", "prompt", "must be a string, found the number 7"),
        (json!({ "prompt": ["a"] }), "invalid_type", "prompt", "found an array"),
        (json!({ "prompt": "" }), "empty_prompt", "prompt", "must not be empty"),
        (json!({ "prompt": " \n" }), "empty_prompt", "prompt", "must not be empty"),
        (
            json!({ "prompt": "x".repeat(10_001) }),
            "prompt_too_long",
            "prompt",
            "10001 characters, the server takes 10000",
        ),
        (with("negative_prompt", "w ".repeat(226)), "prompt_too_long", "negative_prompt", "227 tokens"),
        (with("promt", "a"), "unknown_parameter", "promt", "'promt' is not a parameter"),
        (
            with("model", "sora-2"),
            "model_not_found",
            "model",
            "'sora-2'; this server has cogvideox-2b, cogvideox-5b-i2v",
        ),
        (with("size", "1280x720"), "unsupported_size", "size", "720x480, found 1280x720"),
        (with("size", "480p"), "unsupported_size", "size", "WIDTHxHEIGHT, such as 720x480, found '480p'"),
        (with("width", 720), "missing_required_parameter", "height", "'height' is missing"),
        (json!({ "prompt": "a", "width": 720, "height": 481 }), "unsupported_size", "width", "found 720x481"),
        (
            json!({ "prompt": "a", "size": "720x480", "width": 480, "height": 720 }),
            "conflicting_parameters",
            "size",
            "480x720",
        ),
        (with("width", -1), "unsupported_size", "width", "found -1"),
        (with("seconds", "eight"), "invalid_type", "seconds", "found the text 'eight'"),
        (with("seconds", 8), "invalid_seconds", "seconds", "between 1.125 and 6.125"),
        (with("seconds", "0"), "invalid_seconds", "seconds", "found 0"),
        (with("seconds", "0.5"), "invalid_seconds", "seconds", "found 0.5"),
        (with("seconds", "6.7"), "invalid_seconds", "seconds", "found 6.7"),
        (with("seconds", "nan"), "invalid_seconds", "seconds", "found NaN"),
        (with("num_frames", 48), "unsupported_num_frames", "num_frames", "8k+1 from 9 to 49"),
        (with("num_frames", 57), "unsupported_num_frames", "num_frames", "found 57"),
        (with("num_frames", "49"), "invalid_type", "num_frames", "must be an integer, found the string '49'"),
        (with("num_frames", 48.5), "invalid_type", "num_frames", "found the number 48.5"),
        (
            json!({ "prompt": "a", "seconds": "4", "num_frames": 49 }),
            "conflicting_parameters",
            "num_frames",
            "33 frames",
        ),
        (with("fps", 24), "unsupported_fps", "fps", "must be 8"),
        (with("num_inference_steps", 0), "unsupported_num_inference_steps", "num_inference_steps", "found 0"),
        (
            with("num_inference_steps", 101),
            "unsupported_num_inference_steps",
            "num_inference_steps",
            "between 1 and 100",
        ),
        (
            with("num_inference_steps", 7),
            "unsupported_num_inference_steps",
            "num_inference_steps",
            "schedule",
        ),
        (with("guidance_scale", -0.5), "invalid_guidance_scale", "guidance_scale", "found -0.5"),
        (with("guidance_scale", 101), "invalid_guidance_scale", "guidance_scale", "between 0 and 100"),
        (
            with("guidance_scale", "6"),
            "invalid_type",
            "guidance_scale",
            "must be a number, found the string '6'",
        ),
        (
            with("use_dynamic_cfg", 1),
            "invalid_type",
            "use_dynamic_cfg",
            "must be a boolean, found the number 1",
        ),
        (with("scheduler", "euler"), "unsupported_scheduler", "scheduler", "ddim or dpm, found 'euler'"),
        (with("seed", -1), "invalid_seed", "seed", "between 0 and 9007199254740991"),
        (with("seed", 9_007_199_254_740_992_u64), "invalid_seed", "seed", "found 9007199254740992"),
        (with("seed", 1e300), "invalid_seed", "seed", "between 0 and"),
        (with("priority", 101), "invalid_priority", "priority", "between -100 and 100"),
        (with("n", 2), "unsupported_n", "n", "must be 1, found 2"),
        (with("metadata", "a"), "invalid_type", "metadata", "an object whose values are strings"),
        (with("metadata", json!({ "a": 1 })), "invalid_type", "metadata[a]", "must be a string"),
        (with("metadata", json!({ "": "a" })), "invalid_metadata", "metadata", "0 characters"),
        (with("metadata", json!({ "k".repeat(65): "a" })), "invalid_metadata", "metadata", "65 characters"),
        (with("metadata", json!({ "a": "v".repeat(513) })), "invalid_metadata", "metadata", "513 characters"),
        (with("metadata", seventeen()), "invalid_metadata", "metadata", "17 entries"),
    ]
}

fn with(name: &str, value: impl Into<serde_json::Value>) -> serde_json::Value {
    json!({ "prompt": "a cat", name: value.into() })
}

fn seventeen() -> serde_json::Value {
    (0..17).map(|n| (n.to_string(), json!("a"))).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test]
async fn each_fault_has_its_code_its_field_and_its_words() {
    let world = World::new().await;
    for (body, code, param, words) in cases() {
        let answer = world.post_json(body.clone()).await;
        let status = if code == "model_not_found" { 404 } else { 400 };
        answer.assert_refused(status, code);
        let error = answer.error();
        assert_eq!(error["param"], param, "{body}");
        assert!(error["message"].as_str().unwrap().contains(words), "{}\nlacks: {words}", error["message"]);
    }
    assert_eq!(world.queue.counts().await.unwrap().queued, 0, "nothing refused is queued");
}

#[tokio::test]
async fn a_forms_text_is_read_by_type_too() {
    let world = World::new().await;
    for (field, code, words) in [
        ("seed=abc", "invalid_type", "must be an integer, found the text 'abc'"),
        ("seed=", "invalid_type", "found the text ''"),
        ("seed=-1", "invalid_seed", "found -1"),
        ("seed=6.0", "invalid_type", "found the text '6.0'"),
        ("guidance_scale=inf", "invalid_guidance_scale", "found inf"),
        ("use_dynamic_cfg=yes", "invalid_type", "must be a boolean, found the text 'yes'"),
        ("metadata=a", "invalid_type", "an object whose values are strings, found the text 'a'"),
        ("flags%5B%5D=1", "unknown_parameter", "'flags'"),
        ("a%5Bb%5D%5Bc%5D=1", "unknown_parameter", "'a[b][c]'"),
        ("seed=1&seed=2", "duplicate_parameter", "'seed' is given more than once"),
        ("metadata%5Ba%5D=1&metadata%5Ba%5D=2", "duplicate_parameter", "'metadata[a]'"),
        ("metadata=%7B%7D&metadata%5Ba%5D=2", "duplicate_parameter", "'metadata'"),
    ] {
        let answer = world.post("application/x-www-form-urlencoded", format!("prompt=a+cat&{field}")).await;
        answer.assert_refused(400, code);
        let message = answer.error()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words), "{message}\nlacks: {words}");
    }
}

#[tokio::test]
async fn bodies_that_are_not_what_they_say() {
    let world = World::new().await;
    for (body, code) in [
        ("", "invalid_request"),
        ("[]", "invalid_request"),
        ("{\"prompt\": \"a\"", "invalid_request"),
        (r#"{"prompt": "a", "prompt": "b"}"#, "duplicate_parameter"),
    ] {
        let answer = world.post("application/json", body).await;
        answer.assert_refused(400, code);
    }
    let answer = world.post("application/json", r#"{"prompt": "a", "seed": 1, "seed": 2}"#).await;
    assert_eq!(answer.error()["param"], "seed");
    for (content_type, body) in [
        ("multipart/form-data", "--x--"),
        ("multipart/form-data; boundary=x", "--x\r\nnonsense"),
        ("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n"),
    ] {
        world.post(content_type, body).await.assert_refused(400, "invalid_request");
    }
    let latin1 =
        b"--x\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nSch\xe4fer\r\n--x--\r\n".to_vec();
    let answer = world.post("multipart/form-data; boundary=x", latin1).await;
    answer.assert_refused(400, "invalid_request");
    assert_eq!(answer.error()["param"], "prompt");
}

#[tokio::test]
async fn content_types_that_are_not_read() {
    let world = World::new().await;
    for content_type in ["text/plain", "application/jsonx", ""] {
        world.post(content_type, r#"{"prompt":"a"}"#).await.assert_refused(415, "unsupported_media_type");
    }
    let with_charset = world.post("Application/JSON; charset=utf-8", r#"{"prompt":"a"}"#).await;
    assert_eq!(with_charset.status, 200);
}

#[tokio::test]
async fn bodies_that_are_too_large() {
    let limits =
        Limits { max_text_bytes: 200, max_image_bytes: 0, max_body_bytes: 1000, ..Limits::default() };
    let world = World::with(limits).await;
    let form = |bytes: usize, file: &str| {
        let value = "x".repeat(bytes);
        format!("--x\r\nContent-Disposition: form-data; name=\"prompt\"{file}\r\n\r\n{value}\r\n--x--\r\n")
    };
    let multipart = "multipart/form-data; boundary=x";
    let file = "; filename=\"a\"";
    for (content_type, body) in [
        ("application/json", json!({ "prompt": "x".repeat(200) }).to_string()),
        ("application/x-www-form-urlencoded", format!("prompt={}", "x".repeat(200))),
        (multipart, form(201, "")),
        (multipart, form(1, file)),
        (multipart, form(1000, file)),
    ] {
        world.post(content_type, body.clone()).await.assert_refused(413, "payload_too_large");
        let declared = axum::http::Request::post("/v1/videos")
            .header("content-type", content_type)
            .header("content-length", body.len());
        world.send(declared.body(body.into()).unwrap()).await.assert_refused(413, "payload_too_large");
    }
    let answer = World::new().await.post(multipart, form(500, file)).await;
    answer.assert_refused(400, "invalid_type");
    assert!(answer.text().contains("found a file"));
}
