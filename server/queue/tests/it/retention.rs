//! What is given up to make room, in which order, and what stays to be told of it.

use queue::{DatabaseFile, EventKind, JobError, OutputFile, Owner, State, Status, VideoId};

use crate::bench::{Bench, START_MS, finished, new_video};

/// Completed videos, a second and `bytes` each.
async fn completed(bench: &Bench, count: usize, bytes: u64) -> Vec<VideoId> {
    let owner = Owner::unique();
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(bench.enqueue(&n.to_string()).await.id);
        let claim = bench.claim(&owner).await;
        bench.clock.advance_ms(1_000);
        bench.queue.complete(&claim.lease, finished(bytes - 100)).await.unwrap();
    }
    ids
}

#[tokio::test]
async fn files_go_by_age_and_the_rows_stay() {
    let bench = Bench::new().await;
    let ids = completed(&bench, 3, 1_000).await;
    assert_eq!(bench.queue.files_bytes().await.unwrap(), 3_000);
    let expired = bench.queue.expire_before(START_MS + 2_001).await.unwrap();
    assert_eq!(expired.len(), 2);
    let files: Vec<_> = expired[0].output.as_ref().unwrap().files().map(|file| file.key.as_str()).collect();
    assert_eq!(files, ["video_1.mp4", "video_1.webp", "video_1.jpg"]);
    assert!(bench.queue.expire_before(START_MS + 2_001).await.unwrap().is_empty());

    let video = bench.queue.get(ids[1]).await.unwrap();
    assert_eq!((video.status, video.expired_at_ms), (Status::Completed, Some(START_MS + 3_000)));
    assert_eq!(bench.kinds(ids[1]).await.last(), Some(&EventKind::Expired));
    assert_eq!(bench.kinds(ids[2]).await.last(), Some(&EventKind::Completed));
    assert_eq!(bench.queue.files_bytes().await.unwrap(), 1_000);
    assert_eq!(bench.queue.file_keys().await.unwrap().len(), 3);
}

#[tokio::test]
async fn files_go_by_bytes_the_oldest_first_and_no_more_than_needed() {
    let bench = Bench::new().await;
    let ids = completed(&bench, 5, 1_000).await;
    assert!(bench.queue.expire_oldest(0).await.unwrap().is_empty());
    for (bytes, expected) in [(1, &ids[..1]), (1_001, &ids[1..3]), (u64::MAX, &ids[3..]), (1, &[])] {
        let mut gone: Vec<_> = bench.queue.expire_oldest(bytes).await.unwrap().iter().map(|v| v.id).collect();
        gone.sort();
        assert_eq!(gone, expected, "{bytes}");
    }
}

#[tokio::test]
async fn a_batch_is_bounded_and_calling_again_gets_the_rest() {
    let bench = Bench::new().await;
    let ids = completed(&bench, 101, 1_000).await;
    assert_eq!(bench.queue.expire_before(i64::MAX).await.unwrap().len(), 100);
    let rest: Vec<_> = bench.queue.expire_before(i64::MAX).await.unwrap().iter().map(|v| v.id).collect();
    assert_eq!(rest, ids[100..], "the oldest first");
    assert_eq!(bench.queue.files_bytes().await.unwrap(), 0);
}

#[tokio::test]
async fn pruning_leaves_of_each_video_the_newest_event_and_of_a_deleted_one_nothing() {
    let bench = Bench::new().await;
    let ids = completed(&bench, 2, 1_000).await;
    let waiting = bench.enqueue("waiting").await.id;
    bench.queue.delete(ids[0], Some("ops")).await.unwrap();
    assert_eq!(bench.kinds(ids[0]).await.last(), Some(&EventKind::Deleted));
    let last = bench.queue.last_event().await.unwrap();

    // Two of ids[1]'s three, and all four of ids[0].
    assert_eq!(bench.queue.prune(START_MS + 10_000).await.unwrap(), 6);
    assert_eq!(bench.kinds(ids[0]).await, []);
    assert_eq!(bench.kinds(ids[1]).await, [EventKind::Completed]);
    assert_eq!(bench.kinds(waiting).await, [EventKind::Queued]);
    assert_eq!(bench.queue.prune(START_MS + 10_000).await.unwrap(), 0);

    // The numbers go on from where they were, whatever was forgotten.
    bench.queue.request_cancel(waiting, None).await.unwrap();
    bench.queue.delete(waiting, None).await.unwrap();
    bench.queue.prune(i64::MAX).await.unwrap();
    let bench = bench.kill_and_reopen().await;
    let next = bench.enqueue("next").await.id;
    assert_eq!(bench.events(next).await[0].seq, last + 3);
}

#[tokio::test]
async fn checkpoints_may_be_needed_by_whatever_is_not_settled() {
    let bench = Bench::new().await;
    completed(&bench, 1, 1_000).await;
    let running = bench.enqueue("running").await.id;
    bench.claim(&Owner::unique()).await;
    let waiting = bench.enqueue("waiting").await.id;
    let mut unsettled = bench.queue.unsettled().await.unwrap();
    unsettled.sort();
    assert_eq!(unsettled, [running, waiting]);
}

/// A waiting video that starts from a picture of 1,000 bytes.
async fn with_image(bench: &Bench, key: &str) -> VideoId {
    let mut new = new_video("a panda");
    new.params.image = Some(OutputFile { key: key.into(), bytes: 1_000, sha256: "cd".repeat(32) });
    bench.put(new).await.id
}

#[tokio::test]
async fn a_picture_belongs_to_its_video_from_the_door_to_the_end() {
    let bench = Bench::new().await;
    let id = with_image(&bench, "input_1.image").await;
    let backed_up = DatabaseFile::new(&bench.path()).files().await.unwrap();
    assert_eq!(
        backed_up,
        [OutputFile { key: "input_1.image".into(), bytes: 1_000, sha256: "cd".repeat(32) }]
    );
    assert_eq!(bench.queue.file_keys().await.unwrap(), ["input_1.image"]);
    let claim = bench.claim(&Owner::unique()).await;
    bench.queue.complete(&claim.lease, finished(900)).await.unwrap();
    assert_eq!(bench.queue.files_bytes().await.unwrap(), 2_000);
    let expired = bench.queue.expire_oldest(1).await.unwrap();
    let keys: Vec<_> = expired[0].files().map(|file| file.key.as_str()).collect();
    assert_eq!(keys, ["video_1.mp4", "video_1.webp", "video_1.jpg", "input_1.image"]);
    assert_eq!(bench.queue.file_keys().await.unwrap(), [""; 0]);
    assert_eq!(bench.queue.delete(id, None).await.unwrap().files().count(), 4);
}

#[tokio::test]
async fn the_picture_of_a_video_that_failed_goes_when_it_is_old() {
    let bench = Bench::new().await;
    let failed = with_image(&bench, "input_1.image").await;
    let claim = bench.claim(&Owner::unique()).await;
    let error = JobError { code: "internal".into(), message: "no".into() };
    bench.queue.fail(&claim.lease, error).await.unwrap();
    let waiting = with_image(&bench, "input_2.image").await;
    let cancelled = with_image(&bench, "input_3.image").await;
    bench.clock.advance_ms(5_000);
    bench.queue.request_cancel(cancelled, None).await.unwrap();

    let gone = bench.queue.expire_images(START_MS + 5_000).await.unwrap();
    assert_eq!(gone.iter().map(|video| video.id).collect::<Vec<_>>(), [failed]);
    let kept = bench.queue.get(failed).await.unwrap();
    assert_eq!((kept.status, kept.expired_at_ms), (Status::Failed, Some(START_MS + 5_000)));
    assert_eq!(kept.state(), State::Failed);
    assert_eq!(bench.queue.file_keys().await.unwrap(), ["input_2.image", "input_3.image"]);
    let gone = bench.queue.expire_images(i64::MAX).await.unwrap();
    assert_eq!(gone.iter().map(|video| video.id).collect::<Vec<_>>(), [cancelled]);
    assert!(bench.queue.get(waiting).await.unwrap().expired_at_ms.is_none());
}
