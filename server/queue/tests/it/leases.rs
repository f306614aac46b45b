//! Who may write to a row: fencing, rescue, cancellation, and giving a row back.

use queue::{Claim, Error, JobError, Owner, Rescued, Status, VideoId};

use crate::bench::{Bench, OPTIONS, START_MS, denoise, finished};

fn out_of_memory() -> JobError {
    JobError { code: "out_of_memory".into(), message: "12 GiB were asked for".into() }
}

async fn assert_fenced_out(bench: &Bench, old: &Claim) {
    let (queue, lease) = (&bench.queue, &old.lease);
    let refused = [
        queue.heartbeat(lease).await.map(drop),
        queue.set_progress(lease, denoise(49, 90)).await,
        queue.complete(lease, finished(1)).await,
        queue.fail(lease, out_of_memory()).await,
        queue.cancelled(lease).await,
        queue.requeue(lease).await,
        queue.abandon(lease).await,
        queue.requeue_in_low_memory(lease, "w").await,
        queue.keep_checkpoint(lease, 40).await,
        queue.drop_checkpoint(lease).await,
    ];
    for (n, result) in refused.into_iter().enumerate() {
        assert!(matches!(result, Err(Error::LeaseLost { .. })), "write {n}: {result:?}");
    }
}

#[tokio::test]
async fn a_worker_given_up_for_lost_changes_nothing() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    let (first, second) = (Owner::unique(), Owner::unique());
    let old = bench.claim(&first).await;
    assert_eq!(bench.queue.rescue(&second).await.unwrap(), Rescued { requeued: 1, ..Rescued::default() });

    let before = bench.queue.get(id).await.unwrap();
    assert_fenced_out(&bench, &old).await;
    assert_eq!(bench.queue.get(id).await.unwrap(), before);

    // The same owner may even claim it again: the generation tells the two leases apart.
    let new = bench.claim(&first).await;
    let before = bench.queue.get(id).await.unwrap();
    assert_fenced_out(&bench, &old).await;
    assert_eq!(bench.queue.get(id).await.unwrap(), before);

    bench.queue.complete(&new.lease, finished(1)).await.unwrap();
    assert_fenced_out(&bench, &new).await;
    assert_eq!(bench.queue.get(id).await.unwrap().status, Status::Completed);
}

#[tokio::test]
async fn a_killed_server_loses_an_attempt_but_not_the_place() {
    let bench = Bench::new().await;
    let old = bench.enqueue("old").await;
    let young = bench.enqueue("young").await;
    let claim = bench.claim(&Owner::unique()).await;
    bench.queue.set_progress(&claim.lease, denoise(10, 20)).await.unwrap();

    let bench = bench.kill_and_reopen().await;
    let owner = Owner::unique();
    assert_eq!(bench.queue.rescue(&owner).await.unwrap(), Rescued { requeued: 1, ..Rescued::default() });
    let rescued = bench.queue.get(old.id).await.unwrap();
    let mut expected = old.clone();
    (expected.attempt, expected.progress) = (1, 20);
    assert_eq!(rescued, expected);
    let again = bench.claim(&owner).await;
    assert_eq!((again.video.id, again.video.attempt), (old.id, 2));

    // Killed again: a video that takes the server down with it must not do so for ever.
    let bench = bench.kill_and_reopen().await;
    let owner = Owner::unique();
    assert_eq!(bench.queue.rescue(&owner).await.unwrap(), Rescued { failed: 1, ..Rescued::default() });
    let lost = bench.queue.get(old.id).await.unwrap();
    assert_eq!(lost.status, Status::Failed);
    assert_eq!(lost.error.unwrap().code, "worker_lost");
    assert_eq!(lost.completed_at_ms, Some(START_MS));
    assert_eq!(bench.claim(&owner).await.video.id, young.id);
}

#[tokio::test]
async fn an_orderly_requeue_is_not_held_against_a_video() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    bench.enqueue("b").await;
    let owner = Owner::unique();
    for attempt in 1..=3 {
        let claim = bench.claim(&owner).await;
        assert_eq!((claim.video.id, claim.video.attempt), (id, attempt));
        bench.queue.set_progress(&claim.lease, denoise(40, 80)).await.unwrap();
        bench.queue.requeue(&claim.lease).await.unwrap();
        let waiting = bench.queue.get(id).await.unwrap();
        assert_eq!((waiting.status, waiting.progress, waiting.stage), (Status::Queued, 80, None));
        assert_eq!(waiting.started_at_ms, None);
    }
    bench.claim(&owner).await;
    let bench = bench.kill_and_reopen().await;
    assert_eq!(bench.queue.rescue(&Owner::unique()).await.unwrap().requeued, 1);
}

#[tokio::test]
async fn a_heartbeat_keeps_the_lease() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    let owner = Owner::unique();
    let claim = bench.claim(&owner).await;
    for _ in 0..3 {
        bench.clock.advance_ms(OPTIONS.lease_ms);
        assert_eq!(bench.queue.rescue(&owner).await.unwrap(), Rescued::default());
        bench.queue.heartbeat(&claim.lease).await.unwrap();
    }
    bench.clock.advance_ms(OPTIONS.lease_ms + 1);
    assert_eq!(bench.queue.rescue(&owner).await.unwrap().requeued, 1);
    assert_eq!(bench.queue.get(id).await.unwrap().status, Status::Queued);
}

#[tokio::test]
async fn a_waiting_video_is_cancelled_at_once() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    bench.clock.advance_ms(7);
    let cancelled = bench.queue.request_cancel(id, None).await.unwrap();
    assert_eq!((cancelled.status, cancelled.error.clone()), (Status::Cancelled, None));
    assert_eq!(cancelled.completed_at_ms, Some(START_MS + 7));
    assert!(bench.queue.claim(&Owner::unique()).await.unwrap().is_none());
    bench.clock.advance_ms(7);
    assert_eq!(bench.queue.request_cancel(id, None).await.unwrap(), cancelled);
}

#[tokio::test]
async fn a_running_video_hears_of_its_cancellation_and_its_worker_settles_it() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    let claim = bench.claim(&Owner::unique()).await;
    assert!(!bench.queue.heartbeat(&claim.lease).await.unwrap().cancel_requested);
    assert!(!claim.cancel.is_cancelled());

    let asked = bench.queue.request_cancel(id, None).await.unwrap();
    assert_eq!((asked.status, asked.cancel_requested_at_ms), (Status::InProgress, Some(START_MS)));
    assert!(claim.cancel.is_cancelled());
    assert!(bench.queue.heartbeat(&claim.lease).await.unwrap().cancel_requested);

    // The result arrives after the request: whoever was told "it is being cancelled" was told the truth.
    let late = bench.queue.complete(&claim.lease, finished(1)).await;
    assert!(matches!(late, Err(Error::CancelRequested(video)) if video == id), "{late:?}");
    bench.queue.cancelled(&claim.lease).await.unwrap();
    assert_eq!(bench.queue.get(id).await.unwrap().status, Status::Cancelled);
}

#[tokio::test]
async fn a_cancelled_video_never_runs_again() {
    for killed in [false, true] {
        let mut bench = Bench::new().await;
        let id = bench.enqueue("a").await.id;
        let claim = bench.claim(&Owner::unique()).await;
        bench.queue.request_cancel(id, None).await.unwrap();
        if killed {
            bench = bench.kill_and_reopen().await;
            let rescued = bench.queue.rescue(&Owner::unique()).await.unwrap();
            assert_eq!(rescued, Rescued { cancelled: 1, ..Rescued::default() });
        } else {
            bench.queue.requeue(&claim.lease).await.unwrap();
        }
        let video = bench.queue.get(id).await.unwrap();
        assert_eq!((video.status, video.completed_at_ms), (Status::Cancelled, Some(START_MS)));
        assert!(bench.queue.claim(&Owner::unique()).await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cancelling_and_completing_at_once_have_one_outcome_and_both_know_it() {
    let bench = Bench::new().await;
    let owner = Owner::unique();
    let mut outcomes = (0, 0);
    for n in 0..100 {
        let id: VideoId = bench.enqueue(&n.to_string()).await.id;
        let claim = bench.claim(&owner).await;
        let (canceller, completer) = (bench.queue.clone(), bench.queue.clone());
        let cancel = tokio::spawn(async move { canceller.request_cancel(id, None).await.unwrap() });
        let complete = tokio::spawn(async move {
            let completed = completer.complete(&claim.lease, finished(1)).await;
            if completed.is_err() {
                completer.cancelled(&claim.lease).await.unwrap();
            }
            completed
        });
        let (asked, completed) = (cancel.await.unwrap(), complete.await.unwrap());
        let end = bench.queue.get(id).await.unwrap();
        if completed.is_ok() {
            outcomes.0 += 1;
            assert_eq!((asked.status, end.status), (Status::Completed, Status::Completed));
            assert_eq!(end.cancel_requested_at_ms, None);
        } else {
            outcomes.1 += 1;
            assert!(asked.cancel_requested_at_ms.is_some());
            assert_eq!((end.status, end.output), (Status::Cancelled, None));
        }
    }
    assert_eq!(outcomes.0 + outcomes.1, 100);
}
