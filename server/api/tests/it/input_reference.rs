//! The picture that a video starts from: how it may come, what is refused, and that its file lives as long as it.

use api::Limits;
use axum::http::{Method, Request, header};
use queue::JobError;
use serde_json::{Value, json};
use store::Error::NotFound;

use crate::create::{BOUNDARY, multipart, multipart_type};
use crate::world::{Answer, World};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR pixels";
/// The same in base64.
const PNG_URL: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUiBwaXhlbHM=";
const MODEL: &str = "cogvideox-5b-i2v";

/// A form as the openai client sends it, with a file.
fn form(model: &str, content: &[u8]) -> Vec<u8> {
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na cat\r\n\
         --{BOUNDARY}\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n\
         --{BOUNDARY}\r\nContent-Disposition: form-data; name=\"input_reference\"; filename=\"cat.txt\"\r\n\
         Content-Type: text/plain\r\n\r\n"
    );
    [head.as_bytes(), content, format!("\r\n--{BOUNDARY}--\r\n").as_bytes()].concat()
}

async fn upload(world: &World, content: &[u8]) -> Answer {
    world.post(&multipart_type(), form(MODEL, content)).await
}

async fn by_json(world: &World, image: Value) -> Answer {
    world.post_json(json!({ "prompt": "a cat", "model": MODEL, "input_reference": image })).await
}

/// The key of the picture of a video that waits.
async fn key(world: &World, video: &Value) -> String {
    let row = world.queue.get(video["id"].as_str().unwrap().parse().unwrap()).await.unwrap();
    row.params.image.unwrap().key
}

async fn stored(world: &World) -> usize {
    world.store.keys().await.unwrap().len()
}

#[tokio::test]
async fn it_comes_as_a_file_or_as_a_data_url_and_is_stored_before_the_answer() {
    let world = World::new().await;
    let bracketed = [
        ("prompt", "a cat"),
        ("model", MODEL),
        ("input_reference[image_url]", PNG_URL.trim_end_matches('=')),
    ];
    let answers = [
        upload(&world, PNG).await,
        by_json(&world, json!({ "image_url": PNG_URL })).await,
        world.post(&multipart_type(), multipart(&bracketed)).await,
    ];
    let mut keys = Vec::new();
    for answer in answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let video = answer.json();
        let key = key(&world, &video).await;
        assert_eq!(world.store.read(&key).await.unwrap(), PNG);
        assert_eq!(video["input_reference"]["bytes"], json!(PNG.len()));
        assert_eq!(video["input_reference"]["sha256"].as_str().unwrap().len(), 64);
        keys.push(key);
    }
    keys.sort();
    let mut there = world.store.keys().await.unwrap();
    there.sort();
    assert_eq!(there, keys, "one for each");
    let mut known = world.queue.file_keys().await.unwrap();
    known.sort();
    assert_eq!(known, keys, "a sweep leaves them");
}

#[tokio::test]
async fn what_is_no_picture_is_refused_with_its_field_and_leaves_nothing() {
    let world = World::new().await;
    for content in [
        &b"%PDF-1.7 and so on"[..],
        b"",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"<svg xmlns=",
        b"\x89PNG\r\n\x1a\n torn",
        b"\xff\xd8\xff\xe0\0\x10JFIF",
        b"RIFF\0\0\0\0WEBPVP8 ",
    ] {
        let answer = upload(&world, content).await;
        answer.assert_refused(400, "invalid_image");
        assert_eq!(answer.error()["param"], "input_reference");
    }
    for (image, code, words) in [
        (json!("cat.png"), "invalid_type", "found the string 'cat.png'"),
        (json!({}), "invalid_type", "found an object"),
        (json!({ "image_url": "a", "file_id": "b" }), "invalid_type", "found an object"),
        (json!({ "image_url": 1 }), "invalid_type", "found an object"),
        (json!([1]), "invalid_type", "found an array"),
        (json!({ "file_id": "file-1" }), "unsupported_input_reference", "keeps no files"),
        (
            json!({ "image_url": "https://example.org/cat.png" }),
            "unsupported_input_reference",
            "fetches nothing",
        ),
        (json!({ "image_url": "data:image/png,abc" }), "invalid_image", "with base64"),
        (json!({ "image_url": "data:image/png;base64,*" }), "invalid_image", "with base64"),
        (json!({ "image_url": "data:image/png;base64,AA==" }), "invalid_image", "file of another kind"),
    ] {
        let answer = by_json(&world, image).await;
        answer.assert_refused(400, code);
        assert_eq!(answer.error()["param"], "input_reference");
        let message = answer.error()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words), "{message}\nlacks: {words}");
    }
    let answer = by_json(&world, Value::Null).await;
    answer.assert_refused(400, "missing_required_parameter");
    assert_eq!(answer.error()["param"], "input_reference");
    assert_eq!((stored(&world).await, world.queue.counts().await.unwrap().queued), (0, 0));
}

#[tokio::test]
async fn a_model_that_takes_none_refuses_it() {
    let world = World::new().await;
    let url = json!({ "prompt": "a cat", "input_reference": { "image_url": PNG_URL } });
    for answer in [world.post(&multipart_type(), form("cogvideox-2b", PNG)).await, world.post_json(url).await]
    {
        answer.assert_refused(400, "unsupported_input_reference");
        assert_eq!(answer.error()["param"], "input_reference");
    }
    assert_eq!(stored(&world).await, 0);
}

#[tokio::test]
async fn its_bytes_are_limited_however_it_comes() {
    let limits = Limits { max_image_bytes: PNG.len() - 1, ..Limits::default() };
    let world = World::with(limits).await;
    upload(&world, PNG).await.assert_refused(413, "payload_too_large");
    by_json(&world, json!({ "image_url": PNG_URL })).await.assert_refused(413, "payload_too_large");
    // An image may be larger than all text together.
    let limits = Limits { max_text_bytes: 100, max_image_bytes: 1000, ..Limits::default() };
    let world = World::with(limits).await;
    let large = [&PNG[..12], &[0; 500], b"pixels"].concat();
    assert_eq!(upload(&world, &large).await.status, 200);
}

#[tokio::test]
async fn videos_of_one_picture_have_a_file_each_that_goes_with_them() {
    let world = World::new().await;
    let source = upload(&world, PNG).await.json();
    let id = source["id"].as_str().unwrap();
    let claim = world.claim().await;
    world.complete(&claim, b"an mp4").await;
    let remix = world
        .ask(Method::POST, &format!("/v1/videos/{id}/remix"), &[], Some(json!({ "prompt": "a dog" })))
        .await
        .json();
    let retry = world.call(Method::POST, &format!("/v1/videos/{id}/retry")).await.json();
    let source_key = key(&world, &source).await;
    for video in [&remix, &retry] {
        assert_eq!(video["input_reference"], source["input_reference"]);
        assert_ne!(key(&world, video).await, source_key);
    }
    assert_eq!(stored(&world).await, 4);
    assert_eq!(world.call(Method::DELETE, &format!("/v1/videos/{id}")).await.status, 200);
    assert!(matches!(world.store.read(&source_key).await, Err(NotFound(_))));
    assert_eq!(stored(&world).await, 2);
    for video in [remix, retry] {
        assert_eq!(world.store.read(&key(&world, &video).await).await.unwrap(), PNG);
        let path = format!("/v1/videos/{}", video["id"].as_str().unwrap());
        assert_eq!(world.call(Method::DELETE, &path).await.status, 200);
    }
    assert_eq!(stored(&world).await, 0);
}

#[tokio::test]
async fn a_picture_that_is_gone_or_another_makes_no_other_video() {
    let world = World::new().await;
    let source = upload(&world, PNG).await.json();
    let retry = format!("/v1/videos/{}/retry", source["id"].as_str().unwrap());
    let claim = world.claim().await;
    let error = JobError { code: "internal".to_owned(), message: "no".to_owned() };
    world.queue.fail(&claim.lease, error).await.unwrap();
    let key = key(&world, &source).await;
    world.put(&key, b"\x89PNG\r\n\x1a\n other pixels").await;
    world.call(Method::POST, &retry).await.assert_refused(410, "video_expired");
    world.store.delete(&key).await.unwrap();
    world.call(Method::POST, &retry).await.assert_refused(410, "video_expired");
}

#[tokio::test]
async fn a_repeated_request_is_known_by_its_picture_and_leaves_no_second_file() {
    let world = World::new().await;
    let send = async |content: &[u8]| {
        let request = Request::post("/v1/videos")
            .header("idempotency-key", "order-7")
            .header(header::CONTENT_TYPE, multipart_type());
        world.send(request.body(form(MODEL, content).into()).unwrap()).await
    };
    let first = send(PNG).await.json();
    let again = send(PNG).await;
    assert_eq!((again.header("idempotent-replayed"), &again.json()["id"]), ("true", &first["id"]));
    send(&[&PNG[..12], b" other pixels"].concat()).await.assert_refused(422, "idempotency_key_reuse");
    assert_eq!(stored(&world).await, 1);
    // Until the queue is full, and then no further.
    for _ in 0..2 {
        assert_eq!(upload(&world, PNG).await.status, 200);
    }
    upload(&world, PNG).await.assert_refused(429, "queue_full");
    assert_eq!(stored(&world).await, 3);
}
