//! Times one component of a pipeline on given inputs, for `benches/against_diffusers.py`.
//!
//! `bench_component vae FOLDER INPUTS OUTPUTS REPEATS` loads the component, runs it REPEATS times on the tensors of
//! the safetensors file INPUTS, writes the last result to OUTPUTS and prints the seconds of each run as JSON.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor, safetensors};
use cogvideox::vae::AutoencoderKlCogVideoX;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Runs the component once.
type Run = Box<dyn Fn() -> Outcome<Tensor>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [component, folder, inputs, outputs, repeats] = arguments.as_slice() else {
        return Err("usage: bench_component COMPONENT FOLDER INPUTS OUTPUTS REPEATS".into());
    };
    let inputs = safetensors::load(inputs, &Device::Cpu)?;
    let run = match component.as_str() {
        "vae" => vae(Path::new(folder), inputs)?,
        other => return Err(format!("component: expected vae, found {other:?}").into()),
    };
    let mut seconds = Vec::new();
    let mut output = None;
    for _ in 0..repeats.parse::<usize>()? {
        // Not beside the next one, which would count twice in the memory.
        drop(output.take());
        let start = Instant::now();
        output = Some(run()?);
        seconds.push(start.elapsed().as_secs_f64());
    }
    let output = output.ok_or("repeats: expected at least 1, found 0")?;
    safetensors::save(&HashMap::from([("output", output)]), outputs)?;
    writeln!(std::io::stdout(), "{}", serde_json::json!({ "seconds": seconds }))?;
    Ok(())
}

fn vae(folder: &Path, inputs: HashMap<String, Tensor>) -> Outcome<Run> {
    let vae = AutoencoderKlCogVideoX::load(folder, DType::F32, &Device::Cpu)?;
    Ok(Box::new(move || Ok(vae.decode(&inputs["latents"], None, &mut |_| Ok(()))?)))
}
