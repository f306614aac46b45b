//! A database of the first version, with rows in each status, under this one.

use queue::{EventKind, Owner, Queue, Rescued, Status, Video};
use sqlx::{Connection as _, Executor as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::bench::{Bench, START_MS, new_video};

/// Ids of the first version's rows; the last digit tells them apart.
fn id(n: u8) -> String {
    format!("video_0190163d8694739bae3c4d5e6f70819{n}")
}

/// A database of the second version, with a video that waits.
#[tokio::test]
async fn the_second_versions_line_is_taken_over() {
    let bench = Bench::new().await;
    let path = bench.folder.path().join("old.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::migrate!("../../migrations/sqlite").run_to(2, &mut connection).await.unwrap();
    for (n, model) in ["b", "a"].into_iter().enumerate() {
        let query = sqlx::query(
            "INSERT INTO videos (id, model, params, metadata, warnings, prompt_tokens, prompt_truncated, priority,
                                 total_steps, created_at_ms)
             VALUES (?, ?, ?, '{}', '[]', 12, 0, 0, 50, ?)",
        )
        .bind(id(n as u8))
        .bind(model)
        .bind(serde_json::to_string(&new_video("a panda").params).unwrap())
        .bind(START_MS);
        connection.execute(query).await.unwrap();
    }
    connection.close().await.unwrap();

    let queue = Queue::open(&path, bench.clock.clone(), bench.queue.options()).await.unwrap();
    let owner = Owner::unique();
    for expected in ["a", "b"] {
        let claim = queue.claim_preferring(&owner, &["a".to_owned()]).await.unwrap().unwrap();
        assert_eq!(claim.video.model, expected, "the loaded model first");
    }
}

async fn first_version(connection: &mut SqliteConnection) {
    sqlx::migrate!("../../migrations/sqlite").run_to(1, &mut *connection).await.unwrap();
    let params = serde_json::to_string(&new_video("a panda").params).unwrap();
    let rows = [
        ("queued", "NULL, NULL, NULL, NULL, NULL, NULL"),
        ("in_progress", "'0190163d8694739bae3c4d5e6f708199', 1, NULL, NULL, NULL, NULL"),
        ("completed", "NULL, NULL, NULL, 'video_2.mp4', 5000, 'ab'"),
        ("failed", "NULL, NULL, 'nan_latents', NULL, NULL, NULL"),
        ("cancelled", "NULL, NULL, NULL, NULL, NULL, NULL"),
        ("queued", "NULL, NULL, NULL, NULL, NULL, NULL"),
    ];
    for (n, (status, rest)) in rows.into_iter().enumerate() {
        let text = format!(
            "INSERT INTO videos (id, model, params, metadata, warnings, prompt_tokens, prompt_truncated, priority,
                                 total_steps, created_at_ms, completed_at_ms, attempt, lease_generation, status,
                                 lease_owner, heartbeat_at_ms, error_code, output_key, output_bytes, output_sha256)
             VALUES (?, 'cogvideox-2b', ?, '{{}}', '[]', 12, 0, 0, 50, {START_MS},
                     CASE WHEN '{status}' IN ('completed', 'failed', 'cancelled') THEN {START_MS} END, 1, 1,
                     '{status}', {rest})"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(id(n as u8)).bind(&params);
        connection.execute(query).await.unwrap();
    }
}

#[tokio::test]
async fn the_first_versions_videos_go_on_as_if_nothing_had_been() {
    let bench = Bench::new().await;
    let path = bench.folder.path().join("old.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    first_version(&mut connection).await;
    connection.close().await.unwrap();

    let queue = Queue::open(&path, bench.clock.clone(), bench.queue.options()).await.unwrap();
    let mut videos: Vec<Video> = Vec::new();
    for n in 0..6 {
        videos.push(queue.get(id(n).parse().unwrap()).await.unwrap());
        assert_eq!((videos[n as usize].attempt, &videos[n as usize].owner), (1, &None));
    }
    assert_eq!(videos[2].output.as_ref().unwrap().video.bytes, 5000);
    assert_eq!(videos[3].error.as_ref().unwrap().code, "nan_latents");

    // The line is what it was, new ones come behind it, and its costs count.
    let owner = Owner::unique();
    assert_eq!(queue.rescue(&owner).await.unwrap(), Rescued { requeued: 1, ..Rescued::default() });
    let new = queue.enqueue(new_video("new"), None).await.unwrap().video;
    let place = queue.estimate(&new).queue_position;
    assert_eq!(place, Some(4));
    for expected in [videos[0].id, videos[1].id, videos[5].id, new.id] {
        assert_eq!(queue.claim(&owner).await.unwrap().unwrap().video.id, expected);
    }
    // Retention knows the old files.
    assert_eq!(queue.files_bytes().await.unwrap(), 5000);
    assert_eq!(queue.expire_oldest(1).await.unwrap()[0].status, Status::Completed);
    assert_eq!(queue.snapshot(videos[4].id).await.unwrap().1, 0, "what happened before was not recorded");
    queue.delete(videos[4].id, None).await.unwrap();
    let told = queue.events_after(&queue::Topic::Video(videos[4].id), 0, 9).await.unwrap();
    assert_eq!(told[0].kind, EventKind::Deleted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_and_a_command_line_may_make_the_database_at_once() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let clock = std::sync::Arc::new(queue::SystemClock);
        let path = folder.path().join("jobs.db");
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let (path, clock) = (path.clone(), clock.clone());
                tokio::spawn(async move { queue::ApiKeys::open(&path, clock).await.map(drop) })
            })
            .collect();
        let server = Queue::open(&path, clock.clone(), crate::bench::OPTIONS).await;
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        server.unwrap();
    }
}
