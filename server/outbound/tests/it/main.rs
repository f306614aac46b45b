//! Calls to others through the public doors, with stubs on the loopback interface and names of the tests' own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its tools too")]

mod addresses;
mod blocklist;
mod hub;
mod hub_stub;
mod prompt_check;
mod refiner;
mod stub;
mod webhook;
mod webhook_guard;
