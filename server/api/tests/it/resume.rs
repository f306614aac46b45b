//! Coming back to a stream: nothing durable is missed, nothing comes twice.

use axum::http::{Method, StatusCode};
use queue::{Progress, Stage};
use serde_json::json;

use crate::reader::{Ask, Event, Reader};
use crate::world::World;

/// A whole life with two attempts, followed from its beginning: all that a reader who never left was told.
async fn lived(world: &World, id: &str) -> Vec<Event> {
    let mut reader = Reader::follow(world, id).await;
    let mut told = vec![reader.event().await.unwrap()];
    let claim = world.claim().await;
    told.extend(reader.until("video.started").await);
    for step in 1..=3 {
        let progress = Progress { stage: Stage::Denoise, step, total_steps: 50, percent: step as u8 };
        world.queue.set_progress(&claim.lease, progress).await.unwrap();
        told.extend(reader.until("video.progress").await);
    }
    world.queue.requeue(&claim.lease).await.unwrap();
    let priority = world.queue.set_priority(claim.video.id, 5, None).await.unwrap();
    assert_eq!(priority.priority, 5);
    let claim = world.claim().await;
    world.complete(&claim, b"an mp4").await;
    told.extend(reader.rest().await);
    told
}

fn seqs(events: &[Event]) -> Vec<(i64, String)> {
    events.iter().filter_map(|event| Some((event.seq()?, event.name.clone()))).collect()
}

#[tokio::test]
async fn whoever_comes_back_after_any_event_is_told_every_durable_event_once() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let told = lived(&world, &id).await;
    let all = seqs(&told);
    let names: Vec<_> = all.iter().map(|(_, name)| name.as_str()).collect();
    let expected = ["video.started", "video.queued", "video.moved", "video.started", "video.completed"];
    assert_eq!(names, expected);
    assert!(all.is_sorted_by(|a, b| a.0 < b.0));
    for (index, last) in told.iter().enumerate().take(told.len() - 1) {
        let mut reader = Reader::come_back(&world, &id, &last.id).await;
        let again = reader.rest().await;
        assert_eq!(again[0].name, "video.snapshot");
        assert_eq!(again[0].id, last.id.split('.').next().unwrap(), "breaking off again skips nothing");
        assert_eq!([seqs(&told[..=index]), seqs(&again)].concat(), all, "cut off after {last:?}");
        assert_eq!(again.last().unwrap().data["state"], "completed");
    }
    for past_the_end in [told.last().unwrap().id.clone(), format!("{}.9", told.last().unwrap().id)] {
        let ask = Ask { last_event_id: Some(&past_the_end), ..Ask::default() };
        let again = Reader::ask(&world, &format!("/v1/videos/{id}/events"), ask).await;
        assert_eq!(again.err(), Some(StatusCode::NO_CONTENT));
    }
}

#[tokio::test]
async fn a_stream_of_all_videos_goes_on_after_any_event() {
    let world = World::new().await;
    let mut reader = Reader::follow_all(&world, Ask::default()).await;
    // More than a page of them.
    for _ in 0..30 {
        let id = world.queued("a cat").await;
        world.call(Method::POST, &format!("/v1/videos/{id}/cancel")).await;
        world.call(Method::DELETE, &format!("/v1/videos/{id}")).await;
    }
    let mut told = Vec::new();
    for _ in 0..90 {
        told.push(reader.event().await.unwrap());
    }
    let all = seqs(&told);
    assert_eq!(all.len(), 90);
    let mut readers = Vec::new();
    for index in [0, 1, 17, 24, 25, 26, 63, 88, 89] {
        let ask = Ask { last_event_id: Some(&told[index].id), ..Ask::default() };
        let mut reader = Reader::follow_all(&world, ask).await;
        let mut again = Vec::new();
        for _ in index + 1..90 {
            again.push(reader.event().await.unwrap());
        }
        assert_eq!(seqs(&again)[..], all[index + 1..], "cut off after {index}");
        readers.push(reader);
    }
    let next = world.queued("the next").await;
    for mut reader in readers {
        assert_eq!(reader.expect("video.queued").await["id"], next, "and then what is new");
    }
}

#[tokio::test]
async fn a_restarted_server_goes_on_where_the_last_one_was() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    let mut one = Reader::follow(&world, &id).await;
    one.expect("video.snapshot").await;
    let mut all = Reader::follow_all(&world, Ask::default()).await;
    let claim = world.claim().await;
    one.expect("video.started").await;
    all.expect("video.started").await;
    let (last_of_one, last_of_all) = (one.last_id.clone(), all.last_id.clone());
    world.queue.requeue(&claim.lease).await.unwrap();
    drop((one, all, claim));

    let world = world.restart().await;
    let mut one = Reader::come_back(&world, &id, &last_of_one).await;
    let ask = Ask { last_event_id: Some(&last_of_all), ..Ask::default() };
    let mut all = Reader::follow_all(&world, ask).await;
    one.expect("video.snapshot").await;
    one.expect("video.queued").await;
    all.expect("video.queued").await;
    let claim = world.claim().await;
    one.expect("video.started").await;
    all.expect("video.started").await;
    world.complete(&claim, b"an mp4").await;
    one.expect("video.completed").await;
    one.expect_end().await;
    all.expect("video.completed").await;
}

#[tokio::test]
async fn a_cursor_that_means_nothing_is_none() {
    let world = World::new().await;
    let id = world.queued("a cat").await;
    world.claim().await;
    let newest = world.queue.last_event().await.unwrap();
    for odd in ["", "x", "-1", "1e3", "99999999999999999999", "1000000", ".5", "video.snapshot"] {
        let mut reader = Reader::come_back(&world, &id, odd).await;
        reader.expect("video.snapshot").await;
        assert_eq!(reader.last_id, newest.to_string(), "{odd:?}");
        let mut all = Reader::follow_all(&world, Ask { last_event_id: Some(odd), ..Ask::default() }).await;
        assert_eq!(all.last_id, newest.to_string(), "{odd:?}");
        drop(all.frame());
    }
    for query in ["after_seq=0", "last_event_id=0.7"] {
        let path = format!("/v1/videos/{id}/events?{query}");
        let mut reader = Reader::ask(&world, &path, Ask::default()).await.unwrap();
        reader.expect("video.snapshot").await;
        assert_eq!(reader.last_id, "0");
        reader.expect("video.queued").await;
        reader.expect("video.started").await;
    }
    // A browser repeats the address that it first came to; what it has since is in the header.
    let path = format!("/v1/videos/{id}/events?after_seq=0");
    let ask = Ask { last_event_id: Some("1"), ..Ask::default() };
    let mut reader = Reader::ask(&world, &path, ask).await.unwrap();
    reader.expect("video.snapshot").await;
    reader.expect("video.started").await;
}

#[tokio::test]
async fn a_reader_cut_off_before_the_end_of_a_finished_video_comes_back_for_it() {
    let world = World::new().await;
    let id = world.completed(b"an mp4").await;
    let mut reader = Reader::follow(&world, &id).await;
    let snapshot = reader.expect("video.snapshot").await;
    let last = reader.last_id.clone();
    drop(reader);
    let mut reader = Reader::come_back(&world, &id, &last).await;
    reader.expect("video.snapshot").await;
    assert_eq!(reader.expect("video.completed").await, snapshot);
    reader.expect_end().await;
}

#[tokio::test]
async fn an_expired_video_says_so_and_a_deleted_one_is_gone() {
    let world = World::new().await;
    let id = world.completed(b"an mp4").await;
    assert_eq!(world.queue.expire_before(i64::MAX).await.unwrap().len(), 1);
    let mut reader = Reader::follow(&world, &id).await;
    assert_eq!(reader.expect("video.snapshot").await["state"], "expired");
    assert_eq!(reader.expect("video.expired").await["state"], "expired");
    reader.expect_end().await;

    let id = world.queued("a cat").await;
    let mut reader = Reader::follow(&world, &id).await;
    reader.expect("video.snapshot").await;
    let last = reader.last_id.clone();
    drop(reader);
    world.call(Method::DELETE, &format!("/v1/videos/{id}")).await;
    let mut reader = Reader::come_back(&world, &id, &last).await;
    reader.frame().await.unwrap();
    let gone = json!({ "id": id, "object": "video.deleted", "deleted": true });
    let told: Vec<_> = reader.rest().await.into_iter().map(|event| (event.name, event.data)).collect();
    assert_eq!(told, [("video.cancelled".to_owned(), gone.clone()), ("video.deleted".to_owned(), gone)]);
    let last = reader.last_id.clone();
    assert_eq!(last, world.queue.last_event().await.unwrap().to_string());
    for last in [Some(last.as_str()), None] {
        let ask = Ask { last_event_id: last, ..Ask::default() };
        let again = Reader::ask(&world, &format!("/v1/videos/{id}/events"), ask).await;
        assert_eq!(again.err(), Some(StatusCode::NOT_FOUND));
    }
}
