//! `cogvideox-server backup` and `restore`: the job table and the files that it names, as one folder.
//!
//! A backup is made beside a running server: first the table as it is at one moment, then the files of that table,
//! each checked against the digest that its row holds. It gets its name when it is whole. A restore goes into a data
//! folder without a job table and puts that in place last. Checkpoints are left out: a video that was under way starts
//! over. Knows the table by `queue` only.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use queue::{DatabaseFile, OutputFile};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::serve::{QUEUE_FILE, VIDEOS_DIR};
use crate::terminal::{Progress, Update};

/// Says what the folder is; written last.
const MANIFEST: &str = "backup.json";
/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Where a backup is to lie.
#[derive(Debug, Args)]
pub struct Backup {
    /// A folder that does not exist yet.
    folder: PathBuf,
}

/// Which backup to go back to.
#[derive(Debug, Args)]
pub struct Restore {
    /// A folder that `backup` made.
    folder: PathBuf,
}

/// What a backup says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// The program that made it.
    version: String,
    /// The newest migration of its table.
    schema: i64,
    files: usize,
    bytes: u64,
}

impl Backup {
    /// Makes it, also while a server runs.
    ///
    /// # Errors
    /// A folder that exists; a table or a file that cannot be read, is missing or is not what its row says.
    pub(crate) async fn run(&self, config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
        let (folder, data) = (&self.folder, &config.data_dir);
        ensure!(!folder.exists(), "{}: is there already, expected a new folder", folder.display());
        let database = DatabaseFile::new(&existing_table(data)?);
        let schema = database.schema().await?;
        if let Some((version, _)) = schema.pending.first() {
            bail!("the job table lacks migration {version}: run `cogvideox-server migrate` first");
        }
        let part = unfinished(folder);
        if part.exists() {
            fs::remove_dir_all(&part).with_context(|| format!("{}: cannot be removed", part.display()))?;
        }
        fs::create_dir_all(part.join(VIDEOS_DIR))
            .with_context(|| format!("{}: cannot be made", part.display()))?;

        let copy = part.join(QUEUE_FILE);
        database.copy_to(&copy).await?;
        let mut files = DatabaseFile::new(&copy).files().await?;
        let lost = copy_files(&files, &data.join(VIDEOS_DIR), &part.join(VIDEOS_DIR))?;
        // What was deleted since the table was copied is no loss: only what the table still names is.
        let named = database.files().await?;
        let missing = lost.iter().filter(|key| named.iter().any(|file| &file.key == *key));
        let missing: Vec<&str> = missing.map(String::as_str).collect();
        files.retain(|file| !lost.contains(&file.key));

        let bytes = files.iter().map(|file| file.bytes).sum();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let manifest = Manifest { version, schema: schema.known, files: files.len(), bytes };
        fs::write(part.join(MANIFEST), serde_json::to_vec_pretty(&manifest)?)?;
        sync(&[&copy, &part.join(MANIFEST), &part.join(VIDEOS_DIR), &part])?;
        fs::rename(&part, folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
        writeln!(out, "{}: the job table and {} files, {bytes} bytes", folder.display(), files.len())?;
        if !missing.is_empty() {
            bail!("{} files that the job table names are missing: {}", missing.len(), missing.join(", "));
        }
        Ok(())
    }
}

impl Restore {
    /// Puts it back.
    ///
    /// # Errors
    /// What is no whole backup; one of a newer release; a data folder that has a job table, or that a server holds.
    pub(crate) async fn run(&self, config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
        let (folder, data) = (&self.folder, &config.data_dir);
        let path = folder.join(MANIFEST);
        let text = fs::read(&path).with_context(|| format!("{}: not a backup", path.display()))?;
        let manifest: Manifest =
            serde_json::from_slice(&text).with_context(|| format!("{}: not a backup", path.display()))?;
        let saved = DatabaseFile::new(&existing_table(folder)?);
        saved.schema().await?;
        let faults = saved.check().await?;
        ensure!(faults.is_empty(), "{}: the job table is damaged: {}", folder.display(), faults.join("; "));
        let table = data.join(QUEUE_FILE);
        ensure!(
            !table.exists(),
            "{}: has a job table already; move the folder away first, or name another with --set data_dir=DIR",
            data.display()
        );
        fs::create_dir_all(data.join(VIDEOS_DIR))
            .with_context(|| format!("{}: cannot be made", data.display()))?;
        ensure!(!DatabaseFile::new(&table).is_held()?, "{}: a server is running on it", data.display());

        let mut files = saved.files().await?;
        files.retain(|file| folder.join(VIDEOS_DIR).join(&file.key).exists());
        ensure!(
            files.len() == manifest.files,
            "{}: expected {} files, found {}",
            folder.display(),
            manifest.files,
            files.len()
        );
        copy_files(&files, &folder.join(VIDEOS_DIR), &data.join(VIDEOS_DIR))?;
        let part = unfinished(&table);
        if part.exists() {
            fs::remove_file(&part)?;
        }
        saved.copy_to(&part).await?;
        sync(&[&part, &data.join(VIDEOS_DIR)])?;
        fs::rename(&part, &table)?;
        sync(&[data])?;
        writeln!(out, "{}: the job table and {} files are back", data.display(), files.len())?;
        Ok(())
    }
}

/// The job table in a folder.
pub(crate) fn existing_table(folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join(QUEUE_FILE);
    ensure!(path.is_file(), "{}: there is no job table", path.display());
    Ok(path)
}

/// What it is called until it is whole.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Copies what is there and says what is not.
fn copy_files(files: &[OutputFile], from: &Path, to: &Path) -> anyhow::Result<Vec<String>> {
    let mut progress = Progress::stderr();
    let mut lost = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let (step, total_steps) = (number as u32, files.len() as u32);
        progress.update(Update::Steps { stage: "copying files", step, total_steps });
        match copy_file(file, &from.join(&file.key), &to.join(&file.key)) {
            Err(error) if is_missing(&error) => lost.push(file.key.clone()),
            copied => copied.with_context(|| format!("{}", from.join(&file.key).display()))?,
        }
    }
    Ok(lost)
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// One file, with the digest taken on the way.
fn copy_file(file: &OutputFile, from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut source = File::open(from)?;
    let mut copy = File::create(to)?;
    let (mut digest, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    loop {
        let read = source.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        digest.update(&chunk[..read]);
        copy.write_all(&chunk[..read])?;
    }
    copy.sync_all()?;
    let found = digest.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    ensure!(
        found == file.sha256,
        "expected the SHA-256 {}, found {found}: the file was changed",
        file.sha256
    );
    Ok(())
}

fn sync(paths: &[&Path]) -> anyhow::Result<()> {
    for path in paths {
        let synced = File::open(path).and_then(|file| file.sync_all());
        synced.with_context(|| format!("{}: cannot be synced", path.display()))?;
    }
    Ok(())
}
