//! The database file: how it is opened, brought up to date, and held by one server.
//!
//! Relies on WAL mode, where readers wait for nobody. Every commit is synced: what a client was told survives a
//! power cut. Knows the file, not what is in it.

use std::{fs::File, path::Path, time::Duration};

use sqlx::{
    Connection as _, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{Error, Result};

const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

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

pub(crate) async fn connect(path: &Path) -> Result<SqliteConnection> {
    Ok(SqliteConnection::connect_with(&options(path)).await?)
}

pub(crate) async fn migrate(connection: &mut SqliteConnection) -> Result<()> {
    Ok(sqlx::migrate!("../../migrations/sqlite").run(connection).await?)
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
