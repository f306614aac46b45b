//! `cogvideox-server keys`: makes, lists and revokes API keys, also while a server runs on the same data folder.
//!
//! A new key's text is printed once, alone on stdout; everything else about keys may be shown.

use std::io::Write;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use queue::{ApiKey, ApiKeys, KeyLimits, NewKey, Scope, SystemClock};

use crate::config::Config;
use crate::serve::QUEUE_FILE;

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a key and print it; it cannot be shown again.
    Create(Create),
    /// Show all keys, without their secrets.
    List,
    /// Refuse a key from now on.
    Revoke {
        /// The key's name or id.
        key: String,
    },
}

/// A key to be made.
#[derive(Debug, Args)]
pub struct Create {
    /// What people call it; it stands in logs and metrics.
    name: String,
    /// What it is good for; may be repeated.
    #[arg(long = "scope", value_enum, default_values = ["submit", "read"])]
    scopes: Vec<ScopeWord>,
    /// How many of its videos may wait, instead of the configured number.
    #[arg(long)]
    max_queued: Option<u32>,
    /// How many of its videos may be made at once, instead of the configured number.
    #[arg(long)]
    max_running: Option<u32>,
    /// How many requests it may make in a minute, instead of the configured number.
    #[arg(long)]
    requests_per_minute: Option<u32>,
}

/// A scope by its word.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScopeWord {
    /// Make, cancel and delete videos of its own.
    Submit,
    /// Look at videos of its own.
    Read,
    /// Everything, for the videos of every key; and the queue itself.
    Admin,
}

impl Keys {
    /// Does it.
    ///
    /// # Errors
    /// A database that cannot be opened, a name that is taken or unknown.
    pub(crate) fn run(self, config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
        let dir = &config.data_dir;
        std::fs::create_dir_all(dir).with_context(|| format!("{}: cannot be made", dir.display()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let keys = ApiKeys::open(&dir.join(QUEUE_FILE), Arc::new(SystemClock)).await?;
            match self {
                Self::Create(create) => create.run(&keys, out).await,
                Self::List => list(&keys.list().await?, out),
                Self::Revoke { key } => {
                    let key = keys.revoke(&key).await?;
                    writeln!(out, "revoked {} ({})", key.name, key.id)?;
                    Ok(())
                }
            }
        })
    }
}

impl Create {
    async fn run(self, keys: &ApiKeys, out: &mut impl Write) -> anyhow::Result<()> {
        let scopes = self.scopes.into_iter().map(|word| match word {
            ScopeWord::Submit => Scope::Submit,
            ScopeWord::Read => Scope::Read,
            ScopeWord::Admin => Scope::Admin,
        });
        let limits = KeyLimits {
            max_queued: self.max_queued,
            max_running: self.max_running,
            requests_per_minute: self.requests_per_minute,
        };
        let new = NewKey { name: self.name, scopes: scopes.collect(), limits };
        let (_, text) = keys.create(new).await?;
        writeln!(out, "{text}")?;
        Ok(())
    }
}

fn list(keys: &[ApiKey], out: &mut impl Write) -> anyhow::Result<()> {
    let width = keys.iter().map(|key| key.name.len()).max().unwrap_or(0).max("name".len());
    writeln!(
        out,
        "{:width$}  {:16}  {:18}  {:7}  limits (queued, running, requests a minute)",
        "name", "id", "scopes", "state"
    )?;
    for key in keys {
        let scopes: Vec<&str> = key.scopes.iter().map(|scope| word(*scope)).collect();
        let state = if key.revoked_at_ms.is_some() { "revoked" } else { "active" };
        let limit = |limit: Option<u32>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
        let KeyLimits { max_queued, max_running, requests_per_minute } = key.limits;
        writeln!(
            out,
            "{:width$}  {:16}  {:18}  {state:7}  {}, {}, {}",
            key.name,
            key.id.to_string(),
            scopes.join(","),
            limit(max_queued),
            limit(max_running),
            limit(requests_per_minute)
        )?;
    }
    Ok(())
}

fn word(scope: Scope) -> &'static str {
    match scope {
        Scope::Submit => "submit",
        Scope::Read => "read",
        Scope::Admin => "admin",
    }
}
