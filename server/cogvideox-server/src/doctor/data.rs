//! The data folder: its disk, the job table, the files that it names, and who may reach it.

use std::fs::{self, File};
use std::path::Path;

use queue::{DatabaseFile, Error};

use super::Finding;
use crate::config::Config;
use crate::serve::{QUEUE_FILE, VIDEOS_DIR};

/// Room for a few videos of full size and their checkpoints.
const COMFORTABLE_BYTES: u64 = 2 << 30;

/// Whether the disk takes files, and how many more.
pub(super) fn folder(config: &Config) -> Vec<Finding> {
    let dir = &config.data_dir;
    let shown = dir.display();
    if !dir.exists() {
        return vec![Finding::ok("data folder", format!("{shown}: will be made at the first start"))];
    }
    let probe = dir.join(".doctor");
    let written =
        File::create(&probe).and_then(|file| file.sync_all()).and_then(|()| fs::remove_file(&probe));
    if let Err(error) = written {
        let advice = "let the server's user write there, or set data_dir to another folder";
        return vec![Finding::error("data folder", format!("{shown}: cannot be written: {error}"), advice)];
    }
    let Ok(disk) = rustix::fs::statvfs(dir) else {
        return vec![Finding::ok("data folder", format!("{shown}: can be written"))];
    };
    let free_bytes = disk.f_bavail * disk.f_frsize;
    let found = format!("{shown}: {} MiB free", free_bytes >> 20);
    vec![if free_bytes < COMFORTABLE_BYTES {
        Finding::warning("data folder", found, "make room, or let retention keep less")
    } else {
        Finding::ok("data folder", found)
    }]
}

/// The job table, its files and its keys.
pub(super) async fn database(config: &Config) -> anyhow::Result<Vec<Finding>> {
    let path = config.data_dir.join(QUEUE_FILE);
    if !path.is_file() {
        let mut findings = vec![Finding::ok("database", "will be made at the first start")];
        findings.extend(exposure(config, false));
        return Ok(findings);
    }
    let database = DatabaseFile::new(&path);
    let mut findings = vec![look(&database, &path).await];
    if let Ok(files) = database.files().await {
        let lost = files.iter().filter(|file| {
            let found = fs::metadata(config.data_dir.join(VIDEOS_DIR).join(&file.key));
            found.map_or(true, |found| found.len() != file.bytes)
        });
        let lost: Vec<&str> = lost.map(|file| file.key.as_str()).collect();
        findings.push(match lost.as_slice() {
            [] => Finding::ok("files", format!("{} files, all there", files.len())),
            [first, ..] => Finding::warning(
                "files",
                format!("{} of {} files are missing or cut short, such as {first}", lost.len(), files.len()),
                "restore them from a backup; their videos can be made again with POST /v1/videos/{id}/retry",
            ),
        });
        findings.extend(exposure(config, database.has_keys().await?));
    }
    Ok(findings)
}

async fn look(database: &DatabaseFile, path: &Path) -> Finding {
    let (schema, faults) = match (database.schema().await, database.check().await) {
        (Ok(schema), Ok(faults)) => (schema, faults),
        (Err(error @ Error::NewerSchema { .. }), _) => {
            return Finding::error("database", error.to_string(), "start the release that last wrote it");
        }
        (Err(error), _) | (_, Err(error)) => {
            return Finding::error("database", format!("{}: {error}", path.display()), "restore a backup");
        }
    };
    if let Some(fault) = faults.first() {
        let found = format!("{}: damaged: {fault}", path.display());
        return Finding::error("database", found, "restore a backup (cogvideox-server restore)");
    }
    let version = schema.version.unwrap_or(0);
    match schema.pending.len() {
        0 => Finding::ok("database", format!("whole, schema {version}")),
        pending => Finding::warning(
            "database",
            format!("whole, schema {version}, {pending} migrations behind"),
            "make a backup with the release that wrote it; the next start, or `migrate`, brings it up to date",
        ),
    }
}

/// Whether the server would refuse to listen.
fn exposure(config: &Config, has_keys: bool) -> Option<Finding> {
    let address = config.server.address;
    (!has_keys && !address.is_loopback()).then(|| {
        Finding::error(
            "keys",
            format!("no API key, and server.address = {address} is not this machine only"),
            "make a key first: cogvideox-server keys create NAME",
        )
    })
}
