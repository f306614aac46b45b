//! One forward of every form, and the tables that it adds or rotates by.

use candle_core::{DType, Device, Tensor};
use cogvideox::transformer::{CogVideoXTransformer3DModel, TransformerInput};

use crate::golden::{FORMS, Golden, assert_close, assert_relative};

fn load(golden: &Golden) -> CogVideoXTransformer3DModel {
    CogVideoXTransformer3DModel::load(&golden.dir.join("transformer"), golden.dtype, &Device::Cpu).unwrap()
}

/// The transformer's input as `make_golden.py` builds it: image latents behind the noise for image-to-video.
fn hidden_states(golden: &Golden) -> Tensor {
    let latents = golden.get("latents.init");
    if golden.has("tr.image_latents_input") {
        Tensor::cat(&[latents, golden.get("tr.image_latents_input")], 2).unwrap()
    } else {
        latents.clone()
    }
}

/// Calls `compare` with every golden forward and ours.
fn for_each_forward(golden: &Golden, compare: impl Fn(&str, &Tensor, &Tensor)) {
    let model = load(golden);
    let hidden_states = hidden_states(golden);
    let (_, frames, _, height, width) = hidden_states.dims5().unwrap();
    let positions = model.positions(frames, height, width).unwrap();
    for timestep in [999, 499] {
        for (name, embeds) in [("cond", "text.plain.embeds"), ("uncond", "text.empty.embeds")] {
            let key = format!("tr.{name}.t{timestep}");
            let input = TransformerInput {
                hidden_states: &hidden_states,
                encoder_hidden_states: golden.get(embeds),
                timestep,
                ofs: 2.0,
                positions: &positions,
                lora: &[],
            };
            let output = model.forward(&input, &mut || Ok(())).unwrap();
            compare(&key, &output, golden.get(&key));
        }
    }
}

#[test]
fn f32_forward_is_diffusers_forward_in_every_form() {
    for form in FORMS {
        let golden = Golden::open(form);
        for_each_forward(&golden, |key, found, expected| {
            assert_close(&format!("{form} {key}"), found, expected, 2e-5);
        });
    }
}

#[test]
fn half_forward_is_diffusers_half_forward() {
    for form in ["2b-fp16", "5b-bf16"] {
        let golden = Golden::open(form);
        for_each_forward(&golden, |key, found, expected| {
            assert_eq!(found.dtype(), golden.dtype);
            assert_relative(&format!("{form} {key}"), found, expected, 0.02);
        });
    }
}

#[test]
fn a_batch_is_its_elements_one_by_one() {
    let golden = Golden::open("5b");
    let model = load(&golden);
    let one = golden.get("latents.init");
    let (_, frames, _, height, width) = one.dims5().unwrap();
    let positions = model.positions(frames, height, width).unwrap();
    let hidden_states = Tensor::cat(&[one, one], 0).unwrap();
    let embeds = Tensor::cat(&[golden.get("text.empty.embeds"), golden.get("text.plain.embeds")], 0).unwrap();
    let input = TransformerInput {
        hidden_states: &hidden_states,
        encoder_hidden_states: &embeds,
        timestep: 499,
        ofs: 2.0,
        positions: &positions,
        lora: &[],
    };
    let output = model.forward(&input, &mut || Ok(())).unwrap();
    assert_close("uncond", &output.narrow(0, 0, 1).unwrap(), golden.get("tr.uncond.t499"), 2e-5);
    assert_close("cond", &output.narrow(0, 1, 1).unwrap(), golden.get("tr.cond.t499"), 2e-5);
}

#[test]
fn rotary_tables_are_diffusers_tables() {
    for form in ["5b", "5b-i2v", "1.5-5b"] {
        let golden = Golden::open(form);
        let (_, frames, _, height, width) = golden.get("latents.init").dims5().unwrap();
        let positions = load(&golden).positions(frames, height, width).unwrap();
        let (cos, sin) = positions.rotary().unwrap();
        let shape = golden.get("rope.cos").shape();
        assert_close(
            form,
            &Tensor::new(cos, &Device::Cpu).unwrap().reshape(shape).unwrap(),
            golden.get("rope.cos"),
            1e-6,
        );
        assert_close(
            form,
            &Tensor::new(sin, &Device::Cpu).unwrap().reshape(shape).unwrap(),
            golden.get("rope.sin"),
            1e-6,
        );
    }
}

#[test]
fn sincos_table_stands_behind_the_text_tokens() {
    let golden = Golden::open("2b");
    let (_, frames, _, height, width) = golden.get("latents.init").dims5().unwrap();
    let positions = load(&golden).positions(frames, height, width).unwrap();
    let table = positions.table().unwrap();
    let expected = golden.get("sincos.table");
    let video = expected.dim(1).unwrap();
    assert_close("sincos", &table.narrow(1, 226, video).unwrap(), expected, 1e-6);
    let text = table.narrow(1, 0, 226).unwrap();
    assert_close("text", &text, &Tensor::zeros(text.shape(), DType::F32, &Device::Cpu).unwrap(), 0.0);
}

#[test]
fn a_check_that_fails_ends_the_forward() {
    let golden = Golden::open("2b");
    let model = load(&golden);
    let hidden_states = hidden_states(&golden);
    let (_, frames, _, height, width) = hidden_states.dims5().unwrap();
    let positions = model.positions(frames, height, width).unwrap();
    let input = TransformerInput {
        hidden_states: &hidden_states,
        encoder_hidden_states: golden.get("text.plain.embeds"),
        timestep: 999,
        ofs: 2.0,
        positions: &positions,
        lora: &[],
    };
    let mut calls = 0;
    let result = model.forward(&input, &mut || {
        calls += 1;
        if calls == 2 { Err(cogvideox::Error::Interrupted) } else { Ok(()) }
    });
    assert!(matches!(result, Err(cogvideox::Error::Interrupted)));
    assert_eq!(calls, 2, "no block runs after the failed check");
}

#[test]
fn sizes_that_the_form_cannot_run_are_refused() {
    let i2v = load(&Golden::open("5b-i2v"));
    let message = i2v.positions(5, 10, 6).err().unwrap().to_string();
    assert!(message.contains("learned positions") && message.contains("48x80"), "{message}");
    // Trained on latents of 20x20, so 10 patches a side.
    let sliced = load(&Golden::open("1.5-5b"));
    assert!(sliced.positions(2, 20, 20).is_ok());
    assert!(sliced.positions(2, 22, 20).is_err());
    assert!(sliced.positions(3, 20, 20).is_err(), "an odd number of latent frames");
    assert!(load(&Golden::open("2b")).positions(1, 7, 6).is_err(), "rows that do not divide into patches");
}
