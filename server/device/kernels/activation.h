// Activations in f32, by the formulas of the CPU's operations.
#pragma once
#include "kernel.h"

DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

// GELU by tanh; 0.5 (1 + tanh u) is 1 / (1 + exp(-2 u)), and the constant is 2 sqrt(2 / pi).
DEVICE float gelu_tanh(float x) {
  float u = 1.5957692f * fmaf(0.044715f * x * x, x, x);
  return x / (1.0f + expf(-u));
}
