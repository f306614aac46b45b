//! A GPU through its driver: `cargo test -p device --features cuda -- --include-ignored gpu::` where there is one, or
//! the driver that stands in for one (`stand_in/build.sh`), as in CI.
//!
//! The stand-in does work as late as it is waited for, at once, or at random, and fails where a GPU would merely be
//! wrong now and then: so these tests hold what is asked of a driver, and in which order.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use device::ops::elementwise;
use device::{CopyStream, Device, Dtype, Error, Event, Pinned, Settings, Tensor, Uploader, selftest};

use super::selftest::hold;

const BYTES: usize = 1 << 20;

/// One test at a time: they look at how much memory is free.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(settings: Settings) -> Device {
    Device::cuda(0, settings).expect("a GPU, or the driver that stands in for one")
}

/// Without libraries.
fn gpu() -> Device {
    open(Settings { own_kernels: true, ..Settings::default() })
}

fn pattern(seed: usize) -> Vec<u8> {
    (0..BYTES).map(|i| ((i * 31 + seed * 17) % 251) as u8).collect()
}

#[test]
#[ignore = "takes a GPU, or the driver that stands in for one"]
fn every_operation_agrees_with_its_reference() {
    let _alone = alone();
    hold(&gpu(), selftest::cases());
}

#[test]
#[ignore = "takes a GPU, or the driver that stands in for one"]
fn every_operation_agrees_with_its_reference_where_libraries_do_it() {
    let _alone = alone();
    for measured_algorithms in [false, true] {
        let device = open(Settings { measured_algorithms, ..Settings::default() });
        let notes = device.library_notes();
        for library in ["cuBLASLt", "cuDNN"] {
            assert!(notes.iter().any(|note| note.starts_with(&format!("{library} "))), "{notes:?}");
        }
        assert!(!notes.iter().any(|note| note.contains("own kernels")), "{notes:?}");
        hold(&device, selftest::cases());
    }
}

#[test]
#[ignore = "takes a GPU, or the driver that stands in for one"]
fn uploads_in_pieces_arrive_and_memory_is_used_again() {
    let _alone = alone();
    let device = gpu();
    let uploader = Uploader::new(&device).unwrap();
    for seed in 0..4 {
        // More pieces than the ring has, into memory that the round before gave back.
        let bytes: Vec<u8> = (0..(33 << 20) + 5).map(|i: usize| ((i + seed) % 251) as u8).collect();
        let tensor = Tensor::empty(&device, &[bytes.len()], Dtype::U8).unwrap();
        uploader.upload(&tensor, &bytes).unwrap();
        assert!(tensor.to_bytes().unwrap() == bytes, "round {seed}");
    }
}

#[test]
#[ignore = "takes a GPU, or the driver that stands in for one"]
fn what_is_copied_beside_the_work_comes_in_its_order() {
    let _alone = alone();
    let device = gpu();
    let copies = CopyStream::new(&device).unwrap();
    let mut pinned = Pinned::new(&device, BYTES).unwrap();
    let target = Tensor::zeros(&device, &[BYTES], Dtype::U8).unwrap();
    let round = |seed: usize| {
        pinned.as_mut_slice().copy_from_slice(&pattern(seed));
        // The zeros, or the last round's reader, come before.
        copies.wait_for_device(&Event::record(&device).unwrap()).unwrap();
        copies.upload(&target, &pinned, 0).unwrap();
        let copied = copies.record().unwrap();
        copies.device_waits(&copied).unwrap();
        let read = Tensor::empty(&device, &[BYTES], Dtype::U8).unwrap();
        read.copy_from(&target).unwrap();
        copied.synchronize().unwrap();
        pinned.as_mut_slice().fill(0);
        read
    };
    let read: Vec<Tensor> = (0..4).map(round).collect();
    for (seed, read) in read.iter().enumerate() {
        assert!(read.to_bytes().unwrap() == pattern(seed), "round {seed}");
    }
}

fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().expect("its own assertions hold"))
}

#[test]
#[ignore = "takes a GPU, or the driver that stands in for one"]
fn any_thread_may_use_and_drop_what_another_made() {
    let _alone = alone();
    let device = gpu();
    let tensor = Tensor::from_slice(&device, &[4], &[1f32, 2.0, 3.0, 4.0]).unwrap();
    let begin = Event::record(&device).unwrap();
    // Each thread's first call to the driver is another one.
    in_thread(|| assert_eq!(tensor.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]));
    in_thread(|| tensor.fill_bytes(0).unwrap());
    in_thread(|| drop(elementwise::silu(&tensor).unwrap()));
    let end = in_thread(|| Event::record(&device).unwrap());
    in_thread(|| end.synchronize().unwrap());
    in_thread(|| assert!(begin.milliseconds_to(&end).unwrap() >= 0.0));
    in_thread(|| drop(end));
    let copies = in_thread(|| CopyStream::new(&device).unwrap());
    in_thread(|| drop(copies));
    let pinned = in_thread(|| Pinned::new(&device, 1).unwrap());
    in_thread(|| drop(pinned));
    in_thread(|| device.synchronize().unwrap());
    in_thread(|| drop(tensor));
    let used_bytes = device.usage().used_bytes;
    let (free, total) = in_thread(|| device.memory().unwrap());
    assert!(used_bytes == 0 && free <= total);
    in_thread(|| drop(device));
}

#[test]
#[ignore = "takes a GPU, or the driver that stands in for one"]
fn memory_that_is_short_is_told_and_what_was_freed_can_be_had() {
    let _alone = alone();
    let device = gpu();
    let (free, total) = device.memory().unwrap();
    assert!(free <= total);
    let error = Tensor::empty(&device, &[total + 1], Dtype::U8).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
    // One that fits only where all of these were.
    let parts: Vec<_> = (0..3).map(|_| Tensor::empty(&device, &[free / 4], Dtype::U8).unwrap()).collect();
    drop(parts);
    drop(Tensor::empty(&device, &[free / 4 * 3], Dtype::U8).unwrap());
    assert_eq!(device.memory().unwrap().0, free);
}

/// What the stand-in is asked for in `STAND_IN_FAIL` only a process of its own has.
#[test]
#[ignore = "takes the driver that stands in for a GPU"]
fn a_fault_loses_the_gpu_and_all_else_has_another_way() {
    for (failing, ends) in [
        // CUDA_ERROR_ILLEGAL_ADDRESS.
        ("cuLaunchKernel:700:0", "lost"),
        ("cuMemcpyHtoDAsync:700:1", "lost"),
        ("cublasLtMatmul:700:1", "lost"),
        // Out of memory, once, and not supported.
        ("cuMemAllocAsync:2:3", "sound"),
        ("cublasLtMatmul:15:0:1", "sound"),
        // cuDNN's first engine for the first graph, then all of them for both: not supported; its execution fails.
        ("cudnnBackendExecute:3000:0:1", "sound"),
        ("cudnnBackendExecute:3000:0:4", "sound"),
        ("cudnnBackendExecute:5000:0:2", "sound"),
        ("cudnnBackendExecute:5000:0:100", "sound"),
    ] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "gpu::child_that_meets_a_failure"])
            .env("STAND_IN_FAIL", failing)
            .env("ENDS", ends)
            .output()
            .unwrap();
        assert!(child.status.success(), "{failing}: {}", String::from_utf8_lossy(&child.stdout));
    }
}

#[test]
#[ignore = "is started by the test above"]
fn child_that_meets_a_failure() {
    let Ok(ends) = std::env::var("ENDS") else { return };
    let device = open(Settings::default());
    let some = ["attention fused qkv bf16", "conv bf16 5 to 7", "linear bf16 None [70, 24, 48]"];
    let cases: Vec<_> = selftest::cases()
        .into_iter()
        .filter(|case| some.iter().any(|name| case.name.starts_with(name)))
        .collect();
    assert!(cases.len() > some.len());
    let mut last = None;
    for case in &cases {
        match case.run(&device) {
            Ok(outcome) => assert!(outcome.passed(), "{}: {outcome:?}", case.name),
            Err(error) => last = Some(error),
        }
    }
    match ends.as_str() {
        "lost" => assert!(matches!(last, Some(Error::Lost(_))), "{last:?}"),
        _ => assert!(last.is_none(), "{last:?}"),
    }
}
