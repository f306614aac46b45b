//! How a video can end, and that the worker outlives every ending.

use std::{fs, sync::atomic::Ordering};

use queue::{NewVideo, OutputFile, Stage, Status, VideoParams};
use worker::Readiness;

use crate::{
    bench::{Bench, CONFIG, Told, new_video},
    fake::FakeGenerator,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_video_becomes_a_file_and_its_progress_only_rises() {
    let bench = Bench::new().await;
    // The worker idles when the video arrives, and its poll is an hour away: it must be woken.
    let mut worker = bench.start(CONFIG);
    worker.ready.wait_for(|ready| *ready == Readiness::Ready).await.unwrap();
    bench.assert_goes_on().await;

    let hold = bench.enqueue("hold").await;
    let asked = new_video("a panda");
    let id = bench.queue.enqueue(asked.clone(), None).await.unwrap().video.id;
    let mut news = bench.news(id);
    bench.queue.request_cancel(hold, None).await.unwrap();

    let (mut stages, mut last, mut steps) = (Vec::new(), 0, Vec::new());
    let video = loop {
        match news.next().await {
            Told::Progress(_, progress) => {
                assert!((last..=99).contains(&progress.percent), "{progress:?} after {last}");
                last = progress.percent;
                if stages.last() != Some(&progress.stage) {
                    stages.push(progress.stage);
                }
                if progress.stage == Stage::Denoise {
                    steps.push((progress.step, progress.total_steps));
                }
            }
            Told::Event(event, video) if event.kind.is_end() => break video,
            other => assert!(matches!(other, Told::Event(..)), "{other:?}"),
        }
    };
    let order = [Stage::TextEncode, Stage::Denoise, Stage::VaeDecode, Stage::EncodeMp4, Stage::Store];
    assert_eq!(stages, order);
    assert_eq!(steps, [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]);
    assert_eq!((video.status, video.progress, video.step), (Status::Completed, 100, 4));
    assert_eq!(bench.baton.asked.lock().unwrap().last().map(|last| last.params.clone()), Some(asked.params));
    let timings = video.timings;
    for (stage, ms) in [
        ("queue", timings.queue_ms),
        ("text_encode", timings.text_encode_ms),
        ("denoise", timings.denoise_ms),
        ("vae_decode", timings.vae_decode_ms),
        ("encode_mp4", timings.encode_mp4_ms),
        ("store", timings.store_ms),
    ] {
        assert!(ms.is_some(), "{stage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_has_its_code_and_internals_stay_inside() {
    let bench = Bench::new().await;
    bench.start(CONFIG);
    for (prompt, code, message) in [
        ("invalid", "invalid_params", "17 frames"),
        ("nan", "nan_latents", "after step 1"),
        ("gone", "model_not_available", "there are: fake"),
        ("adapterless", "lora_not_available", "its file is gone"),
        ("other-adapter", "lora_changed", "expected ab, found cd"),
        ("unloadable", "model_load_failed", "the model could not be loaded; the server's log says why"),
        ("internal", "internal", "the generation failed; the server's log says why"),
        ("quits", "internal", "the generation failed; the server's log says why"),
    ] {
        let id = bench.enqueue(prompt).await;
        let video = bench.settled(id).await;
        assert_eq!((video.status, video.stage), (Status::Failed, Some(Stage::Denoise)), "{prompt}");
        let error = video.error.unwrap();
        assert_eq!((error.code.as_str(), error.message.as_str()), (code, message), "{prompt}");
    }
    bench.assert_goes_on().await;
    assert_eq!(bench.baton.built.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_one_video_and_the_generator_is_built_anew() {
    let bench = Bench::new().await;
    let mut worker = bench.start(CONFIG);
    for built in 1..=2 {
        let id = bench.enqueue("panic").await;
        let video = bench.settled(id).await;
        assert_eq!(video.status, Status::Failed);
        let error = video.error.unwrap();
        assert_eq!(error.code, "internal");
        assert!(!error.message.contains("secret"), "{error:?}");
        bench.assert_goes_on().await;
        assert_eq!(bench.baton.built.load(Ordering::SeqCst), built + 1);
    }
    worker.ready.wait_for(|ready| *ready == Readiness::Ready).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generator_that_cannot_be_built_is_said_and_no_video_is_touched() {
    let bench = Bench::new().await;
    let id = bench.enqueue("make").await;
    for panics in [false, true] {
        let build = move || -> Result<FakeGenerator, String> {
            assert!(!panics, "weights.safetensors is cut off");
            Err("weights.safetensors is not there".to_owned())
        };
        let device = worker::Device { name: "fake".to_owned(), build };
        let mut worker = worker::start(CONFIG, &bench.queue, &bench.stores, vec![device]).unwrap();
        let ready = worker.ready.wait_for(|ready| *ready != Readiness::Starting).await.unwrap().clone();
        assert!(matches!(&ready, Readiness::Failed(why) if why.contains("weights.safetensors")), "{ready:?}");
    }
    assert_eq!(bench.queue.get(id).await.unwrap().attempt, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_cannot_be_encoded_fail_their_video() {
    let bench = Bench::new().await;
    bench.start(CONFIG);
    // The encoder takes even sizes only.
    let video = new_video("make");
    let odd = NewVideo { params: VideoParams { width: 33, ..video.params.clone() }, ..video };
    let id = bench.queue.enqueue(odd, None).await.unwrap().video.id;
    let video = bench.settled(id).await;
    assert_eq!((video.status, video.error.unwrap().code), (Status::Failed, "encode_failed".to_owned()));
    assert!(bench.files().is_empty());
    bench.assert_goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_whose_file_cannot_be_stored_is_never_completed() {
    let bench = Bench::new().await;
    bench.start(CONFIG);
    let folder = bench.folder.path().join("videos");
    fs::remove_dir(&folder).unwrap();
    let id = bench.enqueue("make").await;
    let video = bench.settled(id).await;
    assert_eq!((video.status, video.output), (Status::Failed, None));
    assert_eq!(video.error.unwrap().code, "storage_failed");
    fs::create_dir(&folder).unwrap();
    bench.assert_goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn videos_of_the_model_in_memory_are_made_before_another_is_loaded() {
    let bench = Bench::new().await;
    let mut ids = Vec::new();
    for model in ["fake", "other", "fake", "other", "fake"] {
        let new = NewVideo { model: model.to_owned(), ..new_video("make") };
        ids.push(bench.queue.enqueue(new, None).await.unwrap().video.id);
    }
    let _worker = bench.start(CONFIG);
    for id in ids {
        assert_eq!(bench.settled(id).await.status, Status::Completed);
    }
    let models: Vec<String> =
        bench.baton.asked.lock().unwrap().iter().map(|asked| asked.model.clone()).collect();
    assert_eq!(models, ["fake", "fake", "fake", "other", "other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_is_made_of_the_very_picture_that_its_row_names() {
    let bench = Bench::new().await;
    bench.start(CONFIG);
    let store = &bench.stores.videos;
    let enqueue = async |key: &str| {
        let stored = store.put(key, b"a picture".to_vec()).await.unwrap();
        let mut new = new_video("make");
        new.params.image = Some(OutputFile { key: key.into(), bytes: stored.bytes, sha256: stored.sha256 });
        bench.queue.set_paused(true).await.unwrap();
        bench.queue.enqueue(new, None).await.unwrap().video.id
    };
    let id = enqueue("input_1.image").await;
    bench.queue.set_paused(false).await.unwrap();
    let video = bench.settled(id).await;
    assert_eq!(video.status, Status::Completed);
    let asked = bench.baton.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(asked.image.as_deref(), Some(&b"a picture"[..]));
    let mp4 = store.read(&video.output.unwrap().video.key).await.unwrap();
    let recipe = format!("\"input_reference\":\"{}\"", video.params.image.unwrap().sha256);
    assert!(mp4.windows(recipe.len()).any(|bytes| bytes == recipe.as_bytes()), "the file tells its digest");

    for damage in ["changed", "gone"] {
        let id = enqueue("input_2.image").await;
        if damage == "changed" {
            store.put("input_2.image", b"another".to_vec()).await.unwrap();
        } else {
            store.delete("input_2.image").await.unwrap();
        }
        bench.queue.set_paused(false).await.unwrap();
        let video = bench.settled(id).await;
        let code = video.error.map(|error| error.code);
        assert_eq!(code.as_deref(), Some("image_not_available"), "{damage}");
    }
    assert_eq!(bench.baton.asked.lock().unwrap().len(), 1);
    bench.assert_goes_on().await;
}
