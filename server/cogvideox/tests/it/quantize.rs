//! Folders whose large weights are stored in 8 bits: the same numbers as their origin gives when it is loaded so.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use cogvideox::CogVideoXPipeline;
use cogvideox::gpu::{GpuOptions, GpuTransformer, MemoryPlan, Placement, Precision};
use cogvideox::inspection::inspect;
use cogvideox::quantize::{EightBitDtype, Quantization};
use cogvideox::transformer::CogVideoXTransformer3DModel;

use crate::golden::{Golden, assert_close, assert_relative};
use crate::gpu::{emulator, smallest};
use crate::lora::{input, size};

fn quantised(model: &Path, dtype: EightBitDtype) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    Quantization { model: model.to_owned(), dtype }.write(out.path(), &|_, _| ()).unwrap();
    out
}

/// How one forward of the golden's input is computed.
#[derive(Clone, Copy)]
struct Way {
    dtype: DType,
    precision: Precision,
    plan: MemoryPlan,
}

/// With the weights of `model`, on the emulated device.
fn forward(golden: &Golden, model: &Path, way: Way) -> Tensor {
    let dir = model.join("transformer");
    let transformer = GpuTransformer::open(&dir, way.dtype, &emulator(), &way.plan, way.precision).unwrap();
    let [frames, height, width] = size(golden);
    let positions = transformer.positions(frames, height, width).unwrap();
    let mut input = input(golden, &positions, &[]);
    let (states, embeds) = (input.hidden_states, input.encoder_hidden_states);
    let (states, embeds) = (states.to_dtype(way.dtype).unwrap(), embeds.to_dtype(way.dtype).unwrap());
    (input.hidden_states, input.encoder_hidden_states) = (&states, &embeds);
    transformer.forward(&input, &mut || Ok(())).unwrap()
}

#[test]
fn stored_weights_are_those_that_loading_makes() {
    let resident = MemoryPlan::RESIDENT;
    for (form, dtype, stored, ways) in [
        (
            "2b",
            DType::F16,
            EightBitDtype::Int8,
            [(Precision::Int8, resident), (Precision::Int8WeightOnly, resident)],
        ),
        ("5b", DType::BF16, EightBitDtype::Fp8, [(Precision::Fp8, resident), (Precision::Fp8, smallest())]),
    ] {
        let golden = Golden::open(form);
        let folder = quantised(&golden.dir, stored);
        for (precision, plan) in ways {
            let way = Way { dtype, precision, plan };
            let found = forward(&golden, folder.path(), way);
            let expected = forward(&golden, &golden.dir, way);
            assert_close(&format!("{form} {precision:?}, {plan}"), &found, &expected, 0.0);
        }
    }
}

#[test]
fn without_a_precision_of_8_bits_they_are_widened() {
    for (form, stored) in [("2b", EightBitDtype::Int8), ("5b", EightBitDtype::Fp8)] {
        let golden = Golden::open(form);
        let folder = quantised(&golden.dir, stored);
        let [on_cpu, exact] = [folder.path(), &golden.dir].map(|model| {
            let dir = model.join("transformer");
            let model = CogVideoXTransformer3DModel::load(&dir, DType::F32, &Device::Cpu).unwrap();
            let [frames, height, width] = size(&golden);
            let positions = model.positions(frames, height, width).unwrap();
            model.forward(&input(&golden, &positions, &[]), &mut || Ok(())).unwrap()
        });
        assert_relative(&format!("{form} {}", stored.name()), &on_cpu, &exact, 0.05);
        let way = Way { dtype: DType::F32, precision: Precision::Dense, plan: MemoryPlan::RESIDENT };
        assert_close(form, &forward(&golden, folder.path(), way), &on_cpu, 3e-4);
    }
}

fn bytes(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn the_folder_is_whole_and_what_stays_high_is_as_it_was() {
    let golden = Golden::open("5b");
    let folder = quantised(&golden.dir, EightBitDtype::Int8);
    let found = inspect(folder.path());
    assert!(found.faults.is_empty(), "{:?}", found.faults);
    let precisions: Vec<Precision> = found.memory.iter().map(|mode| mode.precision).collect();
    assert!(precisions.contains(&Precision::Int8) && !precisions.contains(&Precision::Fp8), "{precisions:?}");
    let transformer = found.components.iter().find(|component| component.name == "transformer").unwrap();
    assert_eq!(transformer.eight_bit, Some(EightBitDtype::Int8));
    assert!(bytes(&folder.path().join("transformer")) < bytes(&golden.dir.join("transformer")) * 3 / 4);
    let of = |model: &Path| {
        let files = fs::read_dir(model.join("transformer")).unwrap().map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
            .flat_map(|path| fs::read(&path).map(|bytes| headers(&bytes)).unwrap())
            .collect::<HashMap<String, String>>()
    };
    let (stored, origin) = (of(folder.path()), of(&golden.dir));
    for (name, dtype) in &origin {
        let large = name.starts_with("transformer_blocks") && name.ends_with("weight");
        let large = large && (name.contains(".ff.") || name.contains(".to_"));
        assert_eq!(stored[name], if large { "I8" } else { dtype.as_str() }, "{name}");
        assert_eq!(stored.contains_key(&format!("{name}_scale")), large, "{name}");
    }
}

/// Dtypes by name.
fn headers(file: &[u8]) -> Vec<(String, String)> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    tensors.map(|(name, info)| (name.clone(), info["dtype"].as_str().unwrap().to_owned())).collect()
}

/// A golden's folder, or what was made of it, with one tensor of its single transformer file changed.
fn edited(model: &Path, change: impl FnOnce(&mut HashMap<String, Tensor>)) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for component in ["", "scheduler", "text_encoder", "tokenizer", "transformer", "vae"] {
        fs::create_dir_all(dir.path().join(component)).unwrap();
        for entry in fs::read_dir(model.join(component)).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_file() {
                fs::copy(&entry, dir.path().join(component).join(entry.file_name().unwrap())).unwrap();
            }
        }
    }
    let path = dir.path().join("transformer/diffusion_pytorch_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let model = dir.path().to_owned();
    (dir, model)
}

const WEIGHT: &str = "transformer_blocks.1.ff.net.2.weight";
const BIAS: &str = "transformer_blocks.1.ff.net.2.bias";

#[test]
fn what_cannot_be_quantised_is_refused_by_its_name_before_anything_is_written() {
    let golden = Golden::open("2b");
    let refused = |model: &Path, dtype: EightBitDtype| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let message =
            Quantization { model: model.to_owned(), dtype }.write(&out, &|_, _| ()).unwrap_err().to_string();
        assert!(!out.exists(), "{message}");
        message
    };
    let (_dir, infinite) = edited(&golden.dir, |tensors| {
        let dims = tensors[WEIGHT].dims().to_vec();
        let zeros = Tensor::zeros(dims.clone(), DType::F32, &Device::Cpu).unwrap();
        // In the middle of the range of f32, and beyond that of f16.
        let row = Tensor::full(1e6f32, (1, dims[1]), &Device::Cpu).unwrap();
        let rows = [zeros.narrow(0, 0, 3).unwrap(), row, zeros.narrow(0, 4, dims[0] - 4).unwrap()];
        tensors.insert(WEIGHT.to_owned(), Tensor::cat(&rows, 0).unwrap());
    });
    let message = refused(&infinite, EightBitDtype::Fp8);
    assert!(message.contains(&format!("tensor {WEIGHT} has an infinity or a NaN in row 3")), "{message}");

    let folder = quantised(&golden.dir, EightBitDtype::Int8);
    let message = refused(folder.path(), EightBitDtype::Fp8);
    assert!(
        message.contains("transformer: expected weights in F32, F16 or BF16, found int8 already"),
        "{message}"
    );

    let (_dir, incomplete) = edited(&golden.dir, |tensors| drop(tensors.remove(BIAS)));
    let message = refused(&incomplete, EightBitDtype::Int8);
    assert!(message.contains(&format!("tensor {BIAS} is missing")), "{message}");
}

#[test]
fn scales_that_are_missing_or_not_the_rows_own_are_found_by_looking_and_by_loading() {
    let folder = quantised(&Golden::open("2b").dir, EightBitDtype::Int8);
    let scale = format!("{WEIGHT}_scale");
    // candle reads no signed bytes: the file is edited in its header.
    let path = folder.path().join("transformer/diffusion_pytorch_model.safetensors");
    let whole = fs::read(&path).unwrap();
    for (from, to, part) in [
        (format!("\"{scale}\""), format!("\"{WEIGHT}_scala\""), format!("tensor {scale} is missing")),
        (
            format!("\"{scale}\":{{\"dtype\":\"F32\""),
            format!("\"{scale}\":{{\"dtype\":\"I32\""),
            format!("tensor {scale} is stored as I32, expected F32"),
        ),
    ] {
        let at = whole.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut changed = whole.clone();
        changed[at..at + from.len()].copy_from_slice(to.as_bytes());
        fs::write(&path, changed).unwrap();
        let faults: Vec<String> = inspect(folder.path()).faults.iter().map(ToString::to_string).collect();
        assert!(faults.iter().any(|fault| fault.contains(&part)), "{faults:?}");
        let dir = folder.path().join("transformer");
        let loaded = CogVideoXTransformer3DModel::load(&dir, DType::F32, &Device::Cpu);
        let message = loaded.err().unwrap().to_string();
        assert!(message.contains(&part), "{message}");
    }
}

#[test]
fn what_is_stored_is_known_before_loading() {
    let origin = Golden::open("2b").dir;
    assert_eq!(CogVideoXPipeline::stored_precision(&origin).unwrap(), Precision::Dense);
    for (dtype, precision) in [(EightBitDtype::Int8, Precision::Int8), (EightBitDtype::Fp8, Precision::Fp8)] {
        let folder = quantised(&origin, dtype);
        assert_eq!(CogVideoXPipeline::stored_precision(folder.path()).unwrap(), precision);
    }
}

#[test]
fn another_precision_than_the_stored_one_is_refused_before_loading() {
    let folder = quantised(&Golden::open("2b").dir, EightBitDtype::Int8);
    let options = GpuOptions { placement: Placement::single(emulator()), precision: Precision::Fp8 };
    let loaded = CogVideoXPipeline::load_on_gpu(folder.path(), DType::F16, &options, MemoryPlan::RESIDENT);
    let message = loaded.err().unwrap().to_string();
    let expected = "dtype: the weights are stored in int8: expected int8 or a wider one, found fp8";
    assert_eq!(message, expected);
}
