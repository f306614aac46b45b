//! Cancelled while it runs, whatever is being done with it.

use queue::{Stage, Status};

use crate::bench::{Bench, CONFIG, KEEPING, Told};

#[tokio::test(flavor = "multi_thread")]
async fn a_running_video_is_cancelled_at_its_next_check_point_in_any_stage() {
    let mut bench = Bench::new().await;
    bench.start(KEEPING);
    for prompt in ["hold text", "hold 0", "hold 1", "hold 4", "hold vae"] {
        let id = bench.enqueue(prompt).await;
        let _held = bench.held().await;
        assert_eq!(bench.queue.request_cancel(id, None).await.unwrap().status, Status::InProgress);
        let video = bench.settled(id).await;
        assert_eq!((video.status, video.error), (Status::Cancelled, None), "{prompt}");
        assert!(bench.files().is_empty(), "{prompt}");
    }
    bench.assert_goes_on().await;
    assert_eq!(bench.files().len(), 3);
    // Its own is removed only after its end was told.
    assert!(bench.checkpoints().len() <= 1, "{:?}", bench.checkpoints());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_video_is_not_completed_even_if_its_generator_does_not_listen() {
    let mut bench = Bench::new().await;
    bench.start(CONFIG);
    let id = bench.enqueue("deaf").await;
    let held = bench.held().await;
    bench.queue.request_cancel(id, None).await.unwrap();
    held.release();
    assert_eq!(bench.settled(id).await.status, Status::Cancelled);
    assert!(bench.files().is_empty());
    bench.assert_goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_while_the_file_is_made_leaves_no_file() {
    let bench = Bench::new().await;
    bench.start(CONFIG);
    for stage in [Stage::EncodeMp4, Stage::Store] {
        let id = bench.enqueue("make").await;
        let mut news = bench.news(id);
        let end = loop {
            match news.next().await {
                Told::Progress(_, progress) if progress.stage == stage => {
                    bench.queue.request_cancel(id, None).await.unwrap();
                }
                Told::Event(event, video) if event.kind.is_end() => break video,
                _ => {}
            }
        };
        // The request may come too late, but then the file is there; whichever it is, both agree.
        assert_eq!(end.cancel_requested_at_ms.is_some(), end.status == Status::Cancelled);
        let mut expected: Vec<_> =
            end.output.iter().flat_map(queue::Output::files).map(|file| file.key.clone()).collect();
        expected.sort();
        assert_eq!(bench.files(), expected);
        for key in expected {
            bench.stores.videos.delete(&key).await.unwrap();
        }
    }
}
