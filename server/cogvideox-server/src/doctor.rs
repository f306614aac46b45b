//! `cogvideox-server doctor`: looks at everything that a server needs before one starts, or beside one, and says what
//! to do about what is wrong. Changes nothing but for a file that it makes and removes to see whether the disk takes
//! it. The looks themselves are in `doctor/`.

mod data;
mod machine;

use std::io::Write;

use anyhow::bail;
use clap::Args;

use crate::cli::block_on;
use crate::config::{self, Config};
use crate::model_files::{ModelFiles, Place, Variables};

/// How to show it.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// How it is with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    /// The server runs, and something will be missed.
    Warning,
    /// The server does not start, or fails videos.
    Error,
}

/// One line.
struct Finding {
    level: Level,
    name: &'static str,
    found: String,
    /// What to do; empty where there is nothing.
    advice: String,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, name, found: found.into(), advice: String::new() }
    }

    fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Warning, name, found: found.into(), advice: advice.into() }
    }

    fn error(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Error, name, found: found.into(), advice: advice.into() }
    }
}

impl Doctor {
    /// Looks, and goes on after what is wrong.
    ///
    /// # Errors
    /// How many things are wrong.
    pub(crate) fn run(
        &self,
        config: config::Result<Config>,
        environment: &Variables,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let findings = match config {
            Ok(config) => {
                let files = ModelFiles::new(&config.hub.endpoint, environment);
                examine(config, &files)?
            }
            Err(error) => vec![Finding::error(
                "configuration",
                error.to_string(),
                "config/default.toml says what each key takes; check-config shows what the layers come to",
            )],
        };
        for finding in &findings {
            self.print(finding, out)?;
        }
        let errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
        if errors > 0 {
            bail!("{errors} of {} checks found an error", findings.len());
        }
        Ok(())
    }

    fn print(&self, finding: &Finding, out: &mut impl Write) -> anyhow::Result<()> {
        let Finding { level, name, found, advice } = finding;
        let word = match level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        if self.json {
            let line = serde_json::json!({ "check": name, "level": word, "found": found, "advice": advice });
            writeln!(out, "{line}")?;
            return Ok(());
        }
        writeln!(out, "{word:8} {name:14} {found}")?;
        if !advice.is_empty() {
            writeln!(out, "{:8} {:14} -> {advice}", "", "")?;
        }
        Ok(())
    }
}

fn examine(mut config: Config, files: &ModelFiles) -> anyhow::Result<Vec<Finding>> {
    let mut findings = vec![Finding::ok("configuration", "every key is known and in range")];
    match files.find(&config.model.path) {
        Place::OnHub(repo) => findings.push(Finding::warning(
            "model",
            format!("{repo}: not here, or not whole"),
            "cogvideox-server download MODEL fetches it now; else the first start does, and is not ready until then",
        )),
        Place::Here(path) => {
            config.model.path = path;
            findings.push(machine::model(&config.model));
        }
    }
    let config = &config;
    findings.extend(machine::devices(&config.model));
    findings.extend(data::folder(config));
    findings.extend(block_on(data::database(config))?);
    findings.push(machine::port(config)?);
    findings.push(block_on(machine::clock(config))?);
    Ok(findings)
}
