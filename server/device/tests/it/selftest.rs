//! Every operation against its reference; on an emulated GPU with blocks and threads in both orders.

use device::Device;
use device::selftest::Case;
#[cfg(feature = "emulator")]
use device::{
    Capability, Settings,
    selftest::{self, Sizes},
};

/// All of these cases pass, and leave nothing in the device's memory.
pub(super) fn hold(device: &Device, cases: impl IntoIterator<Item = Case>) {
    let mut failures = Vec::new();
    for case in cases {
        match case.run(device) {
            Ok(outcome) if outcome.passed() => {}
            Ok(outcome) => {
                failures
                    .push(format!("{}: error {:.3e}, bound {:.3e}", case.name, outcome.error, outcome.bound));
            }
            Err(error) => failures.push(format!("{}: {error}", case.name)),
        }
    }
    assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(device.usage().used_bytes, 0, "an operation kept memory");
}

#[cfg(feature = "emulator")]
fn run(reverse: bool) {
    let device = Device::emulator(Capability { major: 8, minor: 0 }, reverse, Settings::default());
    hold(&device, selftest::cases().into_iter().chain(selftest::sampled_cases(Sizes::SMALL)));
}

#[cfg(feature = "emulator")]
#[test]
fn every_operation_agrees_with_its_reference() {
    run(false);
    let idle: Vec<_> =
        selftest::emulated_kernels().into_iter().filter(|(_, launches)| *launches == 0).collect();
    assert!(idle.is_empty(), "kernels that no case runs: {idle:?}");
}

#[cfg(feature = "emulator")]
#[test]
fn no_kernel_notices_the_order_of_threads() {
    run(true);
}
