//! The command line: which subcommands and flags there are, and what each runs. Knows the program's parts by name
//! and does none of their work.

use std::ffi::OsString;
use std::io::{BufRead, Write};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::backup::{Backup, Restore};
use crate::bench::Bench;
use crate::config::{Config, DeviceSpec, LoadOptions, MemoryLimit, table};
use crate::convert::Convert;
use crate::doctor::Doctor;
use crate::download::Download;
use crate::generate::Generate;
use crate::health;
use crate::inspect::Inspect;
use crate::keys::Keys;
use crate::migrate::Migrate;
use crate::model_files::ModelFiles;
use crate::model_set;
use crate::quantize::Quantize;
use crate::selftest::Selftest;
use crate::serve;
use crate::tokenize::Tokenize;

/// Serves `CogVideoX` text-to-video models over HTTP.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// A configuration file over the built-in defaults; `COGVIDEOX_CONFIG` names one too.
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
    /// Accept prompts over HTTP and make their videos.
    Serve {
        /// A model folder in diffusers' layout, a name or repository as `download` takes it, or "demo"; the configured
        /// model if not given. May be repeated: requests pick the further ones by their folders' or repositories' names.
        #[arg(long, value_name = "DIR")]
        model: Vec<String>,
        /// cpu, cuda, cuda:N or cuda:N+cuda:M, a worker for each; may be repeated; the configured ones if not given.
        #[arg(long, value_name = "DEVICE", value_delimiter = ',')]
        device: Vec<DeviceSpec>,
        /// What tensors may take of a GPU's memory, as in 8GiB; the configured limit if not given.
        #[arg(long, value_name = "SIZE")]
        memory_limit: Option<MemoryLimit>,
        /// Take prompts, but begin no video before the queue is resumed (POST /v1/queue/resume).
        #[arg(long)]
        start_paused: bool,
    },
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Keys(Keys),
    /// Check this machine, the configuration, the data folder and the model, and say what to do about what is wrong.
    Doctor(Doctor),
    /// Ask the server that the configuration describes whether it is ready.
    Health,
    /// Copy the job table and its files to a new folder, also while the server runs.
    Backup(Backup),
    /// Put a backup into a data folder that has no job table.
    Restore(Restore),
    /// Bring the job table up to date with this program.
    Migrate(Migrate),
    /// Fetch a published model, or what is missing of it, from Hugging Face or a mirror.
    Download(Download),
    /// Say what a model folder or an adapter's file is, what it needs, and all that is wrong with it.
    Inspect(Inspect),
    /// Turn checkpoints of SAT, in which the models are trained, into a model folder in diffusers' layout.
    Convert(Box<Convert>),
    /// Write a model folder once more, with the large weights of its transformer stored in 8 bits.
    Quantize(Quantize),
    /// Make one video from the command line.
    Generate(Box<Generate>),
    /// Read one JSON string a line on stdin and print its token ids.
    Tokenize(Tokenize),
    /// Check every kernel against its reference on a device.
    Selftest(Selftest),
    /// Measure a model's parts with random weights, or count the memory of its plans.
    Bench(Bench),
    /// Print the OpenAPI description of the HTTP interface.
    Openapi,
    /// Print the configuration that the layers come to, or say what is wrong with it.
    CheckConfig {
        /// Print a table in Markdown of every key there is, its default and its meaning instead.
        #[arg(long)]
        table: bool,
    },
}

/// What the process is connected to.
pub struct Stdio<I, O> {
    /// Read by `tokenize`.
    pub stdin: I,
    /// Where results go; messages go to stderr.
    pub stdout: O,
}

impl Cli {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Whatever the subcommand ends with, in words for the operator.
    pub fn run(
        mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        mut stdio: Stdio<impl BufRead, impl Write>,
    ) -> anyhow::Result<()> {
        if let Command::Serve { model, device, memory_limit, .. } = &self.command {
            self.set.extend(model_set::keys_of_paths(model));
            let limit =
                memory_limit.map(|limit| ("model.memory_limit_mib".to_owned(), limit.mib.to_string()));
            self.set.extend(limit);
            if !device.is_empty() {
                let devices: Vec<String> = device.iter().map(DeviceSpec::to_string).collect();
                self.set.push(("model.device".to_owned(), devices.join(",")));
            }
        }
        if let Command::Download(Download { endpoint: Some(endpoint), .. }) = &self.command {
            self.set.push(("hub.endpoint".to_owned(), endpoint.clone()));
        }
        match &self.command {
            Command::Openapi => return Ok(write!(stdio.stdout, "{}", api::openapi_yaml())?),
            Command::Selftest(selftest) => return selftest.run(&mut stdio.stdout),
            Command::Bench(bench) => return bench.run(&mut stdio.stdout),
            Command::Inspect(inspect) => return inspect.run(&mut stdio.stdout),
            Command::Convert(convert) => return convert.run(&mut stdio.stdout),
            Command::Quantize(quantize) => return quantize.run(&mut stdio.stdout),
            _ => {}
        }
        let environment: Vec<(OsString, OsString)> = environment.into_iter().collect();
        let options = LoadOptions { file: self.config, overrides: self.set };
        let config = Config::load(&options, environment.iter().cloned());
        if let Command::Doctor(doctor) = &self.command {
            return doctor.run(config, &environment, &mut stdio.stdout);
        }
        let config = config?;
        let files = ModelFiles::new(&config.hub.endpoint, &environment);
        match self.command {
            Command::Serve { start_paused, .. } => serve::run(config, &files, start_paused)?,
            Command::Health => block_on(health::run(&config, &mut stdio.stdout))?,
            Command::Keys(keys) => keys.run(&config, &mut stdio.stdout)?,
            Command::Backup(backup) => block_on(backup.run(&config, &mut stdio.stdout))?,
            Command::Restore(restore) => block_on(restore.run(&config, &mut stdio.stdout))?,
            Command::Migrate(migrate) => block_on(migrate.run(&config, &mut stdio.stdout))?,
            Command::Download(download) => download.run(&files, &mut stdio.stdout)?,
            Command::Generate(generate) => generate.run(config, &files, &mut stdio.stdout)?,
            Command::Tokenize(tokenize) => tokenize.run(config, &files, stdio.stdin, &mut stdio.stdout)?,
            Command::CheckConfig { table: true } => write!(stdio.stdout, "{}", table::markdown())?,
            Command::CheckConfig { table: false } => write!(stdio.stdout, "{}", config.to_toml()?)?,
            Command::Openapi
            | Command::Selftest(_)
            | Command::Bench(_)
            | Command::Inspect(_)
            | Command::Convert(_)
            | Command::Quantize(_)
            | Command::Doctor(_) => {}
        }
        Ok(())
    }
}

/// Runs a command that waits for the database.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn key_and_value(argument: &str) -> Result<(String, String), String> {
    match argument.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err("expected KEY=VALUE".to_owned()),
    }
}
