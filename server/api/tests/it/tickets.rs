//! Tickets: once, soon, and with the rights of the key that asked.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use queue::Scope;

use crate::reader::{Ask, Reader};
use crate::world::{Answer, World};

async fn ask(world: &World, key: Option<&str>) -> Answer {
    let mut request = Request::post("/v1/tickets");
    if let Some(key) = key {
        request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    world.send(request.body(Body::empty()).unwrap()).await
}

async fn ticket(world: &World, key: &str) -> String {
    ask(world, Some(key)).await.json()["ticket"].as_str().unwrap().to_owned()
}

async fn open(world: &World, path: &str, ticket: &str) -> Result<Reader, StatusCode> {
    Reader::ask(world, &format!("{path}?ticket={ticket}"), Ask::default()).await
}

#[tokio::test]
async fn a_ticket_opens_one_stream_with_the_rights_of_its_key() {
    let world = World::new().await;
    let key = world.key_for("one", &[Scope::Read, Scope::Submit]).await;
    let id = world.queued_by(&key, "a cat").await;
    let answer = ask(&world, Some(&key)).await;
    assert_eq!((answer.status, answer.header("cache-control")), (StatusCode::OK, "no-store"));
    let body = answer.json();
    assert_eq!(body["expires_at"], 1_700_000_060);
    let first = body["ticket"].as_str().unwrap();
    assert!(first.len() == 64 && first.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let mut reader = open(&world, &format!("/v1/videos/{id}/events"), first).await.unwrap();
    reader.expect("video.snapshot").await;
    assert_eq!(open(&world, "/v1/events", first).await.err(), Some(StatusCode::UNAUTHORIZED));

    let second = ticket(&world, &key).await;
    assert_ne!(first, second);
    let mut all = open(&world, "/v1/events", &second).await.unwrap();
    all.frame().await.unwrap();
    let other = world.key_for("other", &[Scope::Submit]).await;
    world.queued_by(&other, "not for it").await;
    let own = world.queued_by(&key, "for it").await;
    assert_eq!(all.expect("video.queued").await["id"], own);
}

#[tokio::test]
async fn a_refused_ticket_is_used_up() {
    let world = World::new().await;
    let key = world.key_for("one", &[Scope::Read]).await;
    let first = ticket(&world, &key).await;
    let nowhere = format!("/v1/videos/video_{}/events", "0".repeat(32));
    assert_eq!(open(&world, &nowhere, &first).await.err(), Some(StatusCode::NOT_FOUND));
    assert_eq!(open(&world, "/v1/events", &first).await.err(), Some(StatusCode::UNAUTHORIZED));
}

#[tokio::test]
async fn a_ticket_is_good_for_a_minute_and_while_its_key_is() {
    let world = World::new().await;
    let key = world.key_for("one", &[Scope::Read]).await;
    let first = ticket(&world, &key).await;
    world.clock.advance(Duration::from_millis(59_999));
    assert!(open(&world, "/v1/events", &first).await.is_ok());
    let second = ticket(&world, &key).await;
    world.clock.advance(Duration::from_mins(1));
    let answer = world.get(&format!("/v1/events?ticket={second}")).await;
    answer.assert_refused(401, "invalid_ticket");
    let third = ticket(&world, &key).await;
    world.keys().await.revoke("one").await.unwrap();
    world.get(&format!("/v1/events?ticket={third}")).await.assert_refused(401, "invalid_ticket");
}

#[tokio::test]
async fn a_ticket_needs_a_key_that_may_read_and_opens_nothing_else() {
    let world = World::new().await;
    let submit = world.key_for("submit", &[Scope::Submit]).await;
    ask(&world, None).await.assert_refused(401, "missing_api_key");
    ask(&world, Some(&submit)).await.assert_refused(403, "permission_denied");
    let read = world.key_for("read", &[Scope::Read]).await;
    let ticket = ticket(&world, &read).await;
    world.get(&format!("/v1/videos?ticket={ticket}")).await.assert_refused(401, "missing_api_key");
    world.get("/v1/events?ticket=").await.assert_refused(401, "invalid_ticket");
}

#[tokio::test]
async fn a_server_without_keys_gives_tickets_that_a_later_key_ends() {
    let world = World::new().await;
    let before = ask(&world, None).await.json()["ticket"].as_str().unwrap().to_owned();
    let late = ask(&world, None).await.json()["ticket"].as_str().unwrap().to_owned();
    assert!(open(&world, "/v1/events", &before).await.is_ok());
    world.key_for("first", &[Scope::Read]).await;
    assert_eq!(open(&world, "/v1/events", &late).await.err(), Some(StatusCode::UNAUTHORIZED));
}

#[tokio::test]
async fn tickets_are_bounded_by_key() {
    let world = World::new().await;
    let (one, two) = (world.key_for("one", &[Scope::Read]).await, world.key_for("two", &[Scope::Read]).await);
    for _ in 0..1024 {
        assert_eq!(ask(&world, Some(&one)).await.status, StatusCode::OK);
    }
    ask(&world, Some(&one)).await.assert_refused(429, "too_many_tickets");
    assert_eq!(ask(&world, Some(&two)).await.status, StatusCode::OK, "another key's are its own");
    world.clock.advance(Duration::from_mins(1));
    assert_eq!(ask(&world, Some(&one)).await.status, StatusCode::OK);
}
