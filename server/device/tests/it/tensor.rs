//! Memory: what is counted, limited and given back, and views of it.

use device::{Capability, Device, Dtype, Error, Settings, Tensor, Uploader};

const CAPABILITY: Capability = Capability { major: 8, minor: 0 };

fn emulator(memory_limit_bytes: Option<usize>) -> Device {
    Device::emulator(CAPABILITY, false, Settings { memory_limit_bytes, ..Settings::default() })
}

#[test]
fn memory_is_counted_while_any_view_of_it_lives() {
    let device = emulator(None);
    let tensor = Tensor::from_slice(&device, &[3, 2], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let row = tensor.slice(1, 2).unwrap();
    drop(tensor);
    assert_eq!(device.usage().used_bytes, 512);
    assert_eq!(row.reshape(&[4]).unwrap().to_vec::<f32>().unwrap(), [3.0, 4.0, 5.0, 6.0]);
    drop(row);
    assert_eq!((device.usage().used_bytes, device.usage().peak_bytes), (0, 512));
}

#[test]
fn a_limit_is_kept_and_named() {
    let device = emulator(Some(1024));
    let held = Tensor::zeros(&device, &[256], Dtype::F32).unwrap();
    let error = Tensor::zeros(&device, &[1], Dtype::F32).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
    assert_eq!(error.to_string(), "out of memory: 512 bytes asked for, 1024 in use, limited to 1024");
    drop(held);
    Tensor::zeros(&device, &[256], Dtype::F32).unwrap();
}

#[test]
fn a_planner_counts_without_memory() {
    let device = Device::planner(CAPABILITY, 80 << 30, Settings::default());
    let tensor = Tensor::empty(&device, &[60 << 30], Dtype::U8).unwrap();
    assert_eq!(device.memory().unwrap(), (20 << 30, 80 << 30));
    assert!(matches!(Tensor::empty(&device, &[21 << 30], Dtype::U8), Err(Error::OutOfMemory(_))));
    drop(tensor);
    assert_eq!(device.memory().unwrap().0, 80 << 30);
}

#[test]
fn views_beyond_a_tensor_are_refused() {
    let device = emulator(None);
    let tensor = Tensor::zeros(&device, &[3, 2], Dtype::F16).unwrap();
    assert!(tensor.slice(2, 2).is_err());
    assert!(tensor.reshape(&[5]).is_err());
    assert!(tensor.upload(&[0; 11]).is_err());
    assert!(tensor.to_vec::<f32>().is_err());
}

#[test]
fn an_upload_in_pieces_brings_every_byte() {
    let device = emulator(None);
    // More pieces than the ring has, the last one short.
    let bytes: Vec<u8> = (0..(33 << 20) + 5).map(|i: usize| (i % 251) as u8).collect();
    let tensor = Tensor::empty(&device, &[bytes.len()], Dtype::U8).unwrap();
    let uploader = Uploader::new(&device).unwrap();
    uploader.upload(&tensor, &bytes).unwrap();
    assert!(tensor.to_bytes().unwrap() == bytes);
    assert!(uploader.upload(&tensor, &bytes[1..]).is_err());
}
