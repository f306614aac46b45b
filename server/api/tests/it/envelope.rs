//! What is refused by no handler: wrong paths and methods, panics, timeouts. And request ids.

use api::Limits;
use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn paths_and_methods_that_are_not_there() {
    let world = World::new().await;
    for path in ["/nothing", "/v1", "/v1/videos/", "/v1/images", "/v1/videos/a/b/c"] {
        let answer = world.get(path).await;
        answer.assert_refused(404, "not_found");
        assert!(answer.error()["message"].as_str().unwrap().contains(path));
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    let id = world.queued("a cat").await;
    for (method, path, allow) in [
        (Method::PUT, "/v1/videos".to_owned(), "GET,HEAD,POST"),
        (Method::PUT, format!("/v1/videos/{id}"), "GET,HEAD,DELETE,PATCH"),
        (Method::GET, format!("/v1/videos/{id}/cancel"), "POST"),
        (Method::POST, "/v1/models".to_owned(), "GET,HEAD"),
    ] {
        let answer = world.call(method, &path).await;
        answer.assert_refused(405, "method_not_allowed");
        let mut allowed: Vec<_> = answer.header("allow").split(',').collect();
        let mut expected: Vec<_> = allow.split(',').collect();
        allowed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(allowed, expected, "{path}");
    }
}

#[tokio::test]
async fn what_openai_has_and_this_server_does_not_do() {
    let world = World::new().await;
    for path in ["/v1/videos/edits", "/v1/videos/extensions", "/v1/videos/characters"] {
        world.call(Method::POST, path).await.assert_refused(400, "unsupported_operation");
    }
}

#[tokio::test]
async fn a_panic_is_an_answer_without_its_words() {
    let world = World::new().await;
    let answer = world.post_json(json!({ "prompt": "make the tokenizer panic" })).await;
    answer.assert_refused(500, "internal");
    let error = answer.error();
    assert_eq!(error["type"], "server_error");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(answer.header("x-request-id")) && !message.contains("tokenizer"), "{message}");
}

#[tokio::test]
async fn a_request_that_never_ends_times_out() {
    let world = World::new().await;
    let before = tokio::time::Instant::now();
    // Not before the body is asked for: the database works on other threads, for which a paused clock does not wait.
    let body = Body::from_stream(futures_util::stream::once(async {
        tokio::time::pause();
        std::future::pending::<Result<Vec<u8>, std::io::Error>>().await
    }));
    world.post("application/json", body).await.assert_refused(408, "request_timeout");
    assert_eq!(before.elapsed().as_secs(), Limits::default().request_timeout.as_secs());
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_clients_fault() {
    let world = World::new().await;
    for content_type in ["application/json", "multipart/form-data; boundary=x"] {
        let broken = std::io::Error::other("connection reset");
        let body = Body::from_stream(futures_util::stream::iter([Ok(b"{".to_vec()), Err(broken)]));
        world.post(content_type, body).await.assert_refused(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_sane_request_id_comes_back_and_an_odd_one_does_not() {
    let world = World::new().await;
    let ask = async |id: &str| {
        let request = Request::get("/livez").header("x-request-id", id).body(Body::empty()).unwrap();
        world.send(request).await.header("x-request-id").to_owned()
    };
    assert_eq!(ask("trace-0af7:1.2_3").await, "trace-0af7:1.2_3");
    for odd in ["", "two words", "a\"b", "x=1;y", &"x".repeat(129)] {
        assert!(ask(odd).await.starts_with("req_"), "{odd}");
    }
}
