//! A folder that a command writes: it appears whole under its name, or not at all, and who waits for it sees how far it
//! is. Must not know what is in it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use cogvideox::Report;

use crate::terminal::{Progress, Update};

/// Makes `output`, which must not exist yet, of what `write` puts into the folder that it is given; what it reports is
/// shown on stderr.
///
/// # Errors
/// A name that is taken or none; what `write` ends with, and then nothing is left behind.
pub(crate) fn write(
    output: &Path,
    write: impl FnOnce(&Path, Report<'_>) -> cogvideox::Result<()>,
) -> anyhow::Result<()> {
    if output.symlink_metadata().is_ok() {
        bail!("--output: {} is there already", output.display());
    }
    let unfinished = unfinished(output)?;
    // What takes long begins when it is known that the folder can be.
    std::fs::create_dir(&unfinished).with_context(|| format!("{}: cannot be made", unfinished.display()))?;
    let progress = RefCell::new(Progress::stderr());
    let report =
        |stage: &'static str, fraction| progress.borrow_mut().update(Update::Fraction { stage, fraction });
    let written = write(&unfinished, &report).map_err(anyhow::Error::from).and_then(|()| {
        put_in_place(&unfinished, output).with_context(|| format!("{}: cannot be written", output.display()))
    });
    if written.is_err() {
        // What stood in the way is the message, not that the rest is still there.
        let _ = std::fs::remove_dir_all(&unfinished);
    }
    written
}

/// Gives a folder its name once what is in it is on the disk, so that no power cut leaves a part under that name.
fn put_in_place(unfinished: &Path, output: &Path) -> std::io::Result<()> {
    rustix::fs::syncfs(std::fs::File::open(unfinished)?)?;
    std::fs::rename(unfinished, output)
}

/// Beside the folder to be, so that it can be renamed.
fn unfinished(output: &Path) -> anyhow::Result<PathBuf> {
    let name = output.file_name().with_context(|| format!("--output: {} has no name", output.display()))?;
    let name = format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id());
    Ok(output.with_file_name(name))
}
