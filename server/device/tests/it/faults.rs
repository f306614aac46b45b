//! That the emulator finds what is wrong in a kernel: a shim that lets faults pass would prove nothing.

use device::{Capability, Device, Error, Settings, selftest::emulated_fault};

fn emulator(reverse: bool) -> Device {
    Device::emulator(Capability { major: 8, minor: 0 }, reverse, Settings::default())
}

#[test]
fn faults_end_the_launch_and_are_named() {
    for (kernel, message) in [
        (
            "fault_reads_beyond",
            "block (0, 0, 0), thread (63, 0, 0) reads element 64 (1 at once) of a tensor of 64",
        ),
        ("fault_writes_beyond", "writes element 64 (1 at once) of a tensor of 64"),
        ("fault_takes_unaligned", "takes 16 bytes at once that are not aligned"),
        ("fault_takes_too_much_shared_memory", "takes shared memory up to byte 4000 of 1024"),
        ("fault_leaves_shared_array", "shared element 64 (1 at once) of an array of 64"),
        ("fault_barrier_for_some", "32 threads wait at a barrier, 32 have ended"),
        ("fault_exchange_for_some", "only 16 lanes of a warp take part in an exchange"),
        ("fault_leaves_copies", "ends with copies under way"),
        ("fault_of_no_kernel", "no such kernel"),
    ] {
        match emulated_fault(&emulator(false), kernel) {
            Err(Error::Kernel(found)) => {
                assert!(found.contains(kernel) && found.contains(message), "{found}");
            }
            other => panic!("{kernel}: expected a fault, found {other:?}"),
        }
    }
}

#[test]
fn a_forgotten_barrier_shows_in_the_numbers() {
    let expected: Vec<f32> = (0..64).rev().map(|i| i as f32).collect();
    for reverse in [false, true] {
        let found = emulated_fault(&emulator(reverse), "fault_forgets_a_barrier").unwrap();
        assert_ne!(found, expected);
    }
}

#[test]
fn a_copy_happens_no_earlier_than_it_is_waited_for() {
    let found = emulated_fault(&emulator(false), "fault_reads_before_the_copy").unwrap();
    assert!(found[0].is_nan());
}
