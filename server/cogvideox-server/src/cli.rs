//! The command line: which subcommands and flags there are, and what each runs. Knows the program's parts by name
//! and does none of their work.

use std::{ffi::OsString, io::Write, path::PathBuf};

use clap::{Parser, Subcommand};

use crate::config::{Config, LoadOptions};

/// Serves CogVideoX text-to-video models over HTTP.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// A configuration file over the built-in defaults; the variable `COGVIDEOX_CONFIG` names one too.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// One configuration key over everything else, as in --set server.port=9000; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", global = true, value_parser = key_and_value)]
    pub set: Vec<(String, String)>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the configuration that the layers come to, or say what is wrong with it.
    CheckConfig,
}

impl Cli {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Whatever the subcommand ends with, in words for the operator.
    pub fn run(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        stdout: &mut impl Write,
    ) -> anyhow::Result<()> {
        let options = LoadOptions { file: self.config, overrides: self.set };
        let config = Config::load(&options, environment)?;
        match self.command {
            Command::CheckConfig => write!(stdout, "{}", config.to_toml()?)?,
        }
        Ok(())
    }
}

fn key_and_value(argument: &str) -> Result<(String, String), String> {
    match argument.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err("expected KEY=VALUE".to_owned()),
    }
}
