//! Adapters on a device, an emulated one: diffusers' numbers, whatever keeps the weights, and nothing of them left over.

use candle_core::{DType, Tensor};
use cogvideox::Error;
use cogvideox::gpu::{GpuTransformer, MemoryPlan, Placement, Precision};
use cogvideox::lora::LoraChoice;
use cogvideox::scheduler::SchedulerKind;
use cogvideox::transformer::TransformerInput;
use device::{Capability, Device, Settings};

use crate::checkpoint::{params, run};
use crate::golden::{Golden, assert_close, assert_relative};
use crate::gpu::{emulator, load_with, smallest};
use crate::lora::{both, choice, file, input, size};

/// A form's transformer on a device.
struct Subject {
    golden: Golden,
    device: Device,
    dtype: DType,
    model: GpuTransformer,
}

impl Subject {
    fn load(form: &str, dtype: DType, device: Device, plan: MemoryPlan, precision: Precision) -> Self {
        let golden = Golden::open(form);
        let dir = golden.dir.join("transformer");
        let model = GpuTransformer::open(&dir, dtype, &device, &plan, precision).unwrap();
        Self { golden, device, dtype, model }
    }

    fn dense(form: &str, plan: MemoryPlan) -> Self {
        Self::load(form, DType::F32, emulator(), plan, Precision::Dense)
    }

    /// One forward of the golden's input.
    fn forward(&self, lora: &[LoraChoice]) -> cogvideox::Result<Tensor> {
        let [frames, height, width] = size(&self.golden);
        let positions = self.model.positions(frames, height, width)?;
        let input = input(&self.golden, &positions, lora);
        let cast = |tensor: &Tensor| tensor.to_dtype(self.dtype);
        let (hidden_states, embeds) = (cast(input.hidden_states)?, cast(input.encoder_hidden_states)?);
        let input =
            TransformerInput { hidden_states: &hidden_states, encoder_hidden_states: &embeds, ..input };
        self.model.forward(&input, &mut || Ok(()))
    }
}

/// What diffusers computes with both adapters at once.
fn golden(form: &str, way: &str) -> Tensor {
    candle_core::safetensors::load(file(form, "golden"), &candle_core::Device::Cpu).unwrap()[way].clone()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn two_adapters_at_once_are_diffusers_wherever_the_weights_are() {
    for (form, plan) in [("2b", MemoryPlan::RESIDENT), ("5b", MemoryPlan::RESIDENT), ("5b", smallest())] {
        let found = Subject::dense(form, plan).forward(&both(form)).unwrap();
        for way in ["set_adapters", "fuse_lora"] {
            assert_close(&format!("{form} {way}, {plan}"), &found, &golden(form, way), 1e-4);
        }
    }
}

#[test]
fn half_precision_follows() {
    for (form, dtype) in [("2b", DType::F16), ("5b", DType::BF16)] {
        let subject = Subject::load(form, dtype, emulator(), MemoryPlan::RESIDENT, Precision::Dense);
        let found = subject.forward(&both(form)).unwrap();
        assert_relative(&format!("{form} {dtype:?}"), &found, &golden(form, "set_adapters"), 0.05);
    }
}

#[test]
fn adapters_switch_and_leave_the_model_and_its_memory_as_they_were() {
    for plan in [MemoryPlan::RESIDENT, smallest()] {
        let subject = Subject::dense("5b", plan);
        let of = |lora: &[LoraChoice]| {
            let values = values(&subject.forward(lora).unwrap());
            (values, subject.device.usage().used_bytes)
        };
        let plain = of(&[]);
        let two = of(&both("5b"));
        let weaker = of(&[choice(&file("5b", "motion"), 0.4)]);
        assert!(plain.1 < weaker.1 && weaker.1 < two.1, "{} {} {}", plain.1, weaker.1, two.1);
        assert_ne!(weaker.0, of(&[choice(&file("5b", "motion"), 0.5)]).0);
        // Files that are read again are the same adapters.
        assert_eq!(of(&both("5b")), two);
        assert_eq!(of(&both("5b")), two);
        assert_eq!(of(&[]), plain);
    }
}

#[test]
fn layers_of_8_bits_are_adapted_too() {
    let expected = golden("5b", "set_adapters");
    let distance = |found: &Tensor| {
        let squares = values(found).iter().zip(values(&expected)).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
        squares.sqrt()
    };
    for precision in [Precision::Fp8, Precision::Int8, Precision::Int8WeightOnly] {
        let subject = Subject::load("5b", DType::F32, emulator(), MemoryPlan::RESIDENT, precision);
        let (plain, adapted) = (subject.forward(&[]).unwrap(), subject.forward(&both("5b")).unwrap());
        println!("{precision:?}: {} without adapters, {} with them", distance(&plain), distance(&adapted));
        assert!(distance(&adapted) * 2.0 < distance(&plain), "{precision:?}");
    }
}

#[test]
fn two_devices_that_share_the_guidance_have_the_adapters_both() {
    let golden = Golden::open("2b");
    let transformer = vec![emulator(), emulator()];
    let shared = Placement { transformer, text_encoder: emulator(), vae: emulator() };
    let videos = [Placement::single(emulator()), shared].map(|placement| {
        let pipeline = load_with(&golden, placement, MemoryPlan::RESIDENT);
        let mut params = params(&pipeline, SchedulerKind::Ddim);
        params.num_inference_steps = 1;
        let plain = run(&pipeline, &params, None).unwrap().rgb;
        params.lora = both("2b").to_vec();
        let adapted = run(&pipeline, &params, None).unwrap().rgb;
        assert_ne!(adapted, plain);
        adapted
    });
    assert_eq!(videos[0], videos[1]);
}

#[test]
fn adapters_that_find_no_memory_are_an_error_that_the_model_survives() {
    let unlimited = Subject::dense("5b", MemoryPlan::RESIDENT);
    let plain = values(&unlimited.forward(&[]).unwrap());
    let settings =
        Settings { memory_limit_bytes: Some(unlimited.device.usage().peak_bytes), ..Settings::default() };
    let device = Device::emulator(Capability { major: 9, minor: 0 }, false, settings);
    let limited = Subject::load("5b", DType::F32, device, MemoryPlan::RESIDENT, Precision::Dense);
    assert_eq!(values(&limited.forward(&[]).unwrap()), plain);
    let used = limited.device.usage().used_bytes;
    // Steps of a run that takes all that the limit leaves: the adapters' matrices alone would fit.
    let error = limited.forward(&both("5b")).unwrap_err();
    assert!(matches!(error, Error::Device(device::Error::OutOfMemory { .. })), "{error}");
    assert_eq!(values(&limited.forward(&[]).unwrap()), plain);
    assert_eq!(limited.device.usage().used_bytes, used);
}
