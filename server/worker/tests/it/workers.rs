//! Several workers on one queue: each video is made once, and one worker's trouble is not another's.

use std::{collections::HashMap, time::Duration};

use queue::{Status, VideoId};
use tokio::time::advance;
use worker::{Device, Readiness, WorkerConfig, Workers};

use crate::{
    bench::{Bench, CONFIG, FrozenTime, KEEPING, new_video, patient},
    fake::FakeGenerator,
};

const PARKING: WorkerConfig = WorkerConfig { checkpoint_interval: Some(Duration::from_hours(1)), ..CONFIG };

async fn until_all(workers: &Workers, wanted: &Readiness) {
    for worker in &workers.each {
        patient(worker.ready.clone().wait_for(|ready| ready == wanted)).await.unwrap();
    }
}

fn states(workers: &Workers) -> Vec<Readiness> {
    workers.each.iter().map(|worker| worker.ready.borrow().clone()).collect()
}

/// Until one worker of them has failed; the others are ready.
async fn until_one_failed(workers: &mut Workers) {
    patient(async {
        while !states(workers).iter().any(|state| matches!(state, Readiness::Failed(_))) {
            workers.ready.changed().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_videos_on_two_to_four_workers_are_each_made_once_and_as_by_one_alone() {
    for count in [2, 3, 4] {
        let bench = Bench::new().await;
        let workers = bench.start_many(CONFIG, count);
        let mut ids: Vec<VideoId> = Vec::new();
        for seed in 0..24 {
            let mut video = new_video("make");
            video.params.seed = seed % 3;
            ids.push(bench.queue.enqueue(video, None).await.unwrap().video.id);
        }
        let mut contents = HashMap::new();
        for id in &ids {
            let video = bench.settled(*id).await;
            assert_eq!((video.status, video.attempt), (Status::Completed, 1));
            let content = bench.mp4(&video).await;
            let same = contents.entry(video.params.seed).or_insert_with(|| content.clone());
            assert_eq!(*same, content, "the same video has the same bytes, whoever makes it");
        }
        assert_eq!(bench.baton.asked.lock().unwrap().len(), ids.len(), "each was asked for once");
        assert_eq!(bench.files().len(), 3 * ids.len());
        workers.shutdown(Duration::from_hours(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_make_as_many_videos_at_once_as_there_are_of_them_and_cancel_the_right_one() {
    let mut bench = Bench::new().await;
    let workers = bench.start_many(CONFIG, 3);
    until_all(&workers, &Readiness::Ready).await;
    let mut ids = Vec::new();
    let mut held = Vec::new();
    for _ in 0..3 {
        ids.push(bench.enqueue("hold").await);
        held.push(bench.held().await);
    }
    let waiting = bench.enqueue("make").await;
    let counts = bench.queue.counts().await.unwrap();
    assert_eq!((counts.in_progress, counts.queued), (3, 1));

    bench.queue.request_cancel(ids[1], None).await.unwrap();
    assert_eq!(bench.settled(ids[1]).await.status, Status::Cancelled);
    // Its worker is free for the next, while the others still hold theirs.
    assert_eq!(bench.settled(waiting).await.status, Status::Completed);
    for id in [ids[0], ids[2]] {
        assert_eq!(bench.queue.get(id).await.unwrap().status, Status::InProgress);
    }
    for held in held {
        held.release();
    }
    for id in [ids[0], ids[2]] {
        let video = bench.settled(id).await;
        assert_eq!((video.status, video.attempt), (Status::Completed, 1), "nobody took it over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_parks_the_videos_of_all_workers_and_the_next_goes_on_with_them() {
    let mut bench = Bench::new().await;
    let workers = bench.start_many(PARKING, 3);
    let ready = workers.ready.clone();
    let mut ids = Vec::new();
    let mut held = Vec::new();
    for _ in 0..3 {
        ids.push(bench.enqueue("hold").await);
        held.push(bench.held().await);
    }
    let shutdown = tokio::spawn(workers.shutdown(Duration::from_hours(1)));
    patient(ready.clone().wait_for(|ready| *ready == Readiness::Stopping)).await.unwrap();
    for held in held {
        held.release();
    }
    patient(shutdown).await.unwrap();
    for id in &ids {
        let parked = bench.queue.get(*id).await.unwrap();
        assert_eq!((parked.status, parked.checkpoint_step), (Status::Queued, Some(2)));
    }
    let _next = bench.start_many(PARKING, 2);
    for id in &ids {
        let video = bench.settled(*id).await;
        assert_eq!((video.status, video.attempt), (Status::Completed, 2));
    }
    assert_eq!(bench.resumed_from()[3..], [Some(2); 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_be_built_leaves_the_work_to_the_others() {
    let bench = Bench::new().await;
    let devices = ["bad", "good"].map(|name| {
        let baton = std::sync::Arc::clone(&bench.baton);
        let build = move || match name {
            "bad" => Err("no such device".to_owned()),
            _ => FakeGenerator::build(&baton),
        };
        Device { name: name.to_owned(), build }
    });
    let mut workers = worker::start(CONFIG, &bench.queue, &bench.stores, devices.into()).unwrap();
    until_one_failed(&mut workers).await;
    patient(workers.ready.wait_for(|ready| *ready == Readiness::Ready)).await.unwrap();
    assert_eq!(states(&workers), [Readiness::Failed("no such device".to_owned()), Readiness::Ready]);
    assert_eq!((workers.each[0].device.as_str(), workers.each[1].device.as_str()), ("bad", "good"));
    for _ in 0..3 {
        bench.assert_goes_on().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_device_is_lost_hands_its_video_to_another() {
    let mut bench = Bench::new().await;
    let mut workers = bench.start_many(KEEPING, 2);
    until_all(&workers, &Readiness::Ready).await;
    let other = bench.enqueue("hold").await;
    let held = bench.held().await;
    let id = bench.enqueue("lost 3").await;
    until_one_failed(&mut workers).await;
    assert_eq!(*workers.ready.borrow(), Readiness::Ready, "the other goes on");
    // The failure is said first, and the row is written then.
    let handed_back = async {
        while bench.queue.get(id).await.unwrap().status != Status::Queued {
            tokio::task::yield_now().await;
        }
    };
    patient(handed_back).await;
    held.release();
    assert_eq!(bench.settled(other).await.attempt, 1);
    let video = bench.settled(id).await;
    assert_eq!((video.status, video.attempt), (Status::Completed, 2));
    bench.assert_goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_can_be_had_again_goes_on_and_a_video_that_loses_it_again_and_again_is_given_up() {
    let bench = Bench::new().await;
    let workers = bench.start_many(CONFIG, 1);
    let id = bench.enqueue("reset").await;
    let video = bench.settled(id).await;
    assert_eq!((video.status, video.attempt), (Status::Failed, 3));
    assert_eq!(video.error.unwrap().code, "worker_lost");
    bench.assert_goes_on().await;
    assert_eq!(*workers.ready.borrow(), Readiness::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_when_all_have_failed_has_the_server_and_the_line_stays() {
    let bench = Bench::new().await;
    let mut workers = bench.start_many(CONFIG, 2);
    until_all(&workers, &Readiness::Ready).await;
    let poison = bench.enqueue("poison").await;
    let failed = patient(workers.ready.wait_for(|ready| matches!(ready, Readiness::Failed(_)))).await;
    assert_eq!(*failed.unwrap(), Readiness::Failed("the device fell off the bus".to_owned()));
    workers.shutdown(Duration::from_hours(1)).await;
    let waiting = bench.queue.get(poison).await.unwrap();
    assert_eq!((waiting.status, waiting.attempt), (Status::Queued, 2));
}

#[tokio::test(start_paused = true)]
async fn a_generator_that_never_comes_back_is_said_at_once_and_the_others_can_be_parked() {
    const WATCHED: WorkerConfig = WorkerConfig {
        interrupt_wait: Duration::from_secs(5),
        hang_factor: 10,
        hang_min: Duration::from_mins(1),
        ..PARKING
    };
    let _frozen = FrozenTime::new();
    let mut bench = Bench::new().await;
    let mut workers = bench.start_many(WATCHED, 2);
    until_all(&workers, &Readiness::Ready).await;
    bench.assert_goes_on().await;
    let deaf = bench.enqueue("deaf").await;
    let mut news = bench.news(deaf);
    let never = bench.held().await;
    news.at_step(1).await;
    advance(Duration::from_secs(61)).await;
    assert_eq!(news.end().await.error.unwrap().code, "worker_hung");
    let other = bench.enqueue("hold").await;
    let held = bench.held().await;
    loop {
        tokio::select! {
            hung = workers.ready.wait_for(|ready| matches!(ready, Readiness::Hung(_))) => break drop(hung.unwrap()),
            () = advance(Duration::from_secs(1)) => {}
        }
    }
    assert_eq!(states(&workers).iter().filter(|state| **state == Readiness::Ready).count(), 1);
    let mut ready = workers.ready.clone();
    let shutdown = tokio::spawn(workers.shutdown(Duration::from_hours(1)));
    ready.wait_for(|ready| *ready == Readiness::Stopping).await.unwrap();
    held.release();
    shutdown.await.unwrap();
    let parked = bench.queue.get(other).await.unwrap();
    assert_eq!((parked.status, parked.checkpoint_step), (Status::Queued, Some(2)));
    never.release();
}
