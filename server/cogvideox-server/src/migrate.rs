//! `cogvideox-server migrate`: brings the job table up to date without starting the server, or says what that would do.

use std::io::Write;

use clap::Args;
use queue::DatabaseFile;

use crate::backup::existing_table;
use crate::config::Config;

/// How far to go.
#[derive(Debug, Args)]
pub struct Migrate {
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

impl Migrate {
    /// Does it.
    ///
    /// # Errors
    /// No job table, one of a newer release, or one that a server holds.
    pub(crate) async fn run(&self, config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
        let path = existing_table(&config.data_dir)?;
        let database = DatabaseFile::new(&path);
        let schema = database.schema().await?;
        let version = schema.version.unwrap_or(0);
        if schema.pending.is_empty() {
            writeln!(out, "{}: schema {version} is up to date", path.display())?;
            return Ok(());
        }
        if !self.dry_run {
            database.migrate().await?;
        }
        let verb = if self.dry_run { "would be applied" } else { "applied" };
        for (number, name) in &schema.pending {
            writeln!(out, "{number:04} {name}: {verb}")?;
        }
        let verb = if self.dry_run { "would go" } else { "went" };
        writeln!(out, "{}: {verb} from schema {version} to {}", path.display(), schema.known)?;
        Ok(())
    }
}
