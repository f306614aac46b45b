//! What the machine does to a queue: a database that is busy, full or read-only, and a clock that is set back.
//!
//! A full disk and somebody else's file need a process of their own: the test runs itself again as a child, with the
//! limits of another.

use std::{
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    process::Command,
    sync::Arc,
    time::Duration,
};

use queue::{Error, NewVideo, Owner, Queue, Rescued, SystemClock, Topic};
use sqlx::Executor as _;

use crate::bench::{Bench, OPTIONS, denoise, finished, new_video};

/// Names the database to a child.
const CHILD: &str = "QUEUE_TEST_DATABASE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_lock_is_waited_for_and_a_long_one_is_an_error_that_changes_nothing() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a").await.id;
    let claim = bench.claim(&Owner::unique()).await;
    let mut stranger = bench.stranger().await;

    stranger.execute("BEGIN IMMEDIATE").await.unwrap();
    let queue = bench.queue.clone();
    let lease = claim.lease.clone();
    let waiting = tokio::spawn(async move { queue.heartbeat(&lease).await });
    // Readers wait for nobody.
    assert_eq!(bench.queue.get(id).await.unwrap().attempt, 1);
    stranger.execute("ROLLBACK").await.unwrap();
    waiting.await.unwrap().unwrap();

    stranger.execute("BEGIN IMMEDIATE").await.unwrap();
    let last = bench.queue.last_event().await.unwrap();
    let mut news = bench.queue.subscribe(Topic::All);
    let busy = bench.queue.enqueue(new_video("b"), None).await;
    assert!(matches!(&busy, Err(Error::Database(e)) if e.to_string().contains("locked")), "{busy:?}");
    stranger.execute("ROLLBACK").await.unwrap();

    bench.complete(&claim).await;
    bench.enqueue("c").await;
    let events = bench.queue.events_after(&Topic::All, last, 10).await.unwrap();
    assert_eq!(events.iter().map(|e| e.kind.as_str()).collect::<Vec<_>>(), ["completed", "queued"]);
    let Some(queue::Heard::News(first)) = news.recv().await else { panic!("nothing was told") };
    assert_eq!(first.video_id, id, "what was not written is not told");
}

/// Runs one of these tests again in a child with this database, and shows what it said if it failed.
fn run_again(test: &str, mut child: Command, database: &std::path::Path) {
    child.args(["--exact", test, "--nocapture"]).env(CHILD, database);
    let output = child.output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "the child: {said}");
}

#[test]
fn a_full_disk_refuses_and_forgets_nothing_and_is_over_when_there_is_room() {
    if let Some(database) = std::env::var_os(CHILD) {
        return fill(std::path::Path::new(&database));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new("sh");
    // A write beyond the limit is then an error, not the end of the process.
    child.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
    run_again(
        "failures::a_full_disk_refuses_and_forgets_nothing_and_is_over_when_there_is_room",
        child,
        &folder.path().join("jobs.db"),
    );
}

/// Sets the largest size of a file of this process.
fn limit_files(bytes: &str) {
    let id = std::process::id().to_string();
    let set = Command::new("prlimit").args(["--pid", &id, &format!("--fsize={bytes}:")]).status().unwrap();
    assert!(set.success());
}

#[tokio::main(flavor = "current_thread")]
async fn fill(database: &std::path::Path) {
    let open = || Queue::open(database, Arc::new(SystemClock), OPTIONS);
    let queue = open().await.unwrap();
    let owner = Owner::unique();
    for round in 0..3 {
        queue.enqueue(new_video("runs"), None).await.unwrap();
        let claim = queue.claim(&owner).await.unwrap().unwrap();
        let mut news = queue.subscribe(Topic::All);
        let before = queue.counts().await.unwrap().queued;
        let wal = std::fs::metadata(database.with_extension("db-wal")).unwrap().len();
        limit_files(&(wal.max(400_000) + 100_000).to_string());
        let large = || NewVideo { sent_prompt: Some("x".repeat(20_000)), ..new_video("large") };
        let mut accepted = 0;
        let refused = loop {
            match queue.enqueue(large(), None).await {
                Ok(_) => accepted += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(&refused, Error::Database(sqlx::Error::Database(_))), "round {round}: {refused:?}");
        // Every kind of write fails for what it is, and readers go on.
        let settled = queue.complete(&claim.lease, finished(1)).await;
        assert!(matches!(&settled, Ok(()) | Err(Error::Database(sqlx::Error::Database(_)))), "{settled:?}");
        assert_eq!(queue.counts().await.unwrap().queued, before + accepted, "round {round}");

        limit_files("unlimited");
        if settled.is_err() {
            queue.complete(&claim.lease, finished(1)).await.unwrap();
        }
        queue.enqueue(new_video("there is room"), None).await.unwrap();
        assert_eq!(queue.counts().await.unwrap().queued, before + accepted + 1, "round {round}");
        let mut told = 0;
        while let Ok(Some(queue::Heard::News(_))) =
            tokio::time::timeout(Duration::from_millis(50), news.recv()).await
        {
            told += 1;
        }
        assert_eq!(told, accepted + 2, "round {round}: each change is told once, and nothing else");
        // Empty the line for the next round.
        while let Some(claim) = queue.claim(&owner).await.unwrap() {
            queue.cancelled(&claim.lease).await.unwrap();
        }
    }
    let seen = queue.last_event().await.unwrap();
    drop(queue);
    let queue = open().await.unwrap();
    assert_eq!(queue.last_event().await.unwrap(), seen, "what was accepted is there");
}

#[test]
fn a_database_that_may_not_be_written_is_refused_at_the_start() {
    if let Some(database) = std::env::var_os(CHILD) {
        return open_read_only(std::path::Path::new(&database));
    }
    // Others can reach it, as root is held back by no permission and becomes somebody else for the child.
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &std::path::Path, bits| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).unwrap();
    };
    mode(folder.path(), 0o777);
    let database = folder.path().join("jobs.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let queue = Queue::open(&database, Arc::new(SystemClock), OPTIONS).await.unwrap();
        queue.enqueue(new_video("a"), None).await.unwrap();
    });
    drop(runtime);
    let (lock, exe) = (folder.path().join("jobs.db.lock"), folder.path().join("test"));
    std::fs::remove_file(lock).unwrap();
    mode(&database, 0o444);
    // The child cannot be expected to reach the folder of the build.
    std::fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    mode(&exe, 0o755);
    let mut child = Command::new(&exe);
    child.current_dir(folder.path());
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        child.uid(65_534);
    }
    run_again("failures::a_database_that_may_not_be_written_is_refused_at_the_start", child, &database);
}

#[tokio::main(flavor = "current_thread")]
async fn open_read_only(database: &std::path::Path) {
    let refused = Queue::open(database, Arc::new(SystemClock), OPTIONS).await;
    let Err(error) = refused else { panic!("a server that cannot write must not start") };
    assert!(error.to_string().contains("readonly"), "{error}");
}

#[tokio::test]
async fn a_clock_that_is_set_back_stops_nothing() {
    const DAY_MS: i64 = 86_400_000;
    let bench = Bench::new().await;
    let owner = Owner::unique();
    let told = NewVideo { webhook_url: Some("https://example.org".into()), ..new_video("a") };
    let first = bench.put(told.clone()).await.id;
    let claim = bench.claim(&owner).await;
    bench.queue.set_progress(&claim.lease, denoise(1, 2)).await.unwrap();
    bench.clock.advance_ms(1_000);
    bench.queue.set_progress(&claim.lease, denoise(2, 4)).await.unwrap();
    bench.clock.advance_ms(-DAY_MS);

    // The row is still written, no step took less than no time, and the lease holds.
    bench.queue.set_progress(&claim.lease, denoise(9, 18)).await.unwrap();
    let running = bench.queue.get(first).await.unwrap();
    assert!(bench.queue.estimate(&running).eta_ms.unwrap() >= 41_000);
    bench.queue.heartbeat(&claim.lease).await.unwrap();
    assert_eq!(bench.queue.rescue(&owner).await.unwrap(), Rescued::default());
    let bench = bench.kill_and_reopen().await;
    assert_eq!(bench.queue.get(first).await.unwrap().step, 9);

    // A lost worker is found, new videos come behind old ones, and deliveries of now are due now.
    assert_eq!(bench.queue.rescue(&Owner::unique()).await.unwrap().requeued, 1);
    let second = bench.put(told).await;
    assert!(second.created_at_ms < running.created_at_ms);
    let claim = bench.claim(&owner).await;
    assert_eq!(claim.video.id, first);
    bench.complete(&claim).await;
    bench.complete(&bench.claim(&owner).await).await;
    assert_eq!(bench.queue.due_deliveries(10).await.unwrap().len(), 2);
    let gone = bench.queue.expire_oldest(1).await.unwrap();
    assert_eq!(gone.len(), 1);
    let last = bench.queue.last_event().await.unwrap();
    bench.enqueue("c").await;
    assert_eq!(bench.queue.last_event().await.unwrap(), last + 1);
}
