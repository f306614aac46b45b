//! Requests that come twice: idempotency keys, and clients that retry by themselves.

use queue::{Enqueued, Error, KeyId, KeyLimits, NewVideo, Owner, QueueOptions, Submission};

use crate::bench::{Bench, OPTIONS, denoise, new_video};

fn request(owner: Option<&KeyId>, fingerprint: &str, key: Option<&str>, retry_count: u32) -> NewVideo {
    let submission =
        Submission { fingerprint: fingerprint.into(), idempotency_key: key.map(Into::into), retry_count };
    NewVideo { owner: owner.cloned(), submission: Some(submission), ..new_video("a panda") }
}

async fn send(bench: &Bench, new: NewVideo) -> Enqueued {
    bench.queue.enqueue(new, None).await.unwrap()
}

#[tokio::test]
async fn an_idempotency_key_makes_one_video_for_as_long_as_that_is_there() {
    let bench = Bench::with(QueueOptions { capacity: 1, ..OPTIONS }).await;
    let first = send(&bench, request(None, "f", Some("k"), 0)).await;
    assert!(!first.replayed);
    // The queue is full, and a replay asks for no place in it.
    let again = send(&bench, request(None, "f", Some("k"), 0)).await;
    assert_eq!((again.replayed, again.video.id), (true, first.video.id));
    let other = bench.queue.enqueue(request(None, "g", Some("k"), 0), None).await;
    assert!(matches!(other, Err(Error::IdempotencyKeyReuse)), "{other:?}");
    assert_eq!(bench.kinds(first.video.id).await.len(), 1, "a replay is no event");

    let bench = bench.kill_and_reopen().await;
    assert!(send(&bench, request(None, "f", Some("k"), 0)).await.replayed);
    bench.queue.request_cancel(first.video.id, None).await.unwrap();
    assert!(send(&bench, request(None, "f", Some("k"), 0)).await.replayed, "however it ended");
    bench.queue.delete(first.video.id, None).await.unwrap();
    let new = send(&bench, request(None, "f", Some("k"), 0)).await;
    assert!(!new.replayed && new.video.id != first.video.id);
}

#[tokio::test]
async fn an_idempotency_key_is_one_api_keys_own() {
    let bench = Bench::new().await;
    let (a, b) = (bench.key("a", KeyLimits::default()).await, bench.key("b", KeyLimits::default()).await);
    let mut ids = Vec::new();
    for owner in [None, Some(&a), Some(&b)] {
        let made = send(&bench, request(owner, "f", Some("k"), 0)).await;
        assert!(!made.replayed);
        assert!(send(&bench, request(owner, "f", Some("k"), 0)).await.replayed);
        ids.push(made.video.id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn idempotency_keys_are_forgotten_with_age() {
    let bench = Bench::new().await;
    let first = send(&bench, request(None, "f", Some("k"), 0)).await;
    bench.clock.advance_ms(1);
    let now_ms = first.video.created_at_ms + 1;
    bench.queue.prune(now_ms - 1).await.unwrap();
    assert!(send(&bench, request(None, "f", Some("k"), 0)).await.replayed);
    bench.queue.prune(now_ms).await.unwrap();
    assert!(!send(&bench, request(None, "g", Some("k"), 0)).await.replayed);
}

#[tokio::test]
async fn a_clients_own_retry_finds_what_its_first_try_made() {
    let bench = Bench::new().await;
    let (a, b) = (bench.key("a", KeyLimits::default()).await, bench.key("b", KeyLimits::default()).await);
    let first = send(&bench, request(Some(&a), "f", None, 0)).await;
    // Not a retry; a retry of another's; a retry of something else.
    for new in [
        request(Some(&a), "f", None, 0),
        request(Some(&b), "f", None, 1),
        request(None, "f", None, 1),
        request(Some(&a), "g", None, 1),
    ] {
        assert!(!send(&bench, new).await.replayed);
    }
    let newest = send(&bench, request(Some(&a), "h", None, 0)).await;
    for retry_count in [1, 2] {
        let retried = send(&bench, request(Some(&a), "h", None, retry_count)).await;
        assert_eq!((retried.replayed, retried.video.id), (true, newest.video.id));
    }
    // What a second try made is no first try's: the same count is another client.
    let lone = send(&bench, request(Some(&a), "i", None, 1)).await;
    assert!(!lone.replayed && !send(&bench, request(Some(&a), "i", None, 1)).await.replayed);
    let third = send(&bench, request(Some(&a), "i", None, 2)).await;
    assert!(third.replayed);

    bench.clock.advance_ms(120_000);
    assert!(send(&bench, request(Some(&a), "h", None, 1)).await.replayed, "two minutes later, still");
    bench.clock.advance_ms(1);
    let late = send(&bench, request(Some(&a), "h", None, 1)).await;
    assert!(!late.replayed && late.video.id != first.video.id);
}

#[tokio::test]
async fn a_replay_shows_a_running_video_as_far_as_it_is() {
    let bench = Bench::new().await;
    let first = send(&bench, request(None, "f", Some("k"), 0)).await.video;
    let claim = bench.claim(&Owner::unique()).await;
    for step in 1..=9 {
        bench.queue.set_progress(&claim.lease, denoise(step, step as u8)).await.unwrap();
    }
    let replay = send(&bench, request(None, "f", Some("k"), 0)).await.video;
    assert_eq!((replay.id, replay.step, replay.progress), (first.id, 9, 9));
    assert_eq!(replay, bench.queue.get(first.id).await.unwrap());
}
