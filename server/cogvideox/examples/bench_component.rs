//! Our side of `benches/against_diffusers.py`: loads a component, runs it, prints its times as JSON and writes its
//! output.
//!
//! `bench_component COMPONENT FOLDER INPUTS.safetensors OUTPUT.safetensors REPEATS`

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use cogvideox::Result;
use cogvideox::transformer::{CogVideoXTransformer3DModel, TransformerInput};
use cogvideox::vae::AutoencoderKlCogVideoX;

/// A loaded component's timed call.
type Run = Box<dyn Fn() -> Result<Tensor>>;

fn vae(folder: &Path, inputs: &HashMap<String, Tensor>) -> Result<Run> {
    let vae = AutoencoderKlCogVideoX::load(folder, DType::F32, &Device::Cpu)?;
    let latents = inputs["latents"].clone();
    Ok(Box::new(move || vae.decode(&latents, None, &mut |_| Ok(()))))
}

fn transformer(folder: &Path, inputs: &HashMap<String, Tensor>) -> Result<Run> {
    let transformer = CogVideoXTransformer3DModel::load(folder, DType::F32, &Device::Cpu)?;
    let (hidden_states, prompt_embeds) =
        (inputs["hidden_states"].clone(), inputs["encoder_hidden_states"].clone());
    let (_, frames, _, height, width) = hidden_states.dims5()?;
    let positions = transformer.positions(frames, height, width)?;
    Ok(Box::new(move || {
        let input = TransformerInput {
            hidden_states: &hidden_states,
            encoder_hidden_states: &prompt_embeds,
            timestep: 500,
            ofs: 2.0,
            positions: &positions,
            lora: &[],
        };
        transformer.forward(&input, &mut || Ok(()))
    }))
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [component, folder, inputs, output_path, repeats] = arguments.as_slice() else {
        return Err("expected COMPONENT FOLDER INPUTS OUTPUT REPEATS".into());
    };
    let inputs = candle_core::safetensors::load(inputs, &Device::Cpu)?;
    let run = match component.as_str() {
        "vae" => vae(Path::new(folder), &inputs)?,
        "transformer" => transformer(Path::new(folder), &inputs)?,
        other => return Err(format!("unknown component {other}").into()),
    };
    let mut seconds = Vec::new();
    let mut output = None;
    for _ in 0..repeats.parse::<usize>()? {
        drop(output.take());
        let start = Instant::now();
        output = Some(run()?);
        seconds.push(start.elapsed().as_secs_f64());
    }
    let output = output.ok_or("expected at least one repeat")?;
    candle_core::safetensors::save(&HashMap::from([("output", output)]), output_path)?;
    let mut stdout = std::io::stdout();
    serde_json::to_writer(&mut stdout, &serde_json::json!({ "seconds": seconds }))?;
    std::io::Write::write_all(&mut stdout, b"\n")?;
    Ok(())
}
