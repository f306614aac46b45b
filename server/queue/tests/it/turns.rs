//! Whose turn it is: fairness between keys, priorities, limits, the pause, and what is promised of it.

use queue::{
    Error, Estimate, EventKind, Finished, KeyLimits, NewVideo, Owner, QueueOptions, Status, Timings,
};

use crate::bench::{Bench, OPTIONS, denoise, finished, new_video};

#[tokio::test]
async fn a_key_with_a_long_line_does_not_keep_another_waiting() {
    let bench = Bench::with(QueueOptions { capacity: 2_000, ..OPTIONS }).await;
    let (a, b) = (bench.key("a", KeyLimits::default()).await, bench.key("b", KeyLimits::default()).await);
    let owner = Owner::unique();
    let mut line = Vec::new();
    for n in 0..1_000 {
        line.push(bench.put_for(Some(&a), &n.to_string()).await.id);
    }
    let running = bench.claim(&owner).await;
    assert_eq!(running.video.id, line[0]);

    // B comes late, and again while its first runs; A's own order stays what it was.
    let first = bench.put_for(Some(&b), "b1").await;
    assert_eq!(bench.queue.estimate(&first).queue_position, Some(1));
    bench.complete(&running).await;
    let running = bench.claim(&owner).await;
    assert_eq!(running.video.id, first.id);
    let second = bench.put_for(Some(&b), "b2").await;
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(bench.claim(&owner).await.video.id);
    }
    assert_eq!(order, [line[1], second.id, line[2], line[3]]);
}

#[tokio::test]
async fn who_comes_again_and_again_does_not_overtake_who_waits() {
    let bench = Bench::new().await;
    let (a, b) = (bench.key("a", KeyLimits::default()).await, bench.key("b", KeyLimits::default()).await);
    let owner = Owner::unique();
    for n in 0..5 {
        bench.put_for(Some(&b), &n.to_string()).await;
    }
    let mut seen = String::new();
    bench.put_for(Some(&a), "a").await;
    for _ in 0..8 {
        let claim = bench.claim(&owner).await;
        let mine = claim.video.owner.as_ref() == Some(&a);
        seen.push(if mine { 'a' } else { 'b' });
        if mine {
            bench.put_for(Some(&a), "again").await;
        }
        bench.complete(&claim).await;
    }
    assert_eq!(seen, "babababa");
}

#[tokio::test]
async fn another_priority_is_another_place_and_only_for_who_waits() {
    let bench = Bench::new().await;
    let (first, second, third) =
        (bench.enqueue("1").await, bench.enqueue("2").await, bench.enqueue("3").await);
    let moved = bench.queue.set_priority(third.id, 5, Some("ops")).await.unwrap();
    assert_eq!((moved.priority, moved.status), (5, Status::Queued));
    bench.queue.set_priority(first.id, -1, None).await.unwrap();
    // The same priority is the same place.
    bench.queue.set_priority(second.id, 0, None).await.unwrap();
    let events = bench.events(third.id).await;
    assert_eq!((events[1].kind, events[1].actor.as_deref()), (EventKind::Moved, Some("ops")));

    let owner = Owner::unique();
    for expected in [third.id, second.id, first.id] {
        assert_eq!(bench.claim(&owner).await.video.id, expected);
    }
    let running = bench.queue.set_priority(first.id, 9, None).await;
    assert!(matches!(running, Err(Error::NotQueued { status: Status::InProgress, .. })), "{running:?}");
    let gone = "video_0190163d8694739bae3c4d5e6f708192".parse().unwrap();
    assert!(matches!(bench.queue.set_priority(gone, 9, None).await, Err(Error::NotFound(id)) if id == gone));
}

#[tokio::test]
async fn given_back_or_rescued_a_video_keeps_its_place() {
    let bench = Bench::new().await;
    let a = bench.key("a", KeyLimits::default()).await;
    let first = bench.put_for(Some(&a), "1").await.id;
    for prompt in ["2", "3"] {
        bench.put_for(Some(&a), prompt).await;
        bench.enqueue(prompt).await;
    }
    let owner = Owner::unique();
    let claim = bench.claim(&owner).await;
    bench.queue.requeue(&claim.lease).await.unwrap();
    assert_eq!(bench.claim(&owner).await.video.id, first);
    let other = Owner::unique();
    assert_eq!(bench.queue.rescue(&other).await.unwrap().requeued, 1);
    assert_eq!(bench.claim(&other).await.video.id, first);
}

#[tokio::test]
async fn a_key_has_its_own_limit_of_waiting_videos() {
    let options =
        QueueOptions { key_limits: KeyLimits { max_queued: Some(2), ..KeyLimits::default() }, ..OPTIONS };
    let bench = Bench::with(options).await;
    let plain = bench.key("plain", KeyLimits::default()).await;
    let small = bench.key("small", KeyLimits { max_queued: Some(1), ..KeyLimits::default() }).await;
    for (key, limit) in [(&plain, 2), (&small, 1)] {
        for n in 0..limit {
            bench.put_for(Some(key), &n.to_string()).await;
        }
        let over = NewVideo { owner: Some(key.clone()), ..new_video("over") };
        let refused = bench.queue.enqueue(over, None).await;
        assert!(matches!(refused, Err(Error::KeyQueueFull { limit: l }) if l == limit), "{refused:?}");
    }
    // What runs does not wait, and nobody's videos have no key's limit.
    bench.claim(&Owner::unique()).await;
    bench.put_for(Some(&plain), "again").await;
    for n in 0..5 {
        bench.enqueue(&n.to_string()).await;
    }
}

#[tokio::test]
async fn a_key_has_its_own_limit_of_running_videos_however_many_claim() {
    let options =
        QueueOptions { key_limits: KeyLimits { max_running: Some(2), ..KeyLimits::default() }, ..OPTIONS };
    let bench = Bench::with(options).await;
    let wide = bench.key("wide", KeyLimits::default()).await;
    let narrow = bench.key("narrow", KeyLimits { max_running: Some(1), ..KeyLimits::default() }).await;
    let held = bench.key("held", KeyLimits { max_running: Some(0), ..KeyLimits::default() }).await;
    for key in [&held, &wide, &narrow] {
        for n in 0..3 {
            bench.put_for(Some(key), &n.to_string()).await;
        }
    }
    let mut claims = Vec::new();
    while let Some(claim) = bench.queue.claim(&Owner::unique()).await.unwrap() {
        claims.push(claim);
    }
    let running = |key| claims.iter().filter(|claim| claim.video.owner.as_ref() == Some(key)).count();
    assert_eq!((running(&wide), running(&narrow), running(&held)), (2, 1, 0));
    let one = claims.iter().find(|claim| claim.video.owner.as_ref() == Some(&narrow)).unwrap();
    bench.complete(one).await;
    assert_eq!(bench.claim(&Owner::unique()).await.video.owner, Some(narrow));
    assert!(bench.queue.claim(&Owner::unique()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_pause_outlives_the_server_and_takes_nothing_away() {
    let bench = Bench::new().await;
    let owner = Owner::unique();
    let running = bench.enqueue("1").await;
    let claim = bench.claim(&owner).await;
    bench.queue.set_paused(true).await.unwrap();
    bench.enqueue("2").await;
    assert!(bench.queue.claim(&owner).await.unwrap().is_none());
    bench.complete(&claim).await;
    assert_eq!(bench.queue.get(running.id).await.unwrap().status, Status::Completed);

    let bench = bench.kill_and_reopen().await;
    assert!(bench.queue.counts().await.unwrap().paused);
    assert!(bench.queue.claim(&owner).await.unwrap().is_none());
    bench.queue.set_paused(false).await.unwrap();
    bench.queue.work_available().await;
    bench.claim(&owner).await;
}

#[tokio::test]
async fn what_is_promised_comes_from_what_was_measured() {
    let bench = Bench::new().await;
    let owner = Owner::unique();
    bench.enqueue("measured").await;
    let waiting = bench.enqueue("waiting").await;
    let unknown = Estimate { queue_position: Some(2), eta_ms: None };
    assert_eq!(bench.queue.estimate(&waiting), unknown);
    let claim = bench.claim(&owner).await;
    let timings = Timings { denoise_ms: Some(100_000), vae_decode_ms: Some(20_000), ..Timings::default() };
    bench.queue.complete(&claim.lease, Finished { timings, ..finished(1) }).await.unwrap();

    // 50 steps in 100 s: two seconds a step; and 20 s of decoding.
    assert_eq!(bench.queue.step_ms(&waiting.params).map(f64::round), Some(2_000.0));
    let behind = bench.enqueue("behind").await;
    let estimates = bench.queue.estimates(&[waiting.clone(), behind.clone()]);
    assert_eq!(estimates[0], Estimate { queue_position: Some(1), eta_ms: Some(120_000) });
    assert_eq!(estimates[1], Estimate { queue_position: Some(2), eta_ms: Some(240_000) });
    assert_eq!(bench.queue.line_eta_ms(), Some(240_000));

    let claim = bench.claim(&owner).await;
    bench.queue.set_progress(&claim.lease, denoise(0, 1)).await.unwrap();
    bench.clock.advance_ms(20_000);
    bench.queue.set_progress(&claim.lease, denoise(10, 20)).await.unwrap();
    let running = bench.queue.get(waiting.id).await.unwrap();
    let left = bench.queue.estimate(&running);
    assert_eq!(left, Estimate { queue_position: None, eta_ms: Some(100_000) });
    let next = bench.queue.estimate(&behind);
    assert_eq!(next, Estimate { queue_position: Some(1), eta_ms: Some(220_000) });
    bench.complete(&claim).await;
    let done = bench.queue.get(waiting.id).await.unwrap();
    let ended = Estimate { queue_position: None, eta_ms: None };
    assert_eq!(bench.queue.estimate(&done), ended);

    // A restarted server knows it from its rows.
    let bench = bench.kill_and_reopen().await;
    assert_eq!(bench.queue.estimate(&behind).eta_ms.map(|ms| ms > 60_000), Some(true));
}
