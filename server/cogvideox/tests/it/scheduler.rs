//! Timesteps, coefficients and whole steps of both solvers, and the settings and step counts that are refused.

#![expect(clippy::unreadable_literal, reason = "numbers stand here as torch prints them")]

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use cogvideox::noise::Generator;
use cogvideox::scheduler::{Scheduler, SchedulerKind, SchedulerState};
use serde_json::{Value, json};

use crate::golden::{FORMS, Golden, assert_close, number};

fn load(golden: &Golden) -> Scheduler {
    Scheduler::load(&golden.dir.join("scheduler")).unwrap()
}

/// Equal to a few ulp, with infinities and NaN equal to themselves.
#[track_caller]
fn assert_ulp(what: &str, found: f64, expected: f64) {
    let same = found == expected || (found.is_nan() && expected.is_nan());
    assert!(
        same || (found - expected).abs() <= 1e-14 * expected.abs().max(1.0),
        "{what}: {found} {expected}"
    );
}

#[test]
fn the_noise_schedule_is_diffusers_schedule() {
    for form in FORMS {
        let golden = Golden::open(form);
        let scheduler = load(&golden);
        assert_eq!(scheduler.kind().class_name(), golden.json["sched.class"].as_str().unwrap(), "{form}");
        let found = Tensor::new(scheduler.alphas_cumprod(), &Device::Cpu).unwrap();
        assert_close(form, &found, golden.get("sched.alphas_cumprod"), 1e-15);
        assert_eq!(scheduler.alphas_cumprod()[999], 0.0, "{form}: no signal is left at the last timestep");
    }
}

#[test]
fn timesteps_are_diffusers_timesteps() {
    let golden = Golden::open("5b");
    let scheduler = load(&golden);
    for (n, expected) in golden.json["sched.timesteps"].as_object().unwrap() {
        let schedule = scheduler.schedule(n.parse().unwrap()).unwrap();
        assert_eq!(json!(schedule.timesteps()), *expected, "{n} steps");
    }
}

#[test]
fn coefficients_are_diffusers_coefficients() {
    for form in ["2b", "5b"] {
        let golden = Golden::open(form);
        let scheduler = load(&golden);
        for (n, rows) in golden.json["sched.coeffs"].as_object().unwrap() {
            let schedule = scheduler.schedule(n.parse().unwrap()).unwrap();
            let mut previous = None;
            for row in rows.as_array().unwrap() {
                let t = row["t"].as_u64().unwrap() as usize;
                let what = format!("{form}, {n} steps, {t}");
                if scheduler.kind() == SchedulerKind::Ddim {
                    let c = schedule.ddim_coefficients(t);
                    assert_ulp(&what, c.latents, number(&row["a_t"]));
                    assert_ulp(&what, c.x0, number(&row["b_t"]));
                } else {
                    let c = schedule.dpm_coefficients(t, previous);
                    let mut found = vec![c.latents, c.x0];
                    found.extend(c.second_order.into_iter().flat_map(|(this, last)| [this, last]));
                    let expected = row["mult"].as_array().unwrap();
                    assert_eq!(found.len(), expected.len(), "{what}");
                    for (found, expected) in found.iter().zip(expected) {
                        assert_ulp(&what, *found, number(expected));
                    }
                    assert_ulp(&what, c.noise, number(&row["mult_noise"]));
                }
                previous = Some(t);
            }
        }
    }
}

/// The 62 step counts whose trailing schedule reaches timestep -1 in diffusers 0.36 (`set_timesteps` over 1..=1000).
const REFUSED: [usize; 62] = [
    61, 103, 121, 122, 201, 206, 217, 223, 227, 233, 242, 244, 397, 402, 412, 419, 434, 446, 454, 457, 463,
    465, 466, 484, 485, 487, 488, 497, 499, 769, 794, 804, 805, 824, 829, 835, 838, 868, 871, 887, 892, 908,
    914, 926, 930, 932, 937, 941, 951, 961, 965, 968, 970, 974, 975, 976, 979, 981, 985, 994, 995, 998,
];

#[test]
fn step_counts_that_leave_the_schedule_are_refused_and_no_others() {
    let scheduler = load(&Golden::open("2b"));
    let refused: Vec<usize> = (1..=1000).filter(|n| scheduler.refuses(*n)).collect();
    assert_eq!(refused, REFUSED);
    for n in 1..=1000 {
        if let Ok(schedule) = scheduler.schedule(n) {
            assert_eq!(schedule.timesteps().len(), n);
        }
    }
    for n in [0, 61, 1001] {
        let message = scheduler.schedule(n).unwrap_err().to_string();
        assert!(
            message.starts_with("num_inference_steps: ") && message.contains(&n.to_string()),
            "{message}"
        );
    }
}

/// Whole runs on given model outputs (`reference/make_scheduler_steps.py`): the update, its roundings and, for DPM,
/// the noise that it draws and throws away.
fn assert_runs(runs: &[&str], bound: f64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/scheduler_steps.safetensors");
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    for run in runs {
        let parts: Vec<&str> = run.split('.').collect();
        let [kind, dtype, prediction_type, n] = parts[..] else { panic!("{run}") };
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), |config| {
            config.insert("prediction_type".to_owned(), prediction_type.into());
            config.insert("rescale_betas_zero_snr".to_owned(), (prediction_type != "epsilon").into());
            config.insert("snr_shift_scale".to_owned(), 1.0.into());
        });
        let scheduler = Scheduler::load(dir.path()).unwrap().with_kind(kind.parse().unwrap());
        let schedule = scheduler.schedule(n[1..].parse().unwrap()).unwrap();
        let dtype = golden[&format!("{kind}.{dtype}.{prediction_type}.{n}.0")].dtype();
        let mut latents = golden["latents"].to_dtype(dtype).unwrap();
        let (mut state, mut generator) = (SchedulerState::default(), Generator::seed(5));
        for (i, t) in schedule.timesteps().iter().enumerate() {
            let noise_pred = &golden[&format!("noise_pred.{i}")];
            let noise = schedule.draw(*t, &latents, &state, &mut generator).unwrap();
            let next = schedule.step(noise_pred, *t, &latents, noise.as_ref(), &mut state).unwrap();
            let next = next.prev_sample;
            assert_eq!(next.dtype(), DType::F32, "rounding is the caller's");
            latents = next.to_dtype(dtype).unwrap();
            assert_close(&format!("{run}.{i}"), &latents, &golden[&format!("{run}.{i}")], bound);
        }
    }
}

#[test]
fn f32_steps_are_diffusers_steps() {
    assert_runs(&["ddim.f32.v_prediction.n4", "ddim.f32.v_prediction.n7"], 0.0);
    assert_runs(&["dpm.f32.v_prediction.n4", "dpm.f32.v_prediction.n7"], 1e-6);
}

#[test]
fn half_steps_are_diffusers_steps_bit_for_bit() {
    for dtype in ["f16", "bf16"] {
        for kind in ["ddim", "dpm"] {
            for n in ["n4", "n7"] {
                assert_runs(&[&format!("{kind}.{dtype}.v_prediction.{n}")], 0.0);
            }
        }
    }
}

#[test]
fn the_other_prediction_types_are_diffusers_too() {
    assert_runs(&["ddim.f32.epsilon.n4", "ddim.f32.sample.n4"], 2e-6);
    assert_runs(&["dpm.f32.epsilon.n4", "dpm.f32.sample.n4"], 2e-6);
}

/// A run that is taken up again from its state, its generator and its latents goes on as if nothing had happened.
#[test]
fn state_and_generator_are_all_that_a_run_carries() {
    let scheduler = load(&Golden::open("5b"));
    let schedule = scheduler.schedule(4).unwrap();
    let latents = Generator::seed(1).randn((1, 2, 3, 4, 4), DType::F32).unwrap();
    let mut runs = Vec::new();
    for restart in [false, true] {
        let (mut x, mut state, mut generator) =
            (latents.clone(), SchedulerState::default(), Generator::seed(3));
        for (i, t) in schedule.timesteps().iter().enumerate() {
            if restart && i == 2 {
                let kept = (state.old_pred_original_sample, state.previous_timestep);
                state = SchedulerState { old_pred_original_sample: kept.0, previous_timestep: kept.1 };
                generator = generator.clone();
            }
            let again = load(&Golden::open("5b"));
            let schedule = if restart { again.schedule(4).unwrap() } else { schedule.clone() };
            let noise = schedule.draw(*t, &x, &state, &mut generator).unwrap();
            x = schedule.step(&x, *t, &x, noise.as_ref(), &mut state).unwrap().prev_sample;
        }
        runs.push(x);
    }
    assert_close("restarted", &runs[1], &runs[0], 0.0);
}

fn write_config(dir: &Path, edit: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let from = Golden::open("2b").dir.join("scheduler/scheduler_config.json");
    let mut config = serde_json::from_slice(&fs::read(from).unwrap()).unwrap();
    edit(&mut config);
    fs::write(dir.join("scheduler_config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
}

/// `CogVideoXDDIMScheduler()` of diffusers 0.36 without arguments, `set_timesteps(4)`.
#[test]
fn missing_keys_take_the_defaults_of_diffusers_class() {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), |config| config.retain(|key, _| key == "_class_name"));
    let scheduler = Scheduler::load(dir.path()).unwrap();
    assert_eq!(scheduler.schedule(4).unwrap().timesteps(), [750, 500, 250, 0]);
    for (t, expected) in [(0, 0.9974543276430068), (500, 0.1129116877478969), (999, 0.001558207103429585)] {
        assert_ulp("alphas_cumprod", scheduler.alphas_cumprod()[t], expected);
    }
}

#[test]
fn the_other_spacings_are_diffusers_too() {
    for (spacing, offset, expected) in [
        ("linspace", 0, [999, 832, 666, 500, 333, 166, 0].as_slice()),
        ("leading", 1, [853, 711, 569, 427, 285, 143, 1].as_slice()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), |config| {
            config.insert("timestep_spacing".to_owned(), spacing.into());
            config.insert("steps_offset".to_owned(), offset.into());
        });
        let scheduler = Scheduler::load(dir.path()).unwrap();
        assert_eq!(scheduler.schedule(7).unwrap().timesteps(), expected, "{spacing}");
    }
}

#[test]
fn what_cannot_be_followed_is_refused_by_key_and_value() {
    for (key, value, expected) in [
        (
            "_class_name",
            json!("DDIMScheduler"),
            "_class_name: expected CogVideoXDDIMScheduler or CogVideoXDPMScheduler, found DDIMScheduler",
        ),
        ("prediction_type", json!("flow"), "prediction_type: unknown variant `flow`"),
        ("timestep_spacing", json!("even"), "timestep_spacing: unknown variant `even`"),
        ("beta_schedule", json!("linear"), "beta_schedule: expected scaled_linear, found linear"),
        ("trained_betas", json!([0.1, 0.2]), "trained_betas: expected null, found a list"),
        ("beta_end", json!("0.012"), "beta_end: invalid type: string"),
        ("beta_start", json!(-1.0), "beta_start: expected a number from 0 to 1, found -1"),
        ("snr_shift_scale", json!(0.0), "snr_shift_scale: expected a number above 0, found 0"),
        ("num_train_timesteps", json!(1u64 << 40), "num_train_timesteps: expected 2 to 100000"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), |config| {
            config.insert(key.to_owned(), value);
        });
        let message = Scheduler::load(dir.path()).unwrap_err().to_string();
        assert!(message.contains("scheduler_config.json") && message.contains(expected), "{message}");
    }
}
