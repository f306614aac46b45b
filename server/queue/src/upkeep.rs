//! A database file as its operator sees it, from outside the server: its tables' version, whether it is whole, which
//! files it names, and a copy of it.
//!
//! All but [`DatabaseFile::migrate`] also works beside a running server: SQLite gives each of them one consistent
//! state. Knows nothing of where the files lie that the rows name.

use std::path::{Path, PathBuf};

use sqlx::{Connection as _, SqliteConnection};

use crate::{Error, OutputFile, Result, database};

/// A database file that is there.
#[derive(Debug, Clone)]
pub struct DatabaseFile {
    path: PathBuf,
}

/// Which tables a database has, beside those of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// The newest migration that was applied; none in an empty file.
    pub version: Option<i64>,
    /// The newest migration that this program knows.
    pub known: i64,
    /// What an upgrade would apply: version and name of each, in their order.
    pub pending: Vec<(i64, String)>,
}

impl DatabaseFile {
    /// The file at `path`; whether it is a database turns out at the first look.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Whether a server holds it now.
    ///
    /// # Errors
    /// [`Error::LockFile`].
    pub fn is_held(&self) -> Result<bool> {
        match database::lock(&self.path) {
            Ok(_) => Ok(false),
            Err(Error::Locked { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Which tables it has.
    ///
    /// # Errors
    /// [`Error::NewerSchema`] for tables of a later release; [`Error::Database`] for what is no database.
    pub async fn schema(&self) -> Result<Schema> {
        let mut connection = self.connect().await?;
        let version = database::version(&mut connection).await?;
        let pending = database::migrations().filter(|m| version.is_none_or(|version| m.version > version));
        let pending = pending.map(|m| (m.version, m.description.to_string())).collect();
        Ok(Schema { version, known: database::known_version(), pending })
    }

    /// Brings its tables up to date, as a server's start does.
    ///
    /// # Errors
    /// [`Error::Locked`] while a server holds it; those of [`DatabaseFile::schema`].
    pub async fn migrate(&self) -> Result<()> {
        let _lock = database::lock(&self.path)?;
        let mut connection = self.connect().await?;
        database::migrate(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// What SQLite finds wrong with it, a line each; reads all of it.
    ///
    /// # Errors
    /// [`Error::Database`] for what is no database, or is too broken to be read.
    pub async fn check(&self) -> Result<Vec<String>> {
        let mut connection = self.connect().await?;
        let mut faults: Vec<String> =
            sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&mut connection).await?;
        faults.retain(|line| line != "ok");
        let strays: Vec<String> = sqlx::query_scalar("SELECT \"table\" FROM pragma_foreign_key_check")
            .fetch_all(&mut connection)
            .await?;
        faults.extend(
            strays.into_iter().map(|table| format!("a row of {table} refers to one that is not there")),
        );
        Ok(faults)
    }

    /// Every file that its rows name, and that is to be there.
    ///
    /// # Errors
    /// [`Error::Database`], also for tables that are not up to date.
    pub async fn files(&self) -> Result<Vec<OutputFile>> {
        let mut connection = self.connect().await?;
        let rows: Vec<(String, i64, String)> = sqlx::query_as(
            "SELECT output_key, output_bytes, output_sha256 FROM videos
             WHERE output_key IS NOT NULL AND expired_at_ms IS NULL
             UNION ALL
             SELECT json_extract(thumbnail, '$.key'), json_extract(thumbnail, '$.bytes'),
                    json_extract(thumbnail, '$.sha256')
             FROM videos WHERE thumbnail IS NOT NULL AND expired_at_ms IS NULL
             UNION ALL
             SELECT json_extract(spritesheet, '$.key'), json_extract(spritesheet, '$.bytes'),
                    json_extract(spritesheet, '$.sha256')
             FROM videos WHERE spritesheet IS NOT NULL AND expired_at_ms IS NULL
             UNION ALL
             SELECT json_extract(params, '$.image.key'), json_extract(params, '$.image.bytes'),
                    json_extract(params, '$.image.sha256')
             FROM videos WHERE json_extract(params, '$.image.key') IS NOT NULL AND expired_at_ms IS NULL",
        )
        .fetch_all(&mut connection)
        .await?;
        let files = rows.into_iter();
        Ok(files.map(|(key, bytes, sha256)| OutputFile { key, bytes: bytes as u64, sha256 }).collect())
    }

    /// Whether an API key opens the server.
    ///
    /// # Errors
    /// [`Error::Database`], also for tables that are not up to date.
    pub async fn has_keys(&self) -> Result<bool> {
        let mut connection = self.connect().await?;
        let is_key = "SELECT EXISTS (SELECT 1 FROM api_keys WHERE revoked_at_ms IS NULL)";
        Ok(sqlx::query_scalar(is_key).fetch_one(&mut connection).await?)
    }

    /// When the newest event of its rows was, in Unix milliseconds.
    ///
    /// # Errors
    /// [`Error::Database`], also for tables that are not up to date.
    pub async fn newest_event_ms(&self) -> Result<Option<i64>> {
        let mut connection = self.connect().await?;
        Ok(sqlx::query_scalar("SELECT max(at_ms) FROM events").fetch_one(&mut connection).await?)
    }

    /// Writes a copy of the state at this moment to `copy`, which must not exist.
    ///
    /// # Errors
    /// [`Error::Database`] if one cannot be read or the other not written.
    pub async fn copy_to(&self, copy: &Path) -> Result<()> {
        let mut connection = self.connect().await?;
        sqlx::query("VACUUM INTO ?").bind(copy.to_string_lossy()).execute(&mut connection).await?;
        Ok(())
    }

    /// Connects without making the file.
    async fn connect(&self) -> Result<SqliteConnection> {
        Ok(SqliteConnection::connect_with(&database::options(&self.path).create_if_missing(false)).await?)
    }
}
