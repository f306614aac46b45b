//! Runs that are broken off and go on from a checkpoint: the same video, byte for byte, or a refusal.

use std::ops::ControlFlow;

use candle_core::{DType, Device};
use cogvideox::image::RgbImage;
use cogvideox::scheduler::SchedulerKind;
use cogvideox::{Checkpoint, CogVideoXPipeline, Error, Event, GenerationParams, VideoFrames};
use sha2::{Digest, Sha256};

use crate::golden::Golden;

const STEPS: usize = 4;

fn load(form: &str, dtype: DType) -> CogVideoXPipeline {
    CogVideoXPipeline::load(&Golden::open(form).dir, dtype, &Device::Cpu).unwrap()
}

/// A run that draws all that a run can draw: the image's posterior, initial latents and, with DPM, noise.
pub(crate) fn params(pipeline: &CogVideoXPipeline, scheduler: SchedulerKind) -> GenerationParams {
    let image = pipeline.description().form.takes_image().then(|| image(0));
    GenerationParams {
        prompt: "A panda plays the guitar".to_owned(),
        negative_prompt: "blurred".to_owned(),
        image,
        height: 64,
        width: 48,
        num_frames: 17,
        num_inference_steps: STEPS,
        guidance_scale: 6.0,
        use_dynamic_cfg: true,
        scheduler,
        seed: 42,
        vae_tiling: false,
        initial_latents: None,
        lora: Vec::new(),
    }
}

fn image(first: u8) -> RgbImage {
    let mut rgb: Vec<u8> = (0..64 * 48 * 3).map(|i| (i * 7 % 251) as u8).collect();
    rgb[0] = first;
    RgbImage::new(rgb, 48, 64).unwrap()
}

pub(crate) fn run(
    pipeline: &CogVideoXPipeline,
    params: &GenerationParams,
    resume: Option<&[u8]>,
) -> cogvideox::Result<VideoFrames> {
    let checkpoint = resume.map(|bytes| Checkpoint::from_bytes(bytes).unwrap());
    pipeline.generate(params, checkpoint.as_ref(), &mut |_| ControlFlow::Continue(()))
}

/// Runs up to the end of step `at`, takes the checkpoint and breaks off.
pub(crate) fn break_off(pipeline: &CogVideoXPipeline, params: &GenerationParams, at: usize) -> Vec<u8> {
    let mut bytes = None;
    let result = pipeline.generate(params, None, &mut |event| match event {
        Event::StepEnd { step, state, .. } if step == at => {
            bytes = Some(state.checkpoint().unwrap());
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(result, Err(Error::Interrupted)));
    bytes.unwrap()
}

#[track_caller]
fn assert_resumes(form: &str, dtype: DType, scheduler: SchedulerKind) {
    let pipeline = load(form, dtype);
    let params = params(&pipeline, scheduler);
    let undisturbed = run(&pipeline, &params, None).unwrap().rgb;
    for step in 1..=STEPS {
        let bytes = break_off(&pipeline, &params, step);
        let resumed = run(&load(form, dtype), &params, Some(&bytes)).unwrap().rgb;
        assert!(resumed == undisturbed, "{form} {dtype:?} {scheduler}: another video from step {step}");
    }
}

#[test]
fn text_to_video_goes_on_from_every_step_in_every_dtype_with_every_solver() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for scheduler in [SchedulerKind::Ddim, SchedulerKind::Dpm] {
            assert_resumes("2b", dtype, scheduler);
        }
    }
}

#[test]
fn image_to_video_goes_on_from_every_step() {
    for form in ["5b-i2v", "1.5-5b-i2v"] {
        for scheduler in [SchedulerKind::Ddim, SchedulerKind::Dpm] {
            assert_resumes(form, DType::F32, scheduler);
        }
    }
    assert_resumes("5b-i2v", DType::BF16, SchedulerKind::Dpm);
}

#[test]
fn a_resumed_run_can_be_broken_off_again() {
    let pipeline = load("5b", DType::F32);
    let params = params(&pipeline, SchedulerKind::Dpm);
    let undisturbed = run(&pipeline, &params, None).unwrap().rgb;
    let mut bytes = break_off(&pipeline, &params, 1);
    for at in 2..=STEPS {
        let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
        assert_eq!(checkpoint.step(), at - 1);
        let mut next = None;
        let result = pipeline.generate(&params, Some(&checkpoint), &mut |event| match event {
            Event::StepEnd { step, state, .. } => {
                assert_eq!(step, at);
                next = Some(state.checkpoint().unwrap());
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        assert!(matches!(result, Err(Error::Interrupted)));
        bytes = next.unwrap();
        assert!(bytes == break_off(&pipeline, &params, at), "step {at}: another checkpoint");
    }
    assert!(run(&pipeline, &params, Some(&bytes)).unwrap().rgb == undisturbed);
}

/// What the caller is told of a run: `P`rompt, `L`atents, `S`tep, `V`AE, with its numbers.
fn told(pipeline: &CogVideoXPipeline, params: &GenerationParams, bytes: &[u8]) -> Vec<String> {
    let mut told = Vec::new();
    let checkpoint = Checkpoint::from_bytes(bytes).unwrap();
    pipeline
        .generate(params, Some(&checkpoint), &mut |event| {
            match event {
                Event::TextEncode => told.push("P".to_owned()),
                Event::LatentsPrepared { timesteps, step, .. } => {
                    told.push(format!("L{step}/{}", timesteps.len()));
                }
                Event::StepEnd { step, steps, .. } => told.push(format!("S{step}/{steps}")),
                Event::VaeDecode { fraction: 0.0 } => told.push("V".to_owned()),
                Event::PromptEncoded { .. } | Event::VaeDecode { .. } | Event::CheckPoint => {}
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    told
}

#[test]
fn a_resumed_run_tells_where_it_goes_on_and_repeats_nothing() {
    let pipeline = load("2b", DType::F32);
    let params = params(&pipeline, SchedulerKind::Dpm);
    let bytes = break_off(&pipeline, &params, 2);
    assert_eq!(told(&pipeline, &params, &bytes), ["P", "L2/4", "S3/4", "S4/4", "V"]);
    // After the last step only the decoding is left.
    let bytes = break_off(&pipeline, &params, STEPS);
    assert_eq!(told(&pipeline, &params, &bytes), ["L4/4", "V"]);
}

#[test]
fn a_run_that_ran_out_of_memory_may_go_on_in_tiles() {
    let pipeline = load("2b", DType::F32);
    let whole = params(&pipeline, SchedulerKind::Ddim);
    let tiled = GenerationParams { vae_tiling: true, ..whole.clone() };
    let bytes = break_off(&pipeline, &whole, 3);
    let expected = run(&pipeline, &tiled, None).unwrap().rgb;
    assert!(run(&pipeline, &tiled, Some(&bytes)).unwrap().rgb == expected);
}

#[track_caller]
fn assert_damaged(bytes: &[u8], parts: &[&str]) {
    match Checkpoint::from_bytes(bytes) {
        Err(error @ Error::Checkpoint(_)) => {
            let message = error.to_string();
            for part in parts {
                assert!(message.contains(part), "{message:?} does not say {part:?}");
            }
        }
        other => panic!("expected a refusal, found {:?}", other.map(|checkpoint| checkpoint.step())),
    }
}

#[test]
fn truncated_and_altered_files_are_refused() {
    let pipeline = load("2b", DType::BF16);
    let params = params(&pipeline, SchedulerKind::Dpm);
    let bytes = break_off(&pipeline, &params, 2);
    let len = bytes.len();
    for length in (0..64).chain((64..len).step_by(len / 200)).chain(len - 64..len) {
        assert_damaged(&bytes[..length], &["expected", "found"]);
    }
    for place in (0..64).chain((64..len).step_by(len / 200)).chain(len - 64..len) {
        let mut altered = bytes.clone();
        altered[place] ^= 1 << (place % 8);
        assert_damaged(&altered, &["SHA-256", "expected", "found"]);
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_damaged(&longer, &["SHA-256"]);
    Checkpoint::from_bytes(&bytes).unwrap();
}

/// With the digest that belongs to it.
fn signed(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.extend_from_slice(&Sha256::digest(content));
    bytes
}

/// A checkpoint in which `to` is written over `from` and what follows it, with the digest that belongs to it.
fn edited(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert!(from.len() <= to.len());
    let mut content = bytes[..bytes.len() - 32].to_vec();
    let place = content.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    content[place..place + to.len()].copy_from_slice(to.as_bytes());
    signed(&content)
}

#[test]
fn foreign_files_and_other_versions_are_refused_even_if_whole() {
    let pipeline = load("2b", DType::F32);
    let params = params(&pipeline, SchedulerKind::Dpm);
    let bytes = break_off(&pipeline, &params, 2);
    assert!(edited(&bytes, "step", "step") == bytes, "signed as the pipeline signs");

    assert_damaged(&edited(&bytes, r#"version\":1"#, r#"version\":2"#), &["expected version 1", "found 2"]);
    assert_damaged(
        &edited(&bytes, "cogvideox-checkpoint", "something-checkpoint"),
        &["no cogvideox-checkpoint"],
    );
    assert_damaged(&edited(&bytes, r#"\"version"#, r#"\"vision_"#), &["missing field", "version"]);
    assert_damaged(&edited(&bytes, r#"\"step\":2"#, r#"\"stop\":2"#), &["missing field", "step"]);
    assert_damaged(&edited(&bytes, r#"\"step\":2"#, r#"\"step\":x"#), &["not one of"]);
    assert_damaged(&edited(&bytes, r#""latents""#, r#""latentz""#), &["latents"]);
    assert_damaged(&edited(&bytes, r#""U32""#, r#""I32""#), &["not one of"]);
    assert_damaged(&edited(&bytes, r#"_used\":"#, r#"_used\":999"#), &["expected", "999"]);
    assert_damaged(&signed(b""), &["not one of"]);
    assert_damaged(&signed(b"PK\x03\x04 a zip file"), &["not one of"]);
    let weights = std::fs::read(Golden::open("2b").dir.join("vae/diffusion_pytorch_model.safetensors"));
    assert_damaged(&weights.as_ref().unwrap()[..], &["SHA-256"]);
    assert_damaged(&signed(&weights.unwrap()), &["no cogvideox-checkpoint"]);
}

#[track_caller]
fn assert_refused(pipeline: &CogVideoXPipeline, params: &GenerationParams, bytes: &[u8], parts: &[&str]) {
    let checkpoint = Checkpoint::from_bytes(bytes).unwrap();
    let result = pipeline.generate(params, Some(&checkpoint), &mut |_| panic!("work was done"));
    match result {
        Err(error @ Error::Checkpoint(_)) => {
            let message = error.to_string();
            for part in parts {
                assert!(message.contains(part), "{message:?} does not say {part:?}");
            }
        }
        other => panic!("expected a refusal that says {parts:?}, found {:?}", other.err()),
    }
}

#[test]
fn states_that_no_run_passes_through_are_refused() {
    let pipeline = load("2b", DType::F32);
    let params = params(&pipeline, SchedulerKind::Dpm);
    let bytes = break_off(&pipeline, &params, 2);
    for (from, to, parts) in [
        (r#"\"step\":2"#, r#"\"step\":0"#, ["step: expected 1 to 4", "found 0"]),
        (r#"\"step\":2"#, r#"\"step\":5"#, ["step: expected 1 to 4", "found 5"]),
        (r#"\"step\":2"#, r#"\"step\":3"#, ["previous_timestep: expected", "749"]),
        ("old_pred_original_sample", "old_pred_original_simple", ["old_pred_original_sample", "none"]),
        ("[1,5,16,8,6]", "[5,1,16,8,6]", ["expected F32 [1, 5, 16, 8, 6]", "found F32 [5, 1, 16, 8, 6]"]),
    ] {
        assert_refused(&pipeline, &params, &edited(&bytes, from, to), &parts);
    }
}

#[test]
fn another_run_is_refused_and_the_difference_named() {
    let pipeline = load("1.5-5b-i2v", DType::F32);
    let good = params(&pipeline, SchedulerKind::Dpm);
    let bytes = break_off(&pipeline, &good, 2);
    let noise = cogvideox::noise::Generator::seed(1).randn((1, 6, 16, 8, 6), DType::F32).unwrap();
    for (name, other) in [
        ("prompt", GenerationParams { prompt: "A dog".to_owned(), ..good.clone() }),
        ("negative_prompt", GenerationParams { negative_prompt: String::new(), ..good.clone() }),
        ("image", GenerationParams { image: Some(image(1)), ..good.clone() }),
        ("height", GenerationParams { height: 32, ..good.clone() }),
        ("width", GenerationParams { width: 32, ..good.clone() }),
        ("num_frames", GenerationParams { num_frames: 18, ..good.clone() }),
        ("num_inference_steps", GenerationParams { num_inference_steps: 5, ..good.clone() }),
        ("guidance_scale", GenerationParams { guidance_scale: 6.000_000_000_000_001, ..good.clone() }),
        ("use_dynamic_cfg", GenerationParams { use_dynamic_cfg: false, ..good.clone() }),
        ("scheduler", GenerationParams { scheduler: SchedulerKind::Ddim, ..good.clone() }),
        // The generator takes only the low 32 bits; a run is what was asked for.
        ("seed", GenerationParams { seed: 42 + (1 << 32), ..good.clone() }),
        ("initial_latents", GenerationParams { initial_latents: Some(noise.clone()), ..good.clone() }),
    ] {
        assert_refused(&pipeline, &other, &bytes, &[&format!("another run: {name}: expected")]);
    }

    let from_noise = GenerationParams { initial_latents: Some(noise.clone()), ..good.clone() };
    let bytes = break_off(&pipeline, &from_noise, 1);
    let louder = GenerationParams { initial_latents: Some((noise * 1.01).unwrap()), ..good };
    assert_refused(&pipeline, &louder, &bytes, &["initial_latents: expected f32", "found f32"]);
}

#[test]
fn another_model_is_refused() {
    let pipeline = load("5b", DType::F32);
    let params = params(&pipeline, SchedulerKind::Dpm);
    let bytes = break_off(&pipeline, &params, 2);
    assert_refused(&load("5b", DType::BF16), &params, &bytes, &["dtype: expected bf16, found f32"]);
    assert_refused(&load("2b", DType::F32), &params, &bytes, &["model form: expected Cogvideox2b"]);
    assert_refused(&load("1.5-5b", DType::F32), &params, &bytes, &["model form: expected Cogvideox15"]);
}

/// A copy of a golden's folder.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { assert!(std::fs::copy(&path, &target).is_ok()) }
    }
}

#[test]
fn another_models_weights_or_schedule_in_the_same_form_are_refused() {
    let golden = Golden::open("2b");
    let pipeline = load("2b", DType::F32);
    let params = params(&pipeline, SchedulerKind::Ddim);
    let bytes = break_off(&pipeline, &params, 2);
    let dir = tempfile::tempdir().unwrap();
    let tuned = || CogVideoXPipeline::load(dir.path(), DType::F32, &Device::Cpu).unwrap();

    copy(&golden.dir, dir.path());
    let path = dir.path().join("transformer/diffusion_pytorch_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let name = "transformer_blocks.0.attn1.to_q.weight";
    let weight = (tensors.remove(name).unwrap() * 1.001).unwrap();
    tensors.insert(name.to_owned(), weight);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    assert_refused(&tuned(), &params, &bytes, &["weights: expected"]);

    copy(&golden.dir, dir.path());
    assert!(run(&tuned(), &params, Some(&bytes)).is_ok(), "the same model at another place");
    let path = dir.path().join("scheduler/scheduler_config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["snr_shift_scale"] = 2.5.into();
    std::fs::write(&path, config.to_string()).unwrap();
    assert_refused(&tuned(), &params, &bytes, &["scheduler_config.json: expected"]);
}
