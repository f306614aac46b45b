//! The guidance scale of each step, and what it does to the two predictions.

use candle_core::{DType, Device, Tensor};
use cogvideox::guidance;

use crate::golden::{FORMS, Golden, assert_close};

#[test]
fn dynamic_scales_are_diffusers_scales() {
    let golden = Golden::open("5b");
    let published = &golden.json["dynamic_cfg"]["values"];
    let timesteps = golden.json["sched.timesteps"]["50"].as_array().unwrap();
    for (t, expected) in timesteps.iter().zip(published.as_array().unwrap()) {
        let found = guidance::dynamic_scale(6.0, 50, t.as_u64().unwrap() as usize);
        assert!((found - expected.as_f64().unwrap()).abs() < 1e-9, "{t}: {found} {expected}");
    }
    for form in FORMS {
        let golden = Golden::open(form);
        let run = &golden.json["runs"]["dynamic"];
        let steps = run["num_inference_steps"].as_u64().unwrap() as usize;
        let scales = run["guidance_per_step"].as_array().unwrap();
        for (t, expected) in run["timesteps"].as_array().unwrap().iter().zip(scales) {
            let found = guidance::dynamic_scale(6.0, steps, t.as_u64().unwrap() as usize);
            let expected = expected.as_f64().unwrap();
            assert!((found - expected).abs() < 1e-9, "{form} {t}: {found} {expected}");
        }
    }
}

#[test]
fn guidance_is_off_at_one() {
    assert!(!guidance::is_on(1.0));
    assert!(guidance::is_on(1.01));
}

#[test]
fn the_combination_is_computed_in_f32() {
    let tensor = |x: f32| Tensor::new(&[x], &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap();
    let combined = guidance::combine(&tensor(1.0), &tensor(1.5), 6.3).unwrap();
    let expected = Tensor::new(&[1.0_f32 + 6.3 * 0.5], &Device::Cpu).unwrap();
    assert_eq!(combined.dtype(), DType::F32);
    assert_close("u + g (c - u)", &combined, &expected, 0.0);
}
