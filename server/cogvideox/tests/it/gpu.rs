//! The models on a device: an emulated one, which runs the GPU's kernels, against diffusers' outputs.

use candle_core::DType;
use cogvideox::CogVideoXPipeline;
use cogvideox::gpu::bench::{self, Loading};
use cogvideox::gpu::quality::{Quality, StepError, Subject};
use cogvideox::gpu::{GpuOptions, MemoryPlan, Placement, Precision, Preset, Residence};
use device::{Capability, Device, Settings};

use crate::golden::{FORMS, Golden, assert_close, assert_relative};
use crate::pipeline::for_each_run;

pub(crate) fn emulator() -> Device {
    Device::emulator(Capability { major: 9, minor: 0 }, false, Settings::default())
}

/// The smallest plan: everything is streamed, split and tiled but the VAE, whose tiles change pixels.
pub(crate) fn smallest() -> MemoryPlan {
    MemoryPlan {
        text_encoder: Residence::Streamed,
        transformer: Residence::Streamed,
        sequential_guidance: true,
        ff_rows: 100,
        vae_tiling: false,
    }
}

pub(crate) fn load_with(golden: &Golden, placement: Placement, plan: MemoryPlan) -> CogVideoXPipeline {
    let options = GpuOptions { placement, precision: Precision::Dense };
    CogVideoXPipeline::load_on_gpu(&golden.dir, golden.dtype, &options, plan).unwrap()
}

#[test]
fn fp8_is_refused_before_loading_where_nothing_multiplies_it() {
    let golden = Golden::open("5b");
    let choose = |minor, precision| {
        let device = Device::planner(Capability { major: 8, minor }, 80 << 30, Settings::default());
        let options = GpuOptions { placement: Placement::single(device), precision };
        CogVideoXPipeline::choose_plan(&golden.dir, golden.dtype, &options).map(drop)
    };
    let message = choose(6, Precision::Fp8).unwrap_err().to_string();
    assert!(message.ends_with("8.9 (Ada) or more, found 8.6; take int8"), "{message}");
    choose(6, Precision::Int8).unwrap();
    choose(9, Precision::Fp8).unwrap();
}

fn compare_runs(form: &str, load: impl Fn(&Golden) -> CogVideoXPipeline, runs: &[&str]) {
    for_each_run(
        form,
        load,
        |name| runs.contains(&name),
        |key, found, expected| assert_close(key, found, expected, 3e-4),
        |name, found, expected| {
            let differing = found.iter().zip(expected).filter(|(a, b)| a != b).count();
            let far = found.iter().zip(expected).filter(|(a, b)| a.abs_diff(**b) > 2).count();
            println!("{name}: {differing} of {} samples differ", expected.len());
            assert!(differing * 1000 <= expected.len(), "{name}: {differing} of {} differ", expected.len());
            assert_eq!(far, 0, "{name}: off by more than 2");
        },
    );
}

#[test]
fn f32_runs_on_a_device_are_diffusers_runs() {
    for (form, runs) in
        FORMS.iter().zip([&["dynamic"][..], &["resized"], &["nocfg"], &["resized"], &["nocfg"]])
    {
        let load = |golden: &Golden| load_with(golden, Placement::single(emulator()), MemoryPlan::RESIDENT);
        compare_runs(form, load, runs);
    }
}

#[test]
fn the_smallest_plan_gives_the_same_runs() {
    let load = |golden: &Golden| load_with(golden, Placement::single(emulator()), smallest());
    compare_runs("5b", load, &["resized"]);
}

#[test]
fn half_runs_on_a_device_follow_diffusers_half_runs() {
    for form in ["2b-fp16", "5b-bf16"] {
        for_each_run(
            form,
            |golden| load_with(golden, Placement::single(emulator()), MemoryPlan::RESIDENT),
            |name| name == "dynamic",
            |key, found, expected| assert_relative(key, found, expected, 0.05),
            |_, _, _| (),
        );
    }
}

#[test]
fn two_devices_share_the_guidance_of_one_video() {
    let load = |golden: &Golden| {
        let placement = Placement {
            transformer: vec![emulator(), emulator()],
            text_encoder: emulator(),
            vae: emulator(),
        };
        load_with(golden, placement, MemoryPlan::RESIDENT)
    };
    compare_runs("2b", load, &["resized"]);
}

#[test]
fn loading_is_timed_beside_disk_and_bus_and_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let Loading { disk, bus, loading, loading_cached } =
        bench::loading(&emulator(), scratch.path(), (20 << 20) + 7).unwrap();
    for rate in [disk, bus, loading, loading_cached] {
        assert!(rate.is_finite() && rate > 0.0, "{rate} bytes a second");
    }
    assert_eq!(scratch.path().read_dir().unwrap().count(), 0);
    let missing = scratch.path().join("missing");
    let message = bench::loading(&emulator(), &missing, 1).unwrap_err().to_string();
    assert!(message.contains(missing.to_str().unwrap()), "{message}");
}

/// Of two steps, in the precision and without quantisation.
fn quality(precision: Precision) -> Vec<StepError> {
    let (subject, plan, device) = (Subject::Preset(Preset::Tiny), MemoryPlan::RESIDENT, emulator());
    let quality = Quality { subject, dtype: DType::F32, plan, device, num_inference_steps: 2, seed: 42 };
    let mut errors = Vec::new();
    quality
        .compare(precision, &mut |error| {
            errors.push(error);
            Ok(())
        })
        .unwrap();
    assert_eq!(errors.iter().map(|error| error.step).collect::<Vec<_>>(), [1, 2]);
    errors
}

#[test]
fn only_quantisation_tells_the_runs_of_a_comparison_apart() {
    for StepError { relative, max_abs, .. } in quality(Precision::Dense) {
        assert_eq!((relative, max_abs), (0.0, 0.0));
    }
}

#[test]
fn fewer_bits_cost_quality_in_their_order() {
    let [fp8, int8, weights_only] = [Precision::Fp8, Precision::Int8, Precision::Int8WeightOnly].map(|p| {
        let errors = quality(p);
        println!("{p:?}: {errors:?}");
        errors[1].relative
    });
    // e4m3 has three bits of mantissa, a signed byte seven for the largest of a row.
    assert!(0.0 < weights_only && weights_only <= int8 && int8 < fp8 && fp8 < 0.1);
}
