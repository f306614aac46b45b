//! The database file: how it is opened, brought up to date, and held by one server.
//!
//! Relies on WAL mode, where readers wait for nobody. Every commit is synced: what a client was told survives a
//! power cut. Knows the file, not what is in it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sqlx::{
    Connection as _, Sqlite, SqliteConnection, SqlitePool, Transaction,
    migrate::{Migration, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{Error, Result};

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations/sqlite");

const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_millis(10);

pub(crate) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
}

pub(crate) fn pool(options: SqliteConnectOptions) -> SqlitePool {
    SqlitePoolOptions::new().max_connections(READERS).connect_lazy_with(options)
}

/// Connects for writing. A new file is put into WAL mode first, for which `SQLite` does not wait while another process
/// is doing the same: so it is waited for here.
pub(crate) async fn connect(path: &Path) -> Result<SqliteConnection> {
    let began = Instant::now();
    loop {
        match SqliteConnection::connect_with(&options(path)).await {
            Err(sqlx::Error::Database(error))
                if is_busy(error.as_ref()) && began.elapsed() < BUSY_TIMEOUT =>
            {
                tokio::time::sleep(RETRY_AFTER).await;
            }
            connected => return Ok(connected?),
        }
    }
}

/// `SQLITE_BUSY`, whatever the more exact code is above its lowest byte.
fn is_busy(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.code().and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == 5)
}

/// Brings the tables up to date. All of it is one transaction, begun with the right to write: a server and a command
/// line that start at once on a new file take turns.
///
/// # Errors
/// [`Error::NewerSchema`]: an older program does not touch tables that it does not know.
pub(crate) async fn migrate(connection: &mut SqliteConnection) -> Result<()> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    version(&mut tx).await?;
    // Not `run`, whose bounds keep the future from being `Send`.
    MIGRATOR.run_direct(None, &mut *tx, false).await?;
    Ok(tx.commit().await?)
}

/// The newest migration that was applied; none in an empty file.
///
/// # Errors
/// [`Error::NewerSchema`] for one that this program does not know.
pub(crate) async fn version(connection: &mut SqliteConnection) -> Result<Option<i64>> {
    let is_table = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations')";
    if !sqlx::query_scalar::<_, bool>(is_table).fetch_one(&mut *connection).await? {
        return Ok(None);
    }
    let applied = "SELECT max(version) FROM _sqlx_migrations";
    let found: Option<i64> = sqlx::query_scalar(applied).fetch_one(&mut *connection).await?;
    match found {
        Some(found) if found > known_version() => Err(Error::NewerSchema { found, known: known_version() }),
        found => Ok(found),
    }
}

/// The migrations that this program knows, in their order.
pub(crate) fn migrations() -> impl Iterator<Item = &'static Migration> {
    MIGRATOR.iter()
}

pub(crate) fn known_version() -> i64 {
    migrations().map(|migration| migration.version).max().unwrap_or(0)
}

/// The connection that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    connection: SqliteConnection,
    path: PathBuf,
}

impl Writer {
    pub(crate) fn new(connection: SqliteConnection, path: &Path) -> Self {
        Self { connection, path: path.to_owned() }
    }

    /// The connection, with no transaction open on it.
    ///
    /// `SQLite` rolls a transaction back by itself when the disk is full or fails. sqlx's own rollback then has
    /// nothing to do, fails, and leaves the transaction counted as open for ever: such a connection is replaced, or
    /// one full disk would be the last thing that this server wrote about.
    pub(crate) async fn ready(&mut self) -> Result<&mut SqliteConnection> {
        // A dropped transaction is rolled back before the next command, so that only behind one its end is known.
        if self.connection.is_in_transaction()
            && (self.connection.ping().await.is_err() || self.connection.is_in_transaction())
        {
            tracing::warn!(path = %self.path.display(), "the database rolled back by itself; connecting again");
            self.connection = connect(&self.path).await?;
        }
        Ok(&mut self.connection)
    }

    /// A transaction that may write from its beginning, so that it never finds out later that it may not.
    pub(crate) async fn begin(&mut self) -> Result<Transaction<'_, Sqlite>> {
        Ok(self.ready().await?.begin_with("BEGIN IMMEDIATE").await?)
    }
}

pub(crate) fn lock(path: &Path) -> Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let path = Path::new(&name);
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|source| Error::LockFile { path: path.to_owned(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Locked { path: path.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(Error::LockFile { path: path.to_owned(), source }),
    }
}
