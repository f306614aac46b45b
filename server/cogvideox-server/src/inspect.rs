//! `cogvideox-server inspect`: what a model's folder, an adapter's file or a checkpoint of SAT is, what it will need, and
//! all that is wrong with it. The looking is the model crate's; this shows it.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use cogvideox::ModelForm;
use cogvideox::convert::{SatComponent, recognise};
use cogvideox::gpu::Precision;
use cogvideox::inspection::{Inspection, inspect};
use cogvideox::lora::LoraAdapter;
use serde_json::{Value, json};

/// What to look at.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A model folder in diffusers' layout, an adapter's file, or a checkpoint of SAT.
    path: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Inspect {
    /// Looks and prints.
    ///
    /// # Errors
    /// How many faults a folder has that cannot be served; a file that is not known.
    pub(crate) fn run(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let metadata = std::fs::metadata(&self.path)
            .with_context(|| format!("{}: cannot be looked at", self.path.display()))?;
        if metadata.is_dir() { self.folder(out) } else { self.file(out) }
    }

    fn file(&self, out: &mut impl Write) -> anyhow::Result<()> {
        if let Some(component) = recognise(&self.path)? {
            return self.sat(component, out);
        }
        let adapter = LoraAdapter::load(&self.path).context("not an adapter that can be applied")?;
        let (layers, ranks) = (adapter.layers(), adapter.ranks());
        if self.json {
            let value = json!({ "kind": "adapter", "path": self.path, "layers": layers, "ranks": ranks });
            writeln!(out, "{value}")?;
        } else {
            let ranks: Vec<String> = ranks.iter().map(usize::to_string).collect();
            writeln!(out, "LoRA adapter: {layers} layers, rank {}", ranks.join(", "))?;
            writeln!(out, "Use it with generate --lora {}", self.path.display())?;
        }
        Ok(())
    }

    fn sat(&self, component: SatComponent, out: &mut impl Write) -> anyhow::Result<()> {
        let (name, option) = match component {
            SatComponent::Transformer => ("transformer", "--transformer"),
            SatComponent::Vae => ("VAE", "--vae"),
        };
        if self.json {
            let value = json!({ "kind": "sat", "path": self.path, "component": name.to_lowercase() });
            writeln!(out, "{value}")?;
        } else {
            writeln!(out, "SAT checkpoint: {name}")?;
            writeln!(out, "Make a model folder of it with convert {option} {}", self.path.display())?;
        }
        Ok(())
    }

    fn folder(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let found = inspect(&self.path);
        if self.json {
            writeln!(out, "{}", to_json(&self.path, &found))?;
        } else {
            print(&found, out)?;
        }
        match found.faults.len() {
            0 => Ok(()),
            count => bail!("{}: cannot be served, {count} faults", self.path.display()),
        }
    }
}

fn precision_name(precision: Precision, form: Option<ModelForm>) -> String {
    match precision {
        Precision::Dense => form.map_or("16 bits", |form| form.half_dtype().as_str()).to_owned(),
        Precision::Int8 => "int8".to_owned(),
        Precision::Int8WeightOnly => "int8-weight-only".to_owned(),
        Precision::Fp8 => "fp8".to_owned(),
    }
}

fn to_json(path: &Path, found: &Inspection) -> Value {
    let components = found.components.iter().map(|component| {
        json!({
            "name": component.name, "files": component.files, "bytes": component.bytes,
            "tensors": component.tensors, "parameters": component.parameters,
            "bytes_of_dtype": component.bytes_of_dtype,
        })
    });
    let memory = found.memory.iter().map(|mode| {
        json!({
            "dtype": precision_name(mode.precision, found.form), "mode": mode.name,
            "plan": mode.plan.to_string(), "peak_bytes": mode.peak_bytes,
        })
    });
    json!({
        "kind": "model", "path": path,
        "form": found.form.map(ModelForm::name), "licence": found.form.map(ModelForm::licence),
        "components": components.collect::<Vec<_>>(), "memory": memory.collect::<Vec<_>>(),
        "faults": found.faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn print(found: &Inspection, out: &mut impl Write) -> anyhow::Result<()> {
    match found.form {
        Some(form) => {
            writeln!(out, "form      {}", form.name())?;
            writeln!(out, "licence   {}", form.licence())?;
        }
        None => writeln!(out, "form      not known: see the faults")?,
    }
    writeln!(
        out,
        "\n{:<14} {:>5} {:>8} {:>15} {:>11}  dtypes",
        "component", "files", "tensors", "parameters", "size"
    )?;
    for component in &found.components {
        let dtypes: Vec<&str> = component.bytes_of_dtype.keys().map(String::as_str).collect();
        writeln!(
            out,
            "{:<14} {:>5} {:>8} {:>15} {:>11}  {}",
            component.name,
            component.files,
            component.tensors,
            component.parameters,
            size(component.bytes),
            dtypes.join(", ")
        )?;
    }
    if !found.memory.is_empty() {
        writeln!(out, "\nGPU memory for the model's own video (counted, and about 512 MiB for the driver)")?;
        writeln!(out, "{:<8} {:<10} {:>10}  plan", "dtype", "mode", "peak")?;
    }
    for mode in &found.memory {
        let (dtype, peak) = (precision_name(mode.precision, found.form), size(mode.peak_bytes as u64));
        writeln!(out, "{dtype:<8} {:<10} {peak:>10}  {}", mode.name, mode.plan)?;
    }
    for fault in &found.faults {
        writeln!(out, "\nfault: {fault}")?;
    }
    Ok(())
}

/// In MiB, or in KiB what is less than one.
fn size(bytes: u64) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes.div_ceil(1 << 10)) }
}
