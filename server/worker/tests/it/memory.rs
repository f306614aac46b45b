//! A device whose memory does not suffice.

use queue::Status;

use crate::bench::{Bench, KEEPING};
use crate::fake::PEAK_BYTES;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_time_it_is_tried_in_low_memory_from_the_last_checkpoint() {
    let bench = Bench::new().await;
    bench.start(KEEPING);
    let id = bench.enqueue("large vae").await;
    let video = bench.settled(id).await;
    assert_eq!((video.status, video.attempt, video.low_memory), (Status::Completed, 2, true));
    assert_eq!(video.warnings.len(), 1);
    assert!(video.warnings[0].contains("decoded in tiles"), "{:?}", video.warnings);
    assert_eq!(video.peak_memory_bytes, Some(PEAK_BYTES));
    assert_eq!(bench.resumed_from(), [None, Some(4)]);
    let modes: Vec<_> = bench.baton.asked.lock().unwrap().iter().map(|asked| asked.low_memory).collect();
    assert_eq!(modes, [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_time_it_fails() {
    let bench = Bench::new().await;
    bench.start(KEEPING);
    let id = bench.enqueue("huge vae").await;
    let video = bench.settled(id).await;
    assert_eq!((video.status, video.attempt), (Status::Failed, 2));
    let error = video.error.unwrap();
    assert_eq!((error.code.as_str(), error.message.as_str()), ("out_of_memory", "80 GiB"));
    bench.assert_goes_on().await;
    assert!(bench.files().iter().all(|name| !name.contains(&id.to_string())));
}
