//! Downloading: whole, in parts, conditionally, and not yet.

use axum::body::Body;
use axum::http::{Method, Request};
use queue::JobError;

use crate::world::{Answer, World};

const FILE: &[u8] = b"0123456789";

async fn ask(world: &World, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    world.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn the_whole_file_with_its_headers() {
    let world = World::new().await;
    let id = world.completed(FILE).await;
    let path = format!("/v1/videos/{id}/content");
    // The openai client accepts only `application/binary`.
    let answer = ask(&world, Method::GET, &path, &[("accept", "application/binary")]).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (200, FILE));
    let etag = "\"84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882\"";
    let disposition = format!("attachment; filename=\"{id}.mp4\"");
    for (name, value) in [
        ("content-type", "video/mp4"),
        ("content-length", "10"),
        ("accept-ranges", "bytes"),
        ("etag", etag),
        ("content-disposition", disposition.as_str()),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let head = ask(&world, Method::HEAD, &path, &[]).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    for name in ["content-type", "content-length", "accept-ranges", "etag", "content-disposition"] {
        assert_eq!(head.header(name), answer.header(name), "{name}");
    }
    let inline = ask(&world, Method::GET, &format!("{path}?download=0&variant=video"), &[]).await;
    assert_eq!(inline.header("content-disposition"), format!("inline; filename=\"{id}.mp4\""));
}

#[tokio::test]
async fn parts_of_the_file() {
    let world = World::new().await;
    let path = format!("/v1/videos/{}/content", world.completed(FILE).await);
    for (range, content_range, body) in [
        ("bytes=0-1", "bytes 0-1/10", "01"),
        ("bytes=2-5", "bytes 2-5/10", "2345"),
        ("bytes=7-", "bytes 7-9/10", "789"),
        ("bytes=9-9", "bytes 9-9/10", "9"),
        ("bytes=8-100", "bytes 8-9/10", "89"),
        ("bytes=-3", "bytes 7-9/10", "789"),
        ("bytes=-100", "bytes 0-9/10", "0123456789"),
        ("bytes=0-99999999999999999999999", "bytes 0-9/10", "0123456789"),
    ] {
        let answer = ask(&world, Method::GET, &path, &[("range", range)]).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (206, body), "{range}");
        assert_eq!(answer.header("content-range"), content_range);
        assert_eq!(answer.header("content-length"), body.len().to_string());
    }
}

#[tokio::test]
async fn ranges_that_do_not_count_give_the_whole_file() {
    let world = World::new().await;
    let path = format!("/v1/videos/{}/content", world.completed(FILE).await);
    for range in ["bytes=5-2", "bytes=a-b", "bytes=", "lines=1-2", "bytes=0-1,4-5", "0-1"] {
        let answer = ask(&world, Method::GET, &path, &[("range", range)]).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (200, FILE), "{range}");
        assert!(!answer.headers.contains_key("content-range"));
    }
    let head = ask(&world, Method::HEAD, &path, &[("range", "bytes=0-1")]).await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "10"));
}

#[tokio::test]
async fn ranges_outside_the_file_are_refused_with_its_length() {
    let world = World::new().await;
    let path = format!("/v1/videos/{}/content", world.completed(FILE).await);
    for range in ["bytes=10-", "bytes=10-11", "bytes=-0", "bytes=99999999999999999999999-"] {
        let answer = ask(&world, Method::GET, &path, &[("range", range)]).await;
        answer.assert_refused(416, "range_not_satisfiable");
        assert_eq!(answer.header("content-range"), "bytes */10", "{range}");
    }
}

#[tokio::test]
async fn conditions_on_the_etag() {
    let world = World::new().await;
    let path = format!("/v1/videos/{}/content", world.completed(FILE).await);
    let etag = ask(&world, Method::HEAD, &path, &[]).await.header("etag").to_owned();
    let weak = format!("W/{etag}");
    let several = format!("\"other\", {etag}");
    for condition in [etag.as_str(), weak.as_str(), several.as_str(), "*"] {
        for method in [Method::GET, Method::HEAD] {
            let answer =
                ask(&world, method, &path, &[("if-none-match", condition), ("range", "bytes=0-1")]).await;
            assert_eq!((answer.status.as_u16(), answer.body.len()), (304, 0), "{condition}");
            assert_eq!(answer.header("etag"), etag);
        }
    }
    assert_eq!(ask(&world, Method::GET, &path, &[("if-none-match", "\"other\"")]).await.status, 200);

    let date = "Sat, 22 Nov 2036 09:00:00 GMT";
    for (condition, status) in
        [(etag.as_str(), 206), (weak.as_str(), 200), ("\"other\"", 200), (date, 200), ("nonsense", 200)]
    {
        let answer =
            ask(&world, Method::GET, &path, &[("if-range", condition), ("range", "bytes=0-1")]).await;
        assert_eq!(answer.status, status, "{condition}");
    }
}

#[tokio::test]
async fn what_has_no_content_says_why() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let content = format!("/v1/videos/{id}/content");
    world.get(&content).await.assert_refused(400, "video_not_ready");
    let claim = world.claim().await;
    world.get(&content).await.assert_refused(400, "video_not_ready");
    let error =
        JobError { code: "nan_latents".to_owned(), message: "the latents are not numbers".to_owned() };
    world.queue.fail(&claim.lease, error).await.unwrap();
    let answer = world.get(&content).await;
    answer.assert_refused(400, "nan_latents");
    assert_eq!(answer.error()["message"], "the latents are not numbers");

    let id = world.queued("a cat").await;
    world.call(Method::POST, &format!("/v1/videos/{id}/cancel")).await;
    world.get(&format!("/v1/videos/{id}/content")).await.assert_refused(400, "cancelled");
}

#[tokio::test]
async fn a_contents_parameters_are_checked() {
    let world = World::new().await;
    let path = format!("/v1/videos/{}/content", world.completed(FILE).await);
    for (query, code) in [
        ("variant=poster", "unknown_variant"),
        ("download=2", "invalid_type"),
        ("varient=video", "unknown_parameter"),
    ] {
        world.get(&format!("{path}?{query}")).await.assert_refused(400, code);
    }
}

#[tokio::test]
async fn pictures_come_like_the_video() {
    let world = World::new().await;
    let bare = world.completed(FILE).await;
    for variant in ["thumbnail", "spritesheet"] {
        let answer = world.get(&format!("/v1/videos/{bare}/content?variant={variant}")).await;
        answer.assert_refused(404, "variant_not_available");
        assert_eq!(answer.error()["param"], "variant");
    }
    let id = world.queued("a cat").await;
    let claim = world.claim().await;
    let thumbnail = world.put(&format!("{id}.webp"), b"a webp").await;
    let spritesheet = world.put(&format!("{id}.jpg"), b"a jpeg sheet").await;
    world.complete_with(&claim, FILE, Some(thumbnail), Some(spritesheet)).await;
    for (variant, content, content_type, name) in [
        ("video", FILE, "video/mp4", format!("{id}.mp4")),
        ("thumbnail", b"a webp", "image/webp", format!("{id}_thumbnail.webp")),
        ("spritesheet", b"a jpeg sheet", "image/jpeg", format!("{id}_spritesheet.jpg")),
    ] {
        let path = format!("/v1/videos/{id}/content?variant={variant}&download=0");
        let answer = world.get(&path).await;
        assert_eq!((answer.body.as_slice(), answer.header("content-type")), (content, content_type));
        assert_eq!(answer.header("content-disposition"), format!("inline; filename=\"{name}\""));
        assert_eq!(answer.header("cache-control"), "private, max-age=31536000, immutable");
        let etag = answer.header("etag");
        let head = ask(&world, Method::HEAD, &path, &[]).await;
        assert_eq!(
            (head.header("etag"), head.header("content-length")),
            (etag, content.len().to_string().as_str())
        );
        let part = ask(&world, Method::GET, &path, &[("range", "bytes=2-3"), ("if-range", etag)]).await;
        assert_eq!((part.status.as_u16(), part.body.as_slice()), (206, &content[2..4]));
        assert_eq!(ask(&world, Method::GET, &path, &[("if-none-match", etag)]).await.status, 304);
    }
}

#[tokio::test]
async fn files_that_were_given_up_are_gone() {
    let world = World::new().await;
    let id = world.completed(FILE).await;
    world.queue.expire_before(i64::MAX).await.unwrap();
    for variant in ["video", "thumbnail"] {
        let answer = world.get(&format!("/v1/videos/{id}/content?variant={variant}")).await;
        answer.assert_refused(410, "video_expired");
    }
}

#[tokio::test]
async fn a_lost_file_is_the_servers_fault_and_keeps_its_secrets() {
    let world = World::new().await;
    let id = world.completed(FILE).await;
    world.store.delete(&format!("{id}.mp4")).await.unwrap();
    let answer = world.get(&format!("/v1/videos/{id}/content")).await;
    answer.assert_refused(500, "internal");
    let message = answer.error()["message"].as_str().unwrap().to_owned();
    assert!(message.contains(answer.header("x-request-id")), "{message}");
    assert!(!message.contains(".mp4"), "{message}");
}
