//! The database as its operator looks at it, beside a server and without one.

use queue::{DatabaseFile, Error, Queue};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::bench::{Bench, new_video};

async fn connect(path: &std::path::Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    SqliteConnection::connect_with(&options).await.unwrap()
}

#[tokio::test]
async fn a_copy_beside_a_running_server_opens_as_a_database_with_the_same_videos() {
    let bench = Bench::new().await;
    let path = bench.folder.path().join("live.db");
    let queue = Queue::open(&path, bench.clock.clone(), bench.queue.options()).await.unwrap();
    let video = queue.enqueue(new_video("a panda"), None).await.unwrap().video;

    let copy = bench.folder.path().join("copy.db");
    let file = DatabaseFile::new(&path);
    assert!(file.is_held().unwrap());
    assert_eq!(file.check().await.unwrap(), Vec::<String>::new());
    file.copy_to(&copy).await.unwrap();
    queue.enqueue(new_video("after the copy"), None).await.unwrap();

    let copied = Queue::open(&copy, bench.clock.clone(), bench.queue.options()).await.unwrap();
    assert_eq!(copied.get(video.id).await.unwrap().params, video.params);
    assert_eq!(copied.counts().await.unwrap().queued, 1);
    assert!(matches!(file.copy_to(&copy).await, Err(Error::Database(_))), "a copy is never written over");
}

#[tokio::test]
async fn a_newer_releases_database_is_refused_untouched() {
    let bench = Bench::new().await;
    let path = bench.folder.path().join("newer.db");
    drop(Queue::open(&path, bench.clock.clone(), bench.queue.options()).await.unwrap());
    let mut connection = connect(&path).await;
    let later =
        "INSERT INTO _sqlx_migrations SELECT 9999, 'later', installed_on, success, checksum, execution_time
                 FROM _sqlx_migrations LIMIT 1";
    sqlx::query(later).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();

    let opened = Queue::open(&path, bench.clock.clone(), bench.queue.options()).await;
    let Err(error @ Error::NewerSchema { found: 9999, .. }) = opened else { panic!("{opened:?}") };
    assert!(error.to_string().contains("newer release"), "{error}");
    assert!(matches!(DatabaseFile::new(&path).schema().await, Err(Error::NewerSchema { .. })));
}

#[tokio::test]
async fn what_an_upgrade_would_do_is_told_before_it_is_done() {
    let bench = Bench::new().await;
    let path = bench.folder.path().join("old.db");
    let mut connection = connect(&path).await;
    sqlx::migrate!("../../migrations/sqlite").run_to(1, &mut connection).await.unwrap();
    connection.close().await.unwrap();

    let file = DatabaseFile::new(&path);
    let before = file.schema().await.unwrap();
    assert_eq!((before.version, before.pending[0].0), (Some(1), 2));
    assert_eq!(file.schema().await.unwrap(), before, "a look changes nothing");
    file.migrate().await.unwrap();
    let after = file.schema().await.unwrap();
    assert_eq!((after.version, after.pending), (Some(after.known), Vec::new()));
}

#[tokio::test]
async fn a_damaged_database_is_found_out() {
    let bench = Bench::new().await;
    let path = bench.folder.path().join("damaged.db");
    let queue = Queue::open(&path, bench.clock.clone(), bench.queue.options()).await.unwrap();
    for n in 0..200 {
        queue.enqueue(new_video(&format!("panda {n}")), None).await.unwrap();
    }
    drop(queue);
    let file = DatabaseFile::new(&path);
    let whole = bench.folder.path().join("whole.db");
    file.copy_to(&whole).await.unwrap();
    let mut bytes = std::fs::read(&whole).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0xff);
    let damaged = bench.folder.path().join("hit.db");
    std::fs::write(&damaged, bytes).unwrap();
    let found = DatabaseFile::new(&damaged).check().await;
    assert!(found.as_ref().map_or(true, |faults| !faults.is_empty()), "{found:?}");
}
