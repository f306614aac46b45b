//! What the event streams ask of the queue: previews by topic, many videos at once, whether a key still holds.

use queue::{Heard, KeyLimits, News, Owner, Progress, Stage, Topic};

use crate::bench::{Bench, denoise};

#[tokio::test]
async fn previews_are_wanted_by_topic_and_for_as_long_as_the_wish_is_held() {
    let bench = Bench::new().await;
    let (one, two) =
        (bench.key("one", KeyLimits::default()).await, bench.key("two", KeyLimits::default()).await);
    let video = bench.put_for(Some(&one), "a").await;
    let claim = bench.claim(&Owner::unique()).await;
    let wanted = || bench.queue.previews_wanted(video.id);
    assert!(!wanted());
    for topic in [Topic::Video(video.id), Topic::Key(one), Topic::All] {
        let wish = bench.queue.wish_previews(topic.clone());
        let again = bench.queue.wish_previews(topic.clone());
        drop(wish);
        assert!(wanted(), "{topic:?}");
        drop(again);
        assert!(!wanted(), "{topic:?}");
    }
    let _other = bench.queue.wish_previews(Topic::Key(two));
    assert!(!wanted(), "another key's wish");
    let mut news = bench.queue.subscribe(Topic::Video(video.id));
    bench.queue.show_preview(&claim.lease, 3, vec![1, 2]);
    let Some(Heard::News(item)) = news.recv().await else { panic!("the preview is news") };
    assert!(matches!(&item.news, News::Preview { step: 3, jpeg, .. } if jpeg[..] == [1, 2]));
}

#[tokio::test]
async fn many_videos_are_read_at_once_as_far_as_they_have_come() {
    let bench = Bench::new().await;
    let (runs, waits, other) = (bench.enqueue("a").await, bench.enqueue("b").await, bench.enqueue("c").await);
    let claim = bench.claim(&Owner::unique()).await;
    bench.queue.set_progress(&claim.lease, denoise(1, 5)).await.unwrap();
    // Less than a second later: in memory only.
    bench.queue.set_progress(&claim.lease, denoise(2, 7)).await.unwrap();
    bench.queue.request_cancel(other.id, None).await.unwrap();
    bench.queue.delete(other.id, None).await.unwrap();
    let mut found = bench.queue.get_many(&[waits.id, runs.id, other.id]).await.unwrap();
    found.sort_by_key(|video| video.id);
    let found: Vec<_> = found.iter().map(|video| (video.id, video.step, video.progress)).collect();
    assert_eq!(found, [(runs.id, 2, 7), (waits.id, 0, 0)]);
}

#[tokio::test]
async fn a_key_is_active_until_it_is_revoked() {
    let bench = Bench::new().await;
    let id = bench.key("one", KeyLimits::default()).await;
    let keys = bench.queue.api_keys();
    assert_eq!(keys.active(&id).await.unwrap().unwrap().name, "one");
    bench.keys().await.revoke("one").await.unwrap();
    assert_eq!(keys.active(&id).await.unwrap(), None);
}

#[tokio::test]
async fn a_seen_video_is_not_told_again_and_a_later_point_is() {
    let bench = Bench::new().await;
    bench.enqueue("a").await;
    let claim = bench.claim(&Owner::unique()).await;
    let mut news = bench.queue.subscribe(Topic::All);
    bench.queue.set_progress(&claim.lease, denoise(1, 5)).await.unwrap();
    let (video, seq) = bench.queue.snapshot(claim.video.id).await.unwrap();
    news.seen(seq, Some(&video));
    bench.queue.set_progress(&claim.lease, denoise(2, 6)).await.unwrap();
    let Some(Heard::News(item)) = news.recv().await else { panic!("it is news") };
    let News::Progress { progress, .. } = item.news else { panic!("it is progress") };
    assert_eq!(progress, Progress { stage: Stage::Denoise, ..denoise(2, 6) });
}
