//! API keys: who is let in, to what, and that nobody sees another's videos.

use std::io::Write;
use std::sync::{Arc, Mutex};

use axum::http::Method;
use queue::{KeyLimits, Scope, Topic};
use serde_json::json;

use crate::world::{Answer, World};

const ALL: &[Scope] = &[Scope::Submit, Scope::Read];

async fn key(world: &World, name: &str, scopes: &[Scope]) -> String {
    world.key(name, scopes, KeyLimits::default()).await
}

async fn ask(world: &World, key: &str, method: Method, path: &str) -> Answer {
    world.ask(method, path, &[("authorization", &format!("Bearer {key}"))], None).await
}

async fn make(world: &World, key: &str) -> Answer {
    let headers = [("authorization", format!("Bearer {key}"))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    world.ask(Method::POST, "/v1/videos", &headers, Some(json!({ "prompt": "a cat" }))).await
}

async fn made(world: &World, key: &str) -> String {
    let answer = make(world, key).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// Everything that takes a caller, of one video.
fn doors(id: &str) -> Vec<(Method, String, Scope)> {
    vec![
        (Method::GET, "/v1/videos".to_owned(), Scope::Read),
        (Method::GET, format!("/v1/videos/{id}"), Scope::Read),
        (Method::DELETE, format!("/v1/videos/{id}"), Scope::Submit),
        (Method::PATCH, format!("/v1/videos/{id}"), Scope::Submit),
        (Method::POST, format!("/v1/videos/{id}/cancel"), Scope::Submit),
        (Method::POST, format!("/v1/videos/{id}/remix"), Scope::Submit),
        (Method::POST, format!("/v1/videos/{id}/retry"), Scope::Submit),
        (Method::POST, "/v1/videos".to_owned(), Scope::Submit),
        (Method::GET, "/v1/queue".to_owned(), Scope::Read),
        (Method::POST, "/v1/queue/pause".to_owned(), Scope::Admin),
        (Method::POST, "/v1/queue/resume".to_owned(), Scope::Admin),
    ]
}

/// A request that is complete but for who asks.
async fn knock(world: &World, method: Method, path: &str, authorization: Option<&str>) -> Answer {
    let body = match (&method, path) {
        (&Method::PATCH, _) => Some(json!({ "priority": 1 })),
        (&Method::POST, path) if path.ends_with("videos") || path.ends_with("remix") => {
            Some(json!({ "prompt": "a dog" }))
        }
        _ => None,
    };
    let headers: Vec<_> = authorization.iter().map(|text| ("authorization", *text)).collect();
    world.ask(method, path, &headers, body).await
}

#[tokio::test]
async fn without_keys_everybody_may_do_everything_whatever_they_send() {
    let world = World::new().await;
    for authorization in [None, Some("Bearer anything"), Some("Bearer cvx_0_0"), Some("Basic YTpi")] {
        let id = world.completed(b"an mp4").await;
        for (method, path, _) in doors(&id) {
            if method == Method::DELETE || method == Method::PATCH {
                continue;
            }
            let answer = knock(&world, method, &path, authorization).await;
            assert_eq!(answer.status, 200, "{path} {}", answer.text());
        }
        for id in world.get("/v1/videos").await.json()["data"].as_array().unwrap() {
            world.call(Method::DELETE, &format!("/v1/videos/{}", id["id"].as_str().unwrap())).await;
        }
    }
}

#[tokio::test]
async fn from_the_first_key_on_each_door_asks_for_one() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let good = key(&world, "studio", ALL).await;
    let forged = format!("{}0", &good[..good.len() - 1]);
    for (method, path, _) in doors(&id) {
        let answer = knock(&world, method.clone(), &path, None).await;
        answer.assert_refused(401, "missing_api_key");
        assert_eq!(answer.error()["type"], "authentication_error");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        for wrong in [format!("Bearer {forged}x"), "Bearer sk-1".to_owned(), "Basic YTpi".to_owned()] {
            let answer = knock(&world, method.clone(), &path, Some(&wrong)).await;
            answer.assert_refused(401, "invalid_api_key");
            assert_eq!(answer.header("www-authenticate"), "Bearer", "{path}");
        }
    }
    for path in ["/livez", "/readyz", "/healthz", "/v1/capabilities", "/v1/models", "/v1/models/cogvideox-2b"]
    {
        assert_eq!(world.get(path).await.status, 200, "{path} is public");
    }
    assert_eq!(
        world
            .ask(Method::GET, "/v1/videos", &[("authorization", &format!("bearer  {good}"))], None)
            .await
            .status,
        200
    );
    world.keys().await.revoke("studio").await.unwrap();
    ask(&world, &good, Method::GET, "/v1/videos").await.assert_refused(401, "invalid_api_key");
}

#[tokio::test]
async fn a_key_is_good_for_its_scopes_only() {
    let world = World::new().await;
    let keys = [
        (Scope::Submit, key(&world, "submits", &[Scope::Submit]).await),
        (Scope::Read, key(&world, "reads", &[Scope::Read]).await),
    ];
    for (scope, key) in &keys {
        let id = "video_019a0000000070008000000000000000";
        for (method, path, needed) in doors(id) {
            let answer = knock(&world, method, &path, Some(&format!("Bearer {key}"))).await;
            if needed == *scope {
                assert_ne!(answer.status, 403, "{path}");
                continue;
            }
            answer.assert_refused(403, "permission_denied");
            assert_eq!(answer.error()["type"], "permission_error");
            assert!(answer.error()["message"].as_str().unwrap().contains("lacks the scope"), "{path}");
        }
    }
    let admin = key(&world, "admin", &[Scope::Admin]).await;
    assert_eq!(ask(&world, &admin, Method::POST, "/v1/queue/pause").await.json()["paused"], true);
    assert_eq!(make(&world, &admin).await.status, 200, "an admin may do everything");
}

#[tokio::test]
async fn a_video_of_another_key_does_not_exist() {
    let world = World::new().await;
    let mine = key(&world, "mine", ALL).await;
    let other = key(&world, "other", ALL).await;
    let admin = key(&world, "admin", &[Scope::Admin]).await;
    let id = made(&world, &mine).await;
    for (method, path, _) in doors(&id).into_iter().filter(|(_, path, _)| path.contains(&id)) {
        let answer = knock(&world, method, &path, Some(&format!("Bearer {other}"))).await;
        answer.assert_refused(404, "video_not_found");
    }
    let list =
        async |key: &str, query: &str| ask(&world, key, Method::GET, &format!("/v1/videos{query}")).await;
    assert_eq!(list(&other, "").await.json()["data"], json!([]));
    list(&other, &format!("?after={id}")).await.assert_refused(400, "invalid_cursor");
    assert_eq!(list(&mine, "").await.json()["first_id"], json!(id));
    assert_eq!(list(&admin, "").await.json()["first_id"], json!(id), "an admin sees all");
    let path = format!("/v1/videos/{id}");
    assert_eq!(ask(&world, &admin, Method::GET, &path).await.status, 200);
    assert_eq!(ask(&world, &mine, Method::DELETE, &path).await.status, 200);
}

#[tokio::test]
async fn the_audit_trail_names_the_key() {
    let world = World::new().await;
    let mine = key(&world, "mine", ALL).await;
    let admin = key(&world, "admin", &[Scope::Admin]).await;
    let id = made(&world, &mine).await;
    knock(&world, Method::PATCH, &format!("/v1/videos/{id}"), Some(&format!("Bearer {mine}"))).await;
    ask(&world, &admin, Method::POST, &format!("/v1/videos/{id}/cancel")).await;
    ask(&world, &admin, Method::DELETE, &format!("/v1/videos/{id}")).await;
    let events = world.queue.events_after(&Topic::All, 0, 10).await.unwrap();
    let trail: Vec<_> = events
        .iter()
        .map(|event| (event.kind.as_str(), event.actor.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(trail, [("queued", "mine"), ("moved", "mine"), ("cancelled", "admin"), ("deleted", "admin")]);
}

/// A log that the test reads.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_names_the_key_and_never_shows_it() {
    let world = World::new().await;
    let mine = key(&world, "mine", ALL).await;
    // Interested in everything for good: what other tests' threads ask of tracing meanwhile would otherwise switch
    // events off that this one waits for.
    let everything = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(std::io::sink);
    tracing::subscriber::set_global_default(everything.finish()).unwrap();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let id = made(&world, &mine).await;
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = text.lines().find(|line| line.contains("video queued")).unwrap();
    assert!(line.contains("api_key.name=\"mine\"") && line.contains(&id), "{line}");
    let secret = mine.rsplit('_').next().unwrap();
    assert!(!text.contains(secret), "{text}");
}
