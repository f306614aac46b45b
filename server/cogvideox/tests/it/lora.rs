//! Adapters against diffusers' `set_adapters` and `fuse_lora` (`tests/golden/lora`, by `reference/make_lora.py`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use cogvideox::CogVideoXPipeline;
use cogvideox::lora::{LoraAdapter, LoraChoice};
use cogvideox::transformer::{CogVideoXTransformer3DModel, Positions, TransformerInput};

use crate::checkpoint::{break_off, params, run};
use crate::golden::{Golden, assert_close};

pub(crate) fn file(form: &str, name: &str) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lora");
    golden.join(form).join(format!("{name}.safetensors"))
}

pub(crate) fn choice(path: &Path, scale: f64) -> LoraChoice {
    LoraChoice { adapter: Arc::new(LoraAdapter::load(path).unwrap()), scale }
}

/// The golden's input.
pub(crate) fn input<'a>(
    golden: &'a Golden,
    positions: &'a Positions,
    lora: &'a [LoraChoice],
) -> TransformerInput<'a> {
    TransformerInput {
        hidden_states: golden.get("latents.init"),
        encoder_hidden_states: golden.get("text.plain.embeds"),
        timestep: 499,
        ofs: 2.0,
        positions,
        lora,
    }
}

/// Frames, height and width of the golden's input.
pub(crate) fn size(golden: &Golden) -> [usize; 3] {
    let (_, frames, _, height, width) = golden.get("latents.init").dims5().unwrap();
    [frames, height, width]
}

/// Both of a form's adapters at the golden's scales.
pub(crate) fn both(form: &str) -> [LoraChoice; 2] {
    [choice(&file(form, "motion"), 0.8), choice(&file(form, "style"), -0.5)]
}

/// One forward of the golden's input.
fn forward(golden: &Golden, model: &CogVideoXTransformer3DModel, lora: &[LoraChoice]) -> Tensor {
    let [frames, height, width] = size(golden);
    let positions = model.positions(frames, height, width).unwrap();
    model.forward(&input(golden, &positions, lora), &mut || Ok(())).unwrap()
}

fn load(form: &str) -> (Golden, CogVideoXTransformer3DModel) {
    let golden = Golden::open(form);
    let dir = golden.dir.join("transformer");
    let model = CogVideoXTransformer3DModel::load(&dir, DType::F32, &Device::Cpu).unwrap();
    (golden, model)
}

/// Writes the tensors of `file` under other names to a file of no metadata.
fn rewritten(from: &Path, to: &Path, rename: impl Fn(&str) -> String) {
    let tensors: HashMap<String, Tensor> = candle_core::safetensors::load(from, &Device::Cpu)
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| (rename(&name), tensor))
        .collect();
    candle_core::safetensors::save(&tensors, to).unwrap();
}

#[test]
fn two_adapters_at_once_are_diffusers_and_leave_the_model_as_it_was() {
    for form in ["2b", "5b"] {
        let (golden, model) = load(form);
        let found = forward(&golden, &model, &both(form));
        let expected = candle_core::safetensors::load(file(form, "golden"), &Device::Cpu).unwrap();
        for way in ["fuse_lora", "set_adapters"] {
            assert_close(&format!("{form} {way}"), &found, &expected[way], 1e-4);
        }
        assert_close(form, &forward(&golden, &model, &[]), golden.get("tr.cond.t499"), 2e-5);
    }
}

#[test]
fn a_file_without_alpha_acts_by_its_kind() {
    let (golden, model) = load("2b");
    let dir = tempfile::tempdir().unwrap();
    let (stripped, sat) = (dir.path().join("stripped.safetensors"), dir.path().join("sat.safetensors"));
    let motion = file("2b", "motion");
    rewritten(&motion, &stripped, str::to_owned);
    rewritten(&motion, &sat, |name| name.strip_prefix("transformer.").unwrap().to_owned());
    // Rank 2 and alpha 1: half the strength that diffusers gives the file without its metadata.
    let expected = forward(&golden, &model, &[choice(&motion, 1.0)]);
    assert_close("diffusers", &forward(&golden, &model, &[choice(&stripped, 0.5)]), &expected, 1e-6);
    assert_close("SAT", &forward(&golden, &model, &[choice(&sat, 1.0)]), &expected, 1e-6);
}

#[test]
fn what_cannot_be_applied_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.safetensors");
    let refused = |rename: &dyn Fn(&str) -> String| {
        rewritten(&file("2b", "style"), &path, rename);
        LoraAdapter::load(&path).unwrap_err().to_string()
    };
    let message = refused(&|name| name.replace("attn1.to_q", "norm1.linear"));
    assert!(message.contains("transformer_blocks.0.norm1.linear is not one that adapters"), "{message}");
    let message = refused(&|name| name.replace("to_k.lora_A", "to_k.hada_w1_a"));
    assert!(message.contains("to_k.hada_w1_a.weight is none of an adapter"), "{message}");
    let message = refused(&|name| name.replace("0.attn1.to_k.lora_A", "7.attn1.to_k.lora_A"));
    assert!(message.contains("expected both lora_A and lora_B"), "{message}");

    rewritten(&file("2b", "style"), &path, |name| name.replace("blocks.1.", "blocks.9."));
    let (_, model) = load("2b");
    let message = LoraAdapter::load(&path).unwrap().check(model.config()).unwrap_err().to_string();
    assert!(message.contains("layer transformer.transformer_blocks.9.attn1"), "{message}");
    std::fs::write(&path, b"not an adapter").unwrap();
    let message = LoraAdapter::load(&path).unwrap_err().to_string();
    assert!(message.contains("not a whole safetensors file"), "{message}");
}

#[test]
fn a_run_does_not_go_on_with_another_adapter_or_scale() {
    let golden = Golden::open("5b");
    let pipeline = CogVideoXPipeline::load(&golden.dir, DType::F32, &Device::Cpu).unwrap();
    let with = |lora| {
        let mut params = params(&pipeline, cogvideox::scheduler::SchedulerKind::Ddim);
        params.lora = lora;
        params
    };
    let motion = || vec![choice(&file("5b", "motion"), 0.8)];
    let bytes = break_off(&pipeline, &with(motion()), 1);
    let resumed = run(&pipeline, &with(motion()), Some(&bytes)).unwrap();
    assert_eq!(resumed.rgb, run(&pipeline, &with(motion()), None).unwrap().rgb);
    assert_ne!(resumed.rgb, run(&pipeline, &with(Vec::new()), None).unwrap().rgb);
    for other in
        [Vec::new(), vec![choice(&file("5b", "style"), 0.8)], vec![choice(&file("5b", "motion"), 0.7)]]
    {
        let message = run(&pipeline, &with(other), Some(&bytes)).unwrap_err().to_string();
        assert!(message.contains("it belongs to another run: lora"), "{message}");
    }
    for scale in [f64::NAN, 11.0] {
        let lora = vec![choice(&file("5b", "motion"), scale)];
        let message = run(&pipeline, &with(lora), None).unwrap_err().to_string();
        assert!(message.starts_with("lora: expected a scale"), "{message}");
    }
}
