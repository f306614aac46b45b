//! The machine: the model's files, the devices and their memory, the port, the clock.

use std::net::{SocketAddr, TcpListener};
use std::time::{SystemTime, UNIX_EPOCH};

use cogvideox::CogVideoXPipeline;
use cogvideox::gpu::{GpuOptions, Placement};
use queue::DatabaseFile;

use super::Finding;
use crate::config::{Config, DeviceSpec, Model};
use crate::gpu::Opened;
use crate::model::ModelSource;
use crate::serve::QUEUE_FILE;

/// 2026-01-01: no program of this code ran before.
const EARLIEST_MS: i64 = 1_767_225_600_000;
/// Clocks that are kept agree better than this.
const CLOCK_SLACK_MS: i64 = 60_000;

/// The model's small files, which say what it is.
pub(super) fn model(model: &Model) -> Finding {
    let source = ModelSource::new(model);
    match source.describe() {
        Err(error) => Finding::error(
            "model",
            error.to_string(),
            "model.path takes a whole folder in diffusers' layout, the name of a published model, or \"demo\"",
        ),
        Ok(_) if source.notice().is_some() => Finding::warning(
            "model",
            "the demo model, whose videos are moving noise",
            "set model.path to a model's folder",
        ),
        Ok(description) => Finding::ok("model", format!("{}: {:?}", source.id(), description.form)),
    }
}

/// Each device, once.
pub(super) fn devices(model: &Model) -> Vec<Finding> {
    let mut devices: Vec<DeviceSpec> = Vec::new();
    for device in &model.device {
        if !devices.contains(device) {
            devices.push(*device);
        }
    }
    let source = ModelSource::new(model);
    devices.into_iter().flat_map(|device| one_device(&source.on(device))).collect()
}

fn one_device(source: &ModelSource) -> Vec<Finding> {
    let Opened { placement, numbers } = match source.open_gpus() {
        Ok(None) => return vec![cpu(source)],
        Ok(Some(opened)) => opened,
        Err(error) => {
            let advice = "nvidia-smi must list the GPU, with driver 580 (CUDA 13.0) or newer; in a container, run \
                          it with --gpus all; else set model.device to cpu";
            return vec![Finding::error("device", error.to_string(), advice)];
        }
    };
    let mut findings = Vec::new();
    for (gpu, number) in placement.devices().into_iter().zip(numbers) {
        let (free, total) = gpu.memory().unwrap_or((0, 0));
        let memory = format!("{} of {} MiB free", free >> 20, total >> 20);
        findings.push(Finding::ok("device", format!("cuda:{number}: {}, {memory}", gpu.name())));
        findings.extend(gpu.library_notes().iter().map(|note| library(note)));
    }
    findings.extend(memory_plan(source, placement));
    findings
}

/// A sentence of the device's about one of NVIDIA's libraries.
fn library(note: &str) -> Finding {
    if note.contains("own kernels") {
        return Finding::warning("libraries", note, "install it where ldconfig or LD_LIBRARY_PATH finds it");
    }
    Finding::ok("libraries", note)
}

/// How the model would be laid out in what is free now.
fn memory_plan(source: &ModelSource, placement: Placement) -> Option<Finding> {
    // A model that is still to be fetched has no plan yet.
    let folder = source.gpu_folder().ok().filter(|folder| folder.is_dir())?;
    let (dtype, precision) = source.computing().ok()?;
    let options = GpuOptions { placement, precision };
    Some(match CogVideoXPipeline::choose_plan(folder, dtype, &options) {
        Ok(plan) => Finding::ok("memory", plan.to_string()),
        Err(error) => Finding::error(
            "memory",
            error.to_string(),
            "end what else uses the GPU, or set model.dtype to int8 or fp8; a running server holds its own memory",
        ),
    })
}

fn cpu(source: &ModelSource) -> Finding {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let found = format!("cpu, {threads} threads");
    if source.notice().is_some() {
        return Finding::ok("device", found);
    }
    Finding::warning(
        "device",
        found,
        "right for trying, far too slow for a real model: set model.device to cuda",
    )
}

/// Whether the server's address is free, or its own.
pub(super) fn port(config: &Config) -> anyhow::Result<Finding> {
    let address = SocketAddr::new(config.server.address, config.server.port);
    let table = config.data_dir.join(QUEUE_FILE);
    let runs = table.is_file() && DatabaseFile::new(&table).is_held()?;
    Ok(match TcpListener::bind(address) {
        Ok(_) => Finding::ok("port", format!("{address} is free")),
        Err(_) if runs => {
            Finding::ok("port", format!("{address} is in use, and a server runs on this data folder"))
        }
        Err(error) => Finding::error(
            "port",
            format!("{address}: {error}"),
            "set server.port to another, or end what has it",
        ),
    })
}

/// Whether the clock goes on from where the data is.
pub(super) async fn clock(config: &Config) -> anyhow::Result<Finding> {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    if now_ms < EARLIEST_MS {
        return Ok(Finding::error("clock", "before 2026", "set it, and keep it by NTP"));
    }
    let table = config.data_dir.join(QUEUE_FILE);
    // What keeps the table from being read is told where the table is looked at.
    let newest_ms = if table.is_file() {
        DatabaseFile::new(&table).newest_event_ms().await.ok().flatten().unwrap_or(0)
    } else {
        0
    };
    Ok(match newest_ms - now_ms {
        ahead_ms if ahead_ms > CLOCK_SLACK_MS => Finding::warning(
            "clock",
            format!("{} s behind the newest event of the job table", ahead_ms / 1000),
            "it was set back: retention and timings will be off until it has caught up; keep it by NTP",
        ),
        _ => Finding::ok("clock", "ahead of all that is stored"),
    })
}
