// What the emulator is asked from outside, by Rust (`emulator.rs`) and by the stand-in driver.
#pragma once
#include <stdint.h>

struct Dim3 { uint32_t x, y, z; };

extern "C" {

struct EmulatorLaunch {
  const char* name;
  const void* args;
  uint32_t args_bytes;
  Dim3 grid, block;
  uint32_t shared_bytes;
  uint32_t reverse;
};

// Runs a kernel; 0, or 1 with a message of at most `message_bytes`.
int emulator_launch(const EmulatorLaunch* launch, char* message, uint32_t message_bytes);
// How many bytes a kernel's arguments take; 0 if there is none of that name.
uint32_t emulator_args_bytes(const char* name);
// The name of kernel `index` and how often it ran; null past the last.
const char* emulator_kernel(uint32_t index, uint64_t* launches);
}
