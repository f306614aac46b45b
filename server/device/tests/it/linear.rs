//! Linear layers: what they refuse, what a planner counts for them.

use device::ops::linear::{Activation, EightBit, Linear, LowRank, Weight};
use device::{Capability, Device, Dtype, Settings, Tensor};

const WORKSPACE_BYTES: usize = 32 << 20;

fn emulator() -> Device {
    Device::emulator(Capability { major: 8, minor: 0 }, false, Settings::default())
}

fn layer(device: &Device, out_features: usize, in_features: usize, dtype: Dtype) -> Linear {
    let weight =
        Tensor::zeros(device, &[out_features, in_features], dtype).expect("a planner or emulator has room");
    let bias = Tensor::zeros(device, &[out_features], dtype).expect("a planner or emulator has room");
    Linear::new(Weight::Dense(weight), Some(bias)).expect("a planner or emulator has room")
}

/// The message of an error that there must be.
fn refusal<T>(outcome: device::Result<T>) -> String {
    outcome.err().expect("an error").to_string()
}

#[test]
fn what_does_not_fit_is_refused_and_named() {
    let device = emulator();
    let linear = layer(&device, 6, 8, Dtype::Bf16);
    let x = |dims: &[usize], dtype| Tensor::zeros(&device, dims, dtype).unwrap();
    let forward = |x: &Tensor| linear.forward(x, Activation::Identity);
    assert_eq!(forward(&x(&[2, 3, 8], Dtype::Bf16)).unwrap().dims(), [2, 3, 6]);
    assert_eq!(refusal(forward(&x(&[2, 7], Dtype::Bf16))), "linear: x: expected [.., 8], found bf16 [2, 7]");
    assert!(refusal(forward(&x(&[2, 8], Dtype::F16))).contains("bf16"));
    assert!(refusal(forward(&x(&[2, 8], Dtype::I8))).contains("x: expected f32, f16 or bf16"));
    let out = x(&[3, 6], Dtype::Bf16);
    let into = linear.forward_into(&x(&[2, 8], Dtype::Bf16), Activation::Identity, &out);
    assert!(refusal(into).contains("expected 2 rows of 6"));
    let weight = || Weight::Dense(x(&[6, 8], Dtype::F32));
    assert!(refusal(Linear::new(weight(), Some(x(&[8], Dtype::F32)))).contains("bias: expected"));
    let other = Device::emulator(Capability { major: 8, minor: 0 }, false, Settings::default());
    let far = Tensor::zeros(&other, &[2, 8], Dtype::Bf16).unwrap();
    assert!(refusal(forward(&far)).contains("different devices"));
}

#[test]
fn layers_side_by_side_are_of_one_kind() {
    let device = emulator();
    let (dense, other) = (layer(&device, 6, 8, Dtype::F16), layer(&device, 2, 8, Dtype::F16));
    assert_eq!(Linear::concat(&[&dense, &other]).unwrap().out_features(), 8);
    let eight_bit = other.to_8bit(EightBit::Int8).unwrap();
    assert!(refusal(Linear::concat(&[&dense, &eight_bit])).contains("one kind"));
    assert!(refusal(Linear::concat(&[&dense, &layer(&device, 2, 16, Dtype::F16)])).contains("[2, 16]"));
    assert!(refusal(Linear::concat(&[])).contains("no layers"));
    assert!(refusal(eight_bit.to_8bit(EightBit::Int8)).contains("already"));
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let device = emulator();
    let linear = layer(&device, 6, 8, Dtype::Bf16);
    let x = Tensor::zeros(&device, &[2, 8], Dtype::Bf16).unwrap();
    let adapted = |dtype, [inputs, outputs]: [usize; 2]| {
        let matrices = [&vec![0.0; 3 * inputs][..], &vec![0.0; outputs * 3]];
        let low_rank = LowRank::from_f32(&device, dtype, 3, matrices)?;
        linear.adapted(&x, Some(&low_rank), Activation::Identity)
    };
    assert_eq!(adapted(Dtype::Bf16, [8, 6]).unwrap().dims(), [2, 6]);
    assert!(refusal(adapted(Dtype::Bf16, [7, 6])).contains("x: expected [.., 7]"));
    assert!(refusal(adapted(Dtype::Bf16, [8, 5])).contains("result: expected 2 rows of 5"));
    assert!(refusal(adapted(Dtype::F16, [8, 6])).contains("x in bf16 with a weight in f16"));
    let uneven = LowRank::from_f32(&device, Dtype::Bf16, 3, [&[0.0; 7], &[0.0; 6]]);
    assert!(refusal(uneven).contains("7 and 6 elements are no matrices of rank 3"));
}

#[test]
fn an_adapter_takes_its_hidden_layer_beside_the_result() {
    let device = Device::planner(Capability { major: 9, minor: 0 }, 80 << 30, Settings::default());
    let linear = layer(&device, 1024, 512, Dtype::Bf16);
    let low_rank = LowRank::from_f32(&device, Dtype::Bf16, 3, [&[0.0; 3 * 512], &[0.0; 1024 * 3]]).unwrap();
    let x = Tensor::zeros(&device, &[4096, 512], Dtype::Bf16).unwrap();
    let out = Tensor::zeros(&device, &[4096, 1024], Dtype::Bf16).unwrap();
    let before = device.usage().used_bytes;
    device.reset_peak();
    linear.adapted_into(&x, Some(&low_rank), Activation::GeluTanh, &out).unwrap();
    // Ranks are filled up to eight.
    assert_eq!(device.usage().peak_bytes - before, WORKSPACE_BYTES + 4096 * 8 * 2);
}

#[test]
fn a_weight_of_8_bits_takes_half_the_memory_and_a_scale_for_each_row() {
    let device = emulator();
    let dense = layer(&device, 64, 128, Dtype::Bf16);
    assert_eq!(dense.bytes(), 64 * 128 * 2 + 64 * 2);
    for kind in [EightBit::Int8WeightOnly, EightBit::Int8, EightBit::Fp8] {
        assert_eq!(dense.to_8bit(kind).unwrap().bytes(), 64 * 128 + 64 * 4 + 64 * 2);
    }
}

/// The most that a product takes beside its operands and its result.
fn extra_bytes(major: u32, minor: u32, rows: usize, kind: Option<EightBit>) -> usize {
    let device = Device::planner(Capability { major, minor }, 80 << 30, Settings::default());
    let mut linear = layer(&device, 1024, 512, Dtype::Bf16);
    if let Some(kind) = kind {
        linear = linear.to_8bit(kind).expect("a planner or emulator has room");
    }
    let x = Tensor::zeros(&device, &[rows, 512], Dtype::Bf16).expect("a planner or emulator has room");
    let out = Tensor::zeros(&device, &[rows, 1024], Dtype::Bf16).expect("a planner or emulator has room");
    let before = device.usage().used_bytes;
    device.reset_peak();
    linear.forward_into(&x, Activation::GeluTanh, &out).expect("a planner or emulator has room");
    assert_eq!(device.usage().used_bytes, before);
    device.usage().peak_bytes - before
}

#[test]
fn a_planner_counts_what_the_library_takes() {
    assert_eq!(extra_bytes(9, 0, 4096, None), WORKSPACE_BYTES);
    assert_eq!(extra_bytes(8, 0, 4096, None), 4 << 20);
    // The weight in 16 bits; not for few rows.
    let kind = Some(EightBit::Int8WeightOnly);
    assert_eq!(extra_bytes(9, 0, 4096, kind), WORKSPACE_BYTES + 1024 * 512 * 2);
    assert_eq!(extra_bytes(9, 0, 8, kind), 0);
    // x in 8 bits with its scales; and where the library does not scale, the sums.
    let (x_bytes, sum_bytes) = (4096 * 512 + 4096 * 4, 4096 * 1024 * 4);
    assert_eq!(extra_bytes(9, 0, 4096, Some(EightBit::Int8)), x_bytes + WORKSPACE_BYTES + sum_bytes);
    assert_eq!(extra_bytes(8, 0, 4096, Some(EightBit::Int8)), x_bytes);
    assert_eq!(extra_bytes(9, 0, 4096, Some(EightBit::Fp8)), x_bytes + WORKSPACE_BYTES);
    assert_eq!(extra_bytes(12, 0, 4096, Some(EightBit::Fp8)), x_bytes + WORKSPACE_BYTES + sum_bytes);
    assert_eq!(extra_bytes(8, 0, 4096, Some(EightBit::Fp8)), x_bytes);
}
