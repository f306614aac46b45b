//! The reader's side of an event stream, as a browser has it: frames, ids, and coming back with the last of them.

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, StatusCode, header};
use futures_util::StreamExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::world::World;

pub(crate) struct Reader {
    body: BodyDataStream,
    text: String,
    /// The id of the last frame that had one.
    pub(crate) last_id: String,
}

/// One event as it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl Event {
    /// The number of a durable event; none of a snapshot, of progress or of a preview.
    pub(crate) fn seq(&self) -> Option<i64> {
        self.id.parse().ok().filter(|_| self.name != "video.snapshot")
    }
}

/// How to ask for a stream.
#[derive(Default)]
pub(crate) struct Ask<'a> {
    pub(crate) key: Option<&'a str>,
    pub(crate) last_event_id: Option<&'a str>,
}

impl Reader {
    pub(crate) async fn ask(world: &World, path: &str, ask: Ask<'_>) -> Result<Self, StatusCode> {
        let mut request = Request::get(path);
        if let Some(key) = ask.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        if let Some(id) = ask.last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = world.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        if response.status() != StatusCode::OK {
            return Err(response.status());
        }
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-store"),
            ("x-accel-buffering", "no"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(response.headers()[name], value, "{name}");
        }
        let body = response.into_body().into_data_stream();
        Ok(Self { body, text: String::new(), last_id: String::new() })
    }

    /// Follows one video from now on.
    pub(crate) async fn follow(world: &World, id: &str) -> Self {
        Self::ask(world, &format!("/v1/videos/{id}/events"), Ask::default()).await.unwrap()
    }

    /// Comes back to one video.
    pub(crate) async fn come_back(world: &World, id: &str, last: &str) -> Self {
        let ask = Ask { last_event_id: Some(last), ..Ask::default() };
        Self::ask(world, &format!("/v1/videos/{id}/events"), ask).await.unwrap()
    }

    /// Follows all videos.
    pub(crate) async fn follow_all(world: &World, ask: Ask<'_>) -> Self {
        let mut reader = Self::ask(world, "/v1/events", ask).await.unwrap();
        // Its place, before anything has happened.
        assert_eq!(reader.frame().await.unwrap()[0], "retry: 3000");
        reader
    }

    /// The next frame's lines, or none at the end of the stream.
    pub(crate) async fn frame(&mut self) -> Option<Vec<String>> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let frame: String = self.text.drain(..end + 2).collect();
                let lines: Vec<String> = frame.trim_end().lines().map(str::to_owned).collect();
                if let Some(id) = lines.iter().find_map(|line| line.strip_prefix("id: ")) {
                    id.clone_into(&mut self.last_id);
                }
                return Some(lines);
            }
            let chunk = self.body.next().await?.unwrap();
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next event, or none at the end of the stream.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        let frame = self.frame().await?;
        let field = |name: &str| frame.iter().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let data = serde_json::from_str(field("data: ")).unwrap();
        Some(Event { id: field("id: ").to_owned(), name: field("event: ").to_owned(), data })
    }

    pub(crate) async fn expect(&mut self, name: &str) -> Value {
        let event = self.event().await.expect("the stream goes on");
        assert_eq!(event.name, name, "{}", event.data);
        event.data
    }

    /// All events until one of this name.
    pub(crate) async fn until(&mut self, name: &str) -> Vec<Event> {
        let mut events = Vec::new();
        while events.last().is_none_or(|event: &Event| event.name != name) {
            events.push(self.event().await.expect("the stream goes on"));
        }
        events
    }

    /// All events until the end of the stream.
    pub(crate) async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.event().await {
            events.push(event);
        }
        events
    }

    pub(crate) async fn expect_end(&mut self) {
        assert_eq!(self.frame().await, None);
    }
}
