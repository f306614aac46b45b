//! The video autoencoder's operations refuse what does not fit, and the planner sees their memory at real sizes.

use device::ops::conv::{Conv3d, Window};
use device::ops::group_norm::GroupNorm;
use device::ops::layout::{channels_last, crop, paste_into};
use device::ops::video::{Side, fade_in_place, rgb};
use device::{Capability, Device, Dtype, Settings, Tensor};

fn planner() -> Device {
    Device::planner(Capability { major: 9, minor: 0 }, 80 << 30, Settings::default())
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let device = planner();
    let empty = |dims: &[usize]| Tensor::empty(&device, dims, Dtype::Bf16).unwrap();
    let conv = Conv3d::new(empty(&[8, 3, 3, 3, 4]), Some(empty(&[8]))).unwrap();
    let input = empty(&[4, 5, 6, 4]);
    assert_eq!(conv.forward(&input, Window::SAME, None).unwrap().dims(), [2, 5, 6, 8]);
    assert!(conv.forward(&empty(&[4, 5, 6, 3]), Window::SAME, None).is_err());
    assert!(conv.forward(&empty(&[1, 5, 6, 4]), Window::SAME, None).is_err());
    assert!(conv.forward(&empty(&[4, 2, 6, 4]), Window::POINTWISE, None).is_err());
    assert!(conv.forward(&input, Window::SAME, Some(&empty(&[2, 5, 6, 4]))).is_err());
    assert!(Conv3d::new(empty(&[8, 3, 3, 3, 4]), Some(empty(&[4]))).is_err());

    assert!(GroupNorm::new(empty(&[6]), empty(&[6]), 4, 1e-6).is_err());
    let norm = GroupNorm::new(empty(&[4]), empty(&[4]), 2, 1e-6).unwrap();
    assert!(norm.measure(&[]).is_err());
    assert!(norm.measure(&[input.clone(), empty(&[1, 5, 7, 4])]).is_err());
    let norm = norm.measure(&[input.clone(), empty(&[1, 5, 6, 4])]).unwrap();
    norm.silu_into(&input, 1, Some(&empty(&[1, 2, 3, 8])), &empty(&[4, 5, 6, 4])).unwrap();
    assert!(norm.silu_into(&input, 2, None, &empty(&[4, 5, 6, 4])).is_err());
    assert!(norm.silu_into(&input, 0, Some(&empty(&[1, 2, 3, 4])), &empty(&[4, 5, 6, 4])).is_err());
    assert!(norm.silu_into(&input, 0, None, &empty(&[5, 5, 6, 4])).is_err());
    assert!(conv.forward_into(&input, Window::SAME, None, &empty(&[3, 5, 6, 8])).is_err());

    assert!(channels_last(&input, 4).is_err());
    assert!(crop(&input, [3, 0], [3, 6]).is_err());
    assert!(paste_into(&input, [5, 6], &empty(&[4, 9, 9, 4]), [5, 0]).is_err());
    assert!(fade_in_place(&input, &empty(&[4, 5, 7, 4]), Side::Above, 2).is_err());
    assert!(rgb(&empty(&[4, 2])).is_err());
}

#[test]
fn without_libraries_a_convolution_takes_no_workspace() {
    let settings = Settings { own_kernels: true, ..Settings::default() };
    let device = Device::planner(Capability { major: 9, minor: 0 }, 80 << 30, settings);
    let conv = Conv3d::new(Tensor::empty(&device, &[8, 1, 3, 3, 8], Dtype::Bf16).unwrap(), None).unwrap();
    let input = Tensor::empty(&device, &[1, 16, 16, 8], Dtype::Bf16).unwrap();
    let before = device.usage().used_bytes;
    let out = conv.forward(&input, Window::SAME, None).unwrap();
    assert_eq!(device.usage().peak_bytes, before + out.bytes());
}

#[test]
fn the_largest_layer_needs_no_more_than_its_tensors_and_a_little() {
    let device = planner();
    let empty = |dims: &[usize]| Tensor::empty(&device, dims, Dtype::Bf16).unwrap();
    let [frames, height, width, channels] = [9, 480, 720, 128];
    let norm = GroupNorm::new(empty(&[channels]), empty(&[channels]), 32, 1e-6).unwrap();
    let conv = Conv3d::new(empty(&[channels, 3, 3, 3, channels]), Some(empty(&[channels]))).unwrap();
    let x = empty(&[frames, height, width, channels]);
    let condition = empty(&[3, 60, 90, 2 * channels]);
    let padded = empty(&[frames + 2, height, width, channels]);
    let before = device.usage().used_bytes;
    let norm = norm.measure(std::slice::from_ref(&x)).unwrap();
    norm.silu_into(&x, 0, Some(&condition), &padded.slice(2, frames).unwrap()).unwrap();
    drop(norm);
    assert_eq!(device.usage().used_bytes, before);
    assert!(device.usage().peak_bytes - before < 8 << 20, "{:?}", device.usage());
    let out = conv.forward(&padded, Window::SAME, Some(&x)).unwrap();
    assert_eq!(out.dims(), x.dims());
    // The library's workspace.
    assert_eq!(device.usage().peak_bytes, before + out.bytes() + (64 << 20));
}
