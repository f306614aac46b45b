//! What a browser can be made to send, and what the server lets its pages read.

use axum::http::Method;
use queue::{KeyLimits, Scope};
use serde_json::json;

use crate::world::{Answer, World};

async fn post(world: &World, headers: &[(&str, &str)]) -> Answer {
    world.ask(Method::POST, "/v1/queue/pause", headers, None).await
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing_on_a_server_without_keys() {
    let world = World::new().await;
    let host = ("host", "localhost:8080");
    for headers in [
        &[host, ("sec-fetch-site", "cross-site")][..],
        &[host, ("origin", "https://evil.example")],
        &[host, ("origin", "http://localhost:3000")],
        &[host, ("origin", "null")],
        &[host, ("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")],
        &[("origin", "https://evil.example")],
    ] {
        let answer = post(&world, headers).await;
        answer.assert_refused(403, "cross_site_request");
        assert_eq!(answer.error()["type"], "permission_error", "{headers:?}");
    }
    assert!(!world.queue.counts().await.unwrap().paused);
    for headers in [
        &[host][..],
        &[],
        &[host, ("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")],
        &[("host", "LOCALHOST:8080"), ("origin", "http://localhost:8080")],
        &[host, ("sec-fetch-site", "none")],
    ] {
        assert_eq!(post(&world, headers).await.status, 200, "{headers:?}");
    }
    let read = [host, ("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")];
    let answer = world.ask(Method::GET, "/v1/videos", &read, None).await;
    assert_eq!(answer.status, 200, "which the browser lets nobody read");
    assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control-")));
}

#[tokio::test]
async fn a_host_that_is_no_name_of_the_server_is_refused() {
    let world = World::custom(KeyLimits::default(), |state| {
        state.access.allowed_hosts = vec!["gpu-box.lan".to_owned()];
    })
    .await;
    let ask = async |host: &str| world.ask(Method::GET, "/v1/videos", &[("host", host)], None).await;
    for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.nip.io", "@", ""] {
        ask(host).await.assert_refused(403, "host_not_allowed");
    }
    for host in [
        "localhost",
        "localhost:8080",
        "Studio.LOCALHOST",
        "localhost.",
        "127.0.0.1:8080",
        "192.168.1.7",
        "[::1]:8080",
        "gpu-box.lan",
        "GPU-box.lan:8080",
    ] {
        assert_eq!(ask(host).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn with_keys_the_key_decides_and_not_the_browser() {
    let world = World::new().await;
    let key = world.key("studio", &[Scope::Admin], KeyLimits::default()).await;
    let authorization = format!("Bearer {key}");
    let headers = [
        ("authorization", authorization.as_str()),
        ("host", "videos.example.org"),
        ("origin", "https://studio.example.org"),
        ("sec-fetch-site", "cross-site"),
    ];
    assert_eq!(post(&world, &headers).await.status, 200);
    post(&world, &headers[1..]).await.assert_refused(401, "missing_api_key");
}

#[tokio::test]
async fn listed_origins_may_ask_and_read_and_no_others() {
    let origin = "https://studio.example.org";
    let world = World::custom(KeyLimits::default(), |state| {
        state.access.cors_origins = vec![origin.to_owned()];
    })
    .await;
    let preflight = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,idempotency-key"),
    ];
    let answer = world.ask(Method::OPTIONS, "/v1/videos", &preflight, None).await;
    assert_eq!(answer.status, 200);
    for (name, value) in [
        ("access-control-allow-origin", origin),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "authorization,idempotency-key"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let host = ("host", "localhost:8080");
    let headers = [host, ("origin", origin), ("sec-fetch-site", "cross-site")];
    let answer = world.ask(Method::POST, "/v1/videos", &headers, Some(json!({ "prompt": "a cat" }))).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, origin));
    assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    let refused = world.ask(Method::GET, "/v1/videos/video_0", &headers, None).await;
    assert_eq!(refused.header("access-control-allow-origin"), origin, "refusals can be read too");

    let other = [host, ("origin", "https://evil.example")];
    let answer = world.ask(Method::GET, "/v1/videos", &other, None).await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    post(&world, &other).await.assert_refused(403, "cross_site_request");
}
