//! Whole runs of every golden: latents after each step and the frames.

use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use cogvideox::image::RgbImage;
use cogvideox::scheduler::SchedulerKind;
use cogvideox::{CogVideoXPipeline, Error, Event, GenerationParams};

use crate::golden::{FORMS, Golden, assert_close, assert_relative};

fn load(golden: &Golden) -> CogVideoXPipeline {
    CogVideoXPipeline::load(&golden.dir, golden.dtype, &Device::Cpu).unwrap()
}

/// The arguments of a run in `golden.json`.
fn params(golden: &Golden, run: &serde_json::Value) -> GenerationParams {
    let number = |key: &str| run[key].as_u64().unwrap() as usize;
    let image = golden.has("image.u8").then(|| {
        let image = golden.get("image.u8");
        let (height, width, _) = image.dims3().unwrap();
        RgbImage::new(image.flatten_all().unwrap().to_vec1().unwrap(), width, height).unwrap()
    });
    GenerationParams {
        prompt: golden.json["prompts"][run["prompt"].as_str().unwrap()].as_str().unwrap().to_owned(),
        negative_prompt: run["negative_prompt"].as_str().unwrap().to_owned(),
        image,
        height: number("height"),
        width: number("width"),
        num_frames: number("num_frames"),
        num_inference_steps: number("num_inference_steps"),
        guidance_scale: run["guidance_scale"].as_f64().unwrap(),
        use_dynamic_cfg: run["use_dynamic_cfg"].as_bool().unwrap(),
        scheduler: match run["scheduler"].as_str().unwrap() {
            "CogVideoXDDIMScheduler" => SchedulerKind::Ddim,
            "CogVideoXDPMScheduler" => SchedulerKind::Dpm,
            other => panic!("unknown scheduler {other}"),
        },
        seed: golden.json["seed"].as_u64().unwrap() + 1,
        vae_tiling: false,
        initial_latents: Some(golden.get(run["latents"].as_str().unwrap()).clone()),
        lora: Vec::new(),
    }
}

/// Runs what `golden.json` lists and `wanted` by name; `compare(name, found, expected)` sees the latents of every kept step.
pub(crate) fn for_each_run(
    form: &str,
    load: impl Fn(&Golden) -> CogVideoXPipeline,
    wanted: impl Fn(&str) -> bool,
    compare: impl Fn(&str, &Tensor, &Tensor),
    compare_frames: impl Fn(&str, &[u8], &[u8]),
) {
    let golden = Golden::open(form);
    let pipeline = load(&golden);
    for (name, run) in golden.json["runs"].as_object().unwrap().iter().filter(|(name, _)| wanted(name)) {
        let mut compared = 0;
        let video = pipeline
            .generate(&params(&golden, run), None, &mut |event| {
                if let Event::LatentsPrepared { timesteps, .. } = event {
                    assert_eq!(serde_json::json!(timesteps), run["timesteps"], "{form} {name}");
                }
                if let Event::StepEnd { step, latents, .. } = event {
                    let key = format!("{name}.latents.{}", step - 1);
                    if golden.has(&key) {
                        compare(&format!("{form} {key}"), latents, golden.get(&key));
                        compared += 1;
                    }
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(compared > 0, "{form} {name}");
        let shape = [video.num_frames, video.height, video.width, 3];
        assert_eq!(serde_json::json!(shape), run["frames"], "{form} {name}");
        if golden.has(&format!("{name}.frames_u8")) {
            let expected =
                golden.get(&format!("{name}.frames_u8")).flatten_all().unwrap().to_vec1::<u8>().unwrap();
            compare_frames(&format!("{form} {name}"), &video.rgb, &expected);
        }
    }
}

#[test]
fn f32_runs_are_diffusers_runs() {
    for form in FORMS {
        for_each_run(
            form,
            load,
            |_| true,
            |key, found, expected| assert_close(key, found, expected, 3e-4),
            |name, found, expected| {
                let off = |by: i32| {
                    let differs = |(a, b): &(&u8, &u8)| (i32::from(**a) - i32::from(**b)).abs() >= by;
                    found.iter().zip(expected).filter(differs).count()
                };
                println!("{name}: {} of {} samples differ", off(1), expected.len());
                assert!(off(1) * 1000 <= expected.len(), "{name}: {} of {} differ", off(1), expected.len());
                assert_eq!(off(3), 0, "{name}: off by more than 2");
            },
        );
    }
}

#[test]
fn half_runs_follow_diffusers_half_runs() {
    for form in ["2b-fp16", "5b-bf16"] {
        for_each_run(
            form,
            load,
            |_| true,
            |key, found, expected| assert_relative(key, found, expected, 0.05),
            |_, _, _| (),
        );
    }
}

#[test]
fn image_latents_are_part_of_the_generators_stream() {
    // Without initial latents the noise is drawn after the image's posterior: another seed's image, another noise.
    let golden = Golden::open("5b-i2v");
    let pipeline = load(&golden);
    let params = GenerationParams {
        initial_latents: None,
        lora: Vec::new(),
        num_inference_steps: 1,
        ..params(&golden, &golden.json["runs"]["nocfg"])
    };
    let mut drawn = None;
    pipeline
        .generate(&params, None, &mut |event| {
            if let Event::LatentsPrepared { latents, .. } = event {
                drawn = Some(latents.clone());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .unwrap_err();
    let mut generator = cogvideox::noise::Generator::seed(params.seed);
    let posterior = golden.get("nocfg.encode_noise");
    let first = generator.randn(posterior.shape().clone(), DType::F32).unwrap();
    assert_close("posterior", &first, posterior, 1e-6);
    let second = generator.randn(golden.get("latents.init").shape().clone(), DType::F32).unwrap();
    assert_close("latents", &drawn.unwrap(), &second, 0.0);
}

#[test]
fn a_run_stops_at_any_event() {
    let golden = Golden::open("5b-i2v");
    let pipeline = load(&golden);
    let params = params(&golden, &golden.json["runs"]["nocfg"]);
    let mut total = 0;
    pipeline
        .generate(&params, None, &mut |_| {
            total += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    // All kinds of events, early and late, without a run for each of hundreds.
    for stop_at in (1..=total).step_by(total / 20).chain([2, 3, total]) {
        let mut seen = 0;
        // Another prompt each time: one that came before is not encoded again.
        let params = GenerationParams { prompt: format!("{} {stop_at}", params.prompt), ..params.clone() };
        let result = pipeline.generate(&params, None, &mut |_| {
            seen += 1;
            if seen == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(result, Err(Error::Interrupted)), "event {stop_at} of {total}");
        assert_eq!(seen, stop_at, "nothing is reported after the break");
    }
}

#[test]
fn a_prompt_that_comes_again_is_not_encoded_again() {
    let golden = Golden::open("2b");
    let pipeline = load(&golden);
    // Pieces of the text encoder's work, and the frames.
    let generate = |prompt: &str| {
        let (mut encoding, mut pieces) = (false, 0);
        let params = GenerationParams {
            prompt: prompt.to_owned(),
            num_inference_steps: 1,
            ..params(&golden, &golden.json["runs"]["static"])
        };
        let video = pipeline.generate(&params, None, &mut |event| {
            match event {
                Event::TextEncode => encoding = true,
                Event::PromptEncoded { .. } => encoding = false,
                Event::CheckPoint if encoding => pieces += 1,
                _ => {}
            }
            ControlFlow::Continue(())
        });
        (pieces, video.unwrap().rgb)
    };
    let (both, frames) = generate("a lake");
    assert_eq!(generate("a lake"), (0, frames.clone()));
    let (prompt_alone, others) = generate("a hill");
    assert!(prompt_alone > 0 && 2 * prompt_alone == both && others != frames, "{prompt_alone} of {both}");
}

#[test]
fn f16_is_refused_for_all_but_2b() {
    let golden = Golden::open("5b");
    let error = CogVideoXPipeline::load(&golden.dir, DType::F16, &Device::Cpu).err().unwrap();
    assert!(matches!(error, Error::UnsupportedDtype(_)));
    assert!(error.to_string().contains("black video"), "{error}");
}

#[test]
fn latents_that_overflow_fail_before_decoding() {
    let golden = Golden::open("2b");
    let pipeline = load(&golden);
    let run = &golden.json["runs"]["nocfg"];
    let huge = golden.get("latents.init").affine(0.0, f64::INFINITY).unwrap();
    let params = GenerationParams { initial_latents: Some(huge), ..params(&golden, run) };
    let mut decoded = false;
    let result = pipeline.generate(&params, None, &mut |event| {
        decoded |= matches!(event, Event::VaeDecode { .. });
        ControlFlow::Continue(())
    });
    assert!(matches!(result, Err(Error::NanLatents { step: 1, steps: 2 })), "{:?}", result.err());
    assert!(!decoded);
}

#[test]
fn parameters_out_of_range_name_their_field() {
    let golden = Golden::open("2b");
    let pipeline = load(&golden);
    let good = params(&golden, &golden.json["runs"]["static"]);
    let image = Some(RgbImage::new(vec![0; 3], 1, 1).unwrap());
    let cases = [
        ("height", GenerationParams { height: 72, ..good.clone() }),
        ("width", GenerationParams { width: 0, ..good.clone() }),
        ("num_frames", GenerationParams { num_frames: 0, ..good.clone() }),
        ("num_inference_steps", GenerationParams { num_inference_steps: 61, ..good.clone() }),
        ("initial_latents", GenerationParams { height: 32, ..good.clone() }),
        ("image", GenerationParams { image, ..good }),
    ];
    for (field, params) in cases {
        match pipeline.generate(&params, None, &mut |_| ControlFlow::Continue(())) {
            Err(Error::InvalidParams { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {:?}", other.err()),
        }
    }
}
