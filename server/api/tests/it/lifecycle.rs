//! Looking at, listing, cancelling and deleting videos, while they wait, while they run and afterwards.

use std::time::Duration;

use api::Limits;
use axum::http::Method;
use queue::{Finished, JobError, KeyLimits, Output, OutputFile, Progress, Stage, Timings};
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn a_running_video_says_how_far_it_is_and_how_long_it_will_take() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let second = world.queued("a dog").await;
    let claim = world.claim().await;
    for (step, percent) in [(9, 18), (10, 20)] {
        world.clock.advance(Duration::from_secs(3));
        let progress = Progress { stage: Stage::Denoise, step, total_steps: 50, percent };
        world.queue.set_progress(&claim.lease, progress).await.unwrap();
    }

    let answer = world.get(&format!("/v1/videos/{id}")).await;
    assert_eq!(answer.header("openai-poll-after-ms"), "1000");
    let video = answer.json();
    for (name, value) in [
        ("status", json!("in_progress")),
        ("state", json!("in_progress")),
        ("stage", json!("denoise")),
        ("step", json!(10)),
        ("total_steps", json!(50)),
        ("progress", json!(20)),
        ("eta_seconds", json!(120.0)),
        ("attempt", json!(1)),
        ("started_at", json!(1_700_000_000)),
        ("queue_position", json!(null)),
    ] {
        assert_eq!(video[name], value, "{name}");
    }
    let waiting = world.get(&format!("/v1/videos/{second}")).await.json();
    assert_eq!((&waiting["queue_position"], &waiting["eta_seconds"]), (&json!(1), &json!(270.0)));
    let listed = world.get("/v1/videos").await.json();
    assert_eq!((&listed["data"][0], &listed["data"][1]), (&waiting, &video), "a list says the same");
}

#[tokio::test]
async fn a_settled_video_says_how_it_ended_with_status_200() {
    let world = World::new().await;
    let completed = world.completed(b"an mp4").await;
    let failed = world.queued("a cat").await;
    let claim = world.claim().await;
    let error = JobError { code: "out_of_memory".to_owned(), message: "the device is full".to_owned() };
    world.queue.fail(&claim.lease, error).await.unwrap();
    let cancelled = world.queued("a cat").await;
    world.call(Method::POST, &format!("/v1/videos/{cancelled}/cancel")).await;

    let answer = world.get(&format!("/v1/videos/{completed}")).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.headers.contains_key("openai-poll-after-ms"));
    let video = answer.json();
    assert_eq!(
        (&video["status"], &video["state"], &video["progress"]),
        (&json!("completed"), &json!("completed"), &json!(100))
    );
    assert_eq!(
        (&video["bytes"], &video["stage"], &video["completed_at"]),
        (&json!(6), &json!(null), &json!(1_700_000_000))
    );
    assert_eq!(video["sha256"].as_str().unwrap().len(), 64);

    let video = world.get(&format!("/v1/videos/{failed}")).await.json();
    assert_eq!((&video["status"], &video["state"]), (&json!("failed"), &json!("failed")));
    assert_eq!(video["error"], json!({ "code": "out_of_memory", "message": "the device is full" }));

    let video = world.get(&format!("/v1/videos/{cancelled}")).await.json();
    assert_eq!((&video["status"], &video["state"]), (&json!("failed"), &json!("cancelled")));
    assert_eq!(video["error"]["code"], "cancelled");
}

#[tokio::test]
async fn what_is_not_a_known_id_is_404() {
    let world = World::new().await;
    for id in [
        "video_0",
        "video_019a0000000070008000000000000000",
        "nonsense",
        "video_019A0000000070008000000000000000",
    ] {
        for (method, path) in [
            (Method::GET, format!("/v1/videos/{id}")),
            (Method::DELETE, format!("/v1/videos/{id}")),
            (Method::POST, format!("/v1/videos/{id}/cancel")),
            (Method::GET, format!("/v1/videos/{id}/content")),
            (Method::GET, format!("/v1/videos/{id}/events")),
        ] {
            let answer = world.call(method, &path).await;
            answer.assert_refused(404, "video_not_found");
            assert_eq!(answer.error()["type"], "not_found_error");
        }
    }
    world.get("/v1/videos/%ff").await.assert_refused(400, "invalid_request");
}

#[tokio::test]
async fn pages_of_one_walk_the_whole_list_in_either_order() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for prompt in ["a", "b", "c"] {
        ids.push(world.queued(prompt).await);
    }
    for order in ["asc", "desc"] {
        let mut seen = Vec::new();
        let mut after = String::new();
        loop {
            let page = world.get(&format!("/v1/videos?limit=1&order={order}{after}")).await.json();
            assert_eq!(page["object"], "list");
            let data = page["data"].as_array().unwrap();
            assert_eq!(data.len(), 1);
            assert_eq!((&page["first_id"], &page["last_id"]), (&data[0]["id"], &data[0]["id"]));
            seen.push(data[0]["id"].as_str().unwrap().to_owned());
            if page["has_more"] == false {
                break;
            }
            after = format!("&after={}", page["last_id"].as_str().unwrap());
        }
        if order == "desc" {
            seen.reverse();
        }
        assert_eq!(seen, ids, "{order}");
    }
    let newest_first = world.get("/v1/videos").await.json();
    assert_eq!(newest_first["first_id"], json!(ids[2]));
    let last = &ids[2];
    let beyond = world.get(&format!("/v1/videos?order=asc&after={last}")).await.json();
    assert_eq!(
        beyond,
        json!({ "object": "list", "data": [], "first_id": null, "last_id": null, "has_more": false })
    );
}

#[tokio::test]
async fn a_lists_parameters_are_checked() {
    let world = World::new().await;
    for (query, code, param) in [
        ("limit=0", "invalid_limit", "limit"),
        ("limit=101", "invalid_limit", "limit"),
        ("state=queued,lost", "invalid_state", "state"),
        ("limit=ten", "invalid_type", "limit"),
        ("limit=1&limit=2", "duplicate_parameter", "limit"),
        ("order=newest", "invalid_order", "order"),
        ("after=video_0", "invalid_cursor", "after"),
        ("after=video_019a0000000070008000000000000000", "invalid_cursor", "after"),
        ("page=2", "unknown_parameter", "page"),
    ] {
        let answer = world.get(&format!("/v1/videos?{query}")).await;
        answer.assert_refused(400, code);
        assert_eq!(answer.error()["param"], param);
    }
}

#[tokio::test]
async fn cancelling_ends_a_waiting_video_and_asks_a_running_one_to_stop() {
    let world = World::new().await;
    let running = world.queued("a cat").await;
    let claim = world.claim().await;
    let waiting = world.queued("a dog").await;
    let cancel = async |id: &str| world.call(Method::POST, &format!("/v1/videos/{id}/cancel")).await.json();

    assert_eq!(cancel(&waiting).await["state"], "cancelled");
    let video = cancel(&running).await;
    assert_eq!((&video["status"], &video["state"]), (&json!("in_progress"), &json!("cancelling")));
    assert!(claim.cancel.is_cancelled());
    assert_eq!(cancel(&running).await["state"], "cancelling", "asking twice is asking once");
    world.queue.cancelled(&claim.lease).await.unwrap();
    assert_eq!(cancel(&running).await["state"], "cancelled");
    let done = world.completed(b"an mp4").await;
    assert_eq!(cancel(&done).await["state"], "completed", "what is settled stays");
}

#[tokio::test]
async fn files_expire_and_the_video_stays() {
    let world =
        World::custom(KeyLimits::default(), |state| state.retention_age = Some(Duration::from_hours(24)))
            .await;
    let id = world.completed(b"an mp4").await;
    let path = format!("/v1/videos/{id}");
    assert_eq!(world.get(&path).await.json()["expires_at"], 1_700_000_000 + 86_400);
    let failed = world.queued("a cat").await;
    let claim = world.claim().await;
    let error = JobError { code: "internal".to_owned(), message: "it broke".to_owned() };
    world.queue.fail(&claim.lease, error).await.unwrap();
    assert_eq!(world.get(&format!("/v1/videos/{failed}")).await.json()["expires_at"], json!(null));

    world.clock.advance(Duration::from_hours(1));
    world.queue.expire_oldest(1).await.unwrap();
    let video = world.get(&path).await.json();
    assert_eq!(
        (&video["status"], &video["state"], &video["expires_at"]),
        (&json!("completed"), &json!("expired"), &json!(1_700_000_000 + 3_600)),
        "when they went, not when they would have"
    );
    assert_eq!(world.call(Method::DELETE, &path).await.status, 200, "its file is gone already");
}

#[tokio::test]
async fn pictures_that_were_not_made_have_no_url_and_those_that_were_go_with_the_video() {
    let world = World::new().await;
    let bare = world.completed(b"an mp4").await;
    let urls = world.get(&format!("/v1/videos/{bare}")).await.json()["urls"].clone();
    assert_eq!((&urls["thumbnail"], &urls["spritesheet"]), (&json!(null), &json!(null)));

    let id = world.queued("a cat").await;
    let claim = world.claim().await;
    let mut files = Vec::new();
    for name in ["mp4", "webp", "jpg"] {
        let key = format!("{id}.{name}");
        let stored = world.store.put(&key, name.into()).await.unwrap();
        files.push(OutputFile { key, bytes: stored.bytes, sha256: stored.sha256 });
    }
    let [video, thumbnail, spritesheet] = files.clone().try_into().unwrap();
    let output = Output { video, thumbnail: Some(thumbnail), spritesheet: Some(spritesheet) };
    let finished = Finished { output, timings: Timings::default(), peak_memory_bytes: Some(7 << 30) };
    world.queue.complete(&claim.lease, finished).await.unwrap();
    let path = format!("/v1/videos/{id}");
    let video = world.get(&path).await.json();
    assert_eq!(video["peak_memory_bytes"], 7_u64 << 30);
    assert_eq!(video["urls"]["thumbnail"], format!("{path}/content?variant=thumbnail"));
    assert_eq!(world.call(Method::DELETE, &path).await.status, 200);
    for file in files {
        assert!(
            matches!(world.store.open_file(&file.key).await, Err(store::Error::NotFound(_))),
            "{}",
            file.key
        );
    }
}

#[tokio::test]
async fn deleting_a_finished_video_takes_its_file_along() {
    let world = World::new().await;
    let id = world.completed(b"an mp4").await;
    let path = format!("/v1/videos/{id}");
    let answer = world.call(Method::DELETE, &path).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({ "id": id, "object": "video.deleted", "deleted": true }));
    assert!(matches!(world.store.open_file(&format!("{id}.mp4")).await, Err(store::Error::NotFound(_))));
    world.get(&path).await.assert_refused(404, "video_not_found");
    world.call(Method::DELETE, &path).await.assert_refused(404, "video_not_found");
}

#[tokio::test]
async fn deleting_a_waiting_video_takes_it_out_of_the_queue() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    assert_eq!(world.call(Method::DELETE, &format!("/v1/videos/{id}")).await.status, 200);
    assert_eq!(world.queue.counts().await.unwrap().queued, 0);
}

#[tokio::test]
async fn deleting_a_running_video_waits_for_the_worker_to_stop() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let claim = world.claim().await;
    let worker = async {
        claim.cancel.cancelled().await;
        world.queue.cancelled(&claim.lease).await.unwrap();
    };
    let path = format!("/v1/videos/{id}");
    let (answer, ()) = tokio::join!(world.call(Method::DELETE, &path), worker);
    assert_eq!(answer.status, 200, "{}", answer.text());
    world.get(&path).await.assert_refused(404, "video_not_found");
}

#[tokio::test]
async fn deleting_a_video_whose_worker_does_not_stop_says_when_to_come_back() {
    let world = World::with(Limits { delete_wait: Duration::ZERO, ..Limits::default() }).await;
    let id = world.queued("a cat").await;
    let claim = world.claim().await;
    let path = format!("/v1/videos/{id}");
    let answer = world.call(Method::DELETE, &path).await;
    answer.assert_refused(409, "cancellation_in_progress");
    assert_eq!(answer.header("retry-after-ms"), "1000");
    assert_eq!(world.get(&path).await.json()["state"], "cancelling");
    world.queue.cancelled(&claim.lease).await.unwrap();
    assert_eq!(world.call(Method::DELETE, &path).await.status, 200);
}
