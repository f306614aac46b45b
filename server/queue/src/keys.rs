//! API keys: who may do what, stored as digests.
//!
//! A key is `cvx_`, its id, `_` and a secret of 32 random bytes; the table holds the secret's SHA-256 and so gives
//! nothing away. (A slow hash would protect guessable secrets, and these are not.) Works beside a running server,
//! which looks a key up at each request: a revoked key is refused from the next request on.

use std::{
    fmt::{self, Write as _},
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sqlx::{Row as _, SqlitePool, sqlite::SqliteRow};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::{Clock, Error, Result, database, queue::to_json};

const PREFIX: &str = "cvx_";
const MAX_NAME_CHARS: usize = 64;

/// Names an API key; not a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyId(pub(crate) String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a key is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Make, cancel and delete videos of its own.
    Submit,
    /// Look at videos of its own.
    Read,
    /// All of it, for the videos of every key; and the queue itself.
    Admin,
}

/// What one key may take of the server; the server's own limits hold where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyLimits {
    /// Videos that wait.
    pub max_queued: Option<u32>,
    /// Videos that are being made.
    pub max_running: Option<u32>,
    /// Requests.
    pub requests_per_minute: Option<u32>,
}

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// What people call it.
    pub name: String,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// What it may take.
    pub limits: KeyLimits,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it was revoked.
    pub revoked_at_ms: Option<i64>,
}

impl ApiKey {
    /// Whether it is good for this; an admin's is good for everything.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What people call it.
    pub name: String,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// What it may take.
    pub limits: KeyLimits,
}

/// The table of API keys.
#[derive(Clone)]
pub struct ApiKeys {
    pool: SqlitePool,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys").finish_non_exhaustive()
    }
}

impl ApiKeys {
    /// Opens the table in the database at `path`, making it if need be; a server may have the database at the same
    /// time.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut connection = database::connect(path).await?;
        database::migrate(&mut connection).await?;
        Ok(Self { pool: database::pool(database::options(path)), clock })
    }

    pub(crate) fn of_pool(pool: SqlitePool, clock: Arc<dyn Clock>) -> Self {
        Self { pool, clock }
    }

    /// Makes a key and returns it with its text, which is nowhere kept.
    ///
    /// # Errors
    /// [`Error::InvalidKeyName`]; [`Error::KeyNameTaken`], also by a revoked key: a name means one key in the logs.
    pub async fn create(&self, new: NewKey) -> Result<(ApiKey, String)> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if new.name.is_empty() || new.name.len() > MAX_NAME_CHARS || !new.name.chars().all(plain) {
            return Err(Error::InvalidKeyName(new.name));
        }
        let id = Uuid::new_v4().simple().to_string()[..16].to_owned();
        // Two version 4 UUIDs hold 244 random bits from the system's source.
        let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let made = sqlx::query(
            "INSERT INTO api_keys (id, name, secret_sha256, scopes, limits, created_at_ms) VALUES (?, ?, ?, ?, ?, ?)
             RETURNING *",
        )
        .bind(&id)
        .bind(&new.name)
        .bind(digest(&secret))
        .bind(to_json(&new.scopes))
        .bind(to_json(&new.limits))
        .bind(self.clock.now_ms())
        // All rows, for only then the commit is behind it.
        .fetch_all(&self.pool)
        .await;
        match made {
            Ok(rows) => Ok((one(&rows)?.ok_or(sqlx::Error::RowNotFound)?, format!("{PREFIX}{id}_{secret}"))),
            Err(sqlx::Error::Database(e)) if e.is_unique_violation() => Err(Error::KeyNameTaken(new.name)),
            Err(error) => Err(error.into()),
        }
    }

    /// All keys, the oldest first; revoked ones too.
    pub async fn list(&self) -> Result<Vec<ApiKey>> {
        let rows =
            sqlx::query("SELECT * FROM api_keys ORDER BY created_at_ms, id").fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// Revokes a key for good; one that is revoked already stays as it is.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`].
    pub async fn revoke(&self, name_or_id: &str) -> Result<ApiKey> {
        let rows = sqlx::query(
            "UPDATE api_keys SET revoked_at_ms = coalesce(revoked_at_ms, ?) WHERE name = ?2 OR id = ?2 RETURNING *",
        )
        .bind(self.clock.now_ms())
        .bind(name_or_id)
        .fetch_all(&self.pool)
        .await?;
        one(&rows)?.ok_or_else(|| Error::KeyNotFound(name_or_id.to_owned()))
    }

    /// Whether keys were ever made: then every request needs one, even if all are revoked.
    pub async fn any(&self) -> Result<bool> {
        Ok(sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM api_keys)").fetch_one(&self.pool).await?)
    }

    /// The key with this id, unless it is revoked: whether one that was let in before still may.
    pub async fn active(&self, id: &KeyId) -> Result<Option<ApiKey>> {
        let row = sqlx::query("SELECT * FROM api_keys WHERE id = ? AND revoked_at_ms IS NULL")
            .bind(&id.0)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// The key that this text is, if it is one and not revoked.
    pub async fn authenticate(&self, text: &str) -> Result<Option<ApiKey>> {
        let Some((id, secret)) = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')) else {
            return Ok(None);
        };
        let row = sqlx::query("SELECT * FROM api_keys WHERE id = ? AND revoked_at_ms IS NULL")
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let expected: String = row.try_get("secret_sha256")?;
        let same: bool = expected.as_bytes().ct_eq(digest(secret).as_bytes()).into();
        if same { read(&row).map(Some) } else { Ok(None) }
    }
}

fn one(rows: &[SqliteRow]) -> Result<Option<ApiKey>> {
    rows.first().map(read).transpose()
}

fn read(row: &SqliteRow) -> Result<ApiKey> {
    let id: String = row.try_get("id")?;
    let corrupt = |column| {
        move |e: serde_json::Error| Error::Corrupt { id: "api_keys".to_owned(), column, found: e.to_string() }
    };
    Ok(ApiKey {
        id: KeyId(id),
        name: row.try_get("name")?,
        scopes: serde_json::from_str(row.try_get("scopes")?).map_err(corrupt("scopes"))?,
        limits: serde_json::from_str(row.try_get("limits")?).map_err(corrupt("limits"))?,
        created_at_ms: row.try_get("created_at_ms")?,
        revoked_at_ms: row.try_get("revoked_at_ms")?,
    })
}

fn digest(secret: &str) -> String {
    Sha256::digest(secret.as_bytes()).iter().fold(String::with_capacity(64), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes any write");
        hex
    })
}
