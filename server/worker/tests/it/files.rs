//! The files of a finished video.

use queue::{NewVideo, Status};
use worker::WorkerConfig;

use crate::bench::{Bench, CONFIG, KEEPING, new_video};

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_promises_a_video_that_tells_what_made_it_and_its_pictures() {
    let bench = Bench::new().await;
    bench.start(CONFIG);
    let id = bench.enqueue("a panda").await;
    let video = bench.settled(id).await;
    let output = video.output.clone().unwrap();
    assert_eq!(output.files().count(), 3);
    for (file, starts) in output.files().zip([b"ftyp".as_slice(), b"WEBP", b"\xFF\xD8"]) {
        let bytes = bench.stores.videos.read(&file.key).await.unwrap();
        assert_eq!((bytes.len() as u64, file.sha256.len()), (file.bytes, 64));
        assert!(bytes[..16].windows(starts.len()).any(|window| window == starts), "{}", file.key);
    }
    let mp4 = bench.mp4(&video).await;
    for told in ["a panda", r#""seed":42"#, r#""scheduler":"dpm""#, r#""size":"64x48""#, "cogvideox-server "]
    {
        assert!(contains(&mp4, told), "{told}");
    }
    assert!(!contains(&mp4, &id.to_string()) && !contains(&mp4, "CreateDate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_parameters_give_the_same_bytes_in_any_number_of_attempts() {
    let mut bench = Bench::new().await;
    let worker = bench.start(KEEPING);
    let id = bench.enqueue("hold 2").await;
    let held = bench.held().await;
    bench.until_kept(id, 2).await;
    worker.shutdown(std::time::Duration::ZERO).await;
    drop(held);
    bench.start(KEEPING);
    let resumed = bench.settled(id).await;
    let again =
        bench.queue.enqueue(NewVideo { retry_of: Some(id), ..new_video("hold 2") }, None).await.unwrap();
    bench.held().await.release();
    let again = bench.settled(again.video.id).await;
    assert_eq!((resumed.attempt, again.attempt, again.status), (2, 1, Status::Completed));
    assert!(bench.mp4(&resumed).await == bench.mp4(&again).await, "bit for bit");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_can_be_left_out() {
    let bench = Bench::new().await;
    bench.start(WorkerConfig { metadata: false, ..CONFIG });
    let id = bench.enqueue("a panda").await;
    let video = bench.settled(id).await;
    assert!(!contains(&bench.mp4(&video).await, "panda"));
}
