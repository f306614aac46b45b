// Random numbers by counting: splitmix64 of the seed and the index, made normal by Box and Muller's transform.
#include "kernel.h"

namespace random_cu {

struct NormalArgs {
  Global<void_t> out;
  uint64_t seed;
  float std;
};

DEVICE uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

template <class T>
DEVICE void normal(const NormalArgs& args) {
  Global<T> out = args.out.as<T>();
  uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= out.len) return;
  uint64_t bits = mixed(args.seed ^ mixed(i));
  // 24 bits each, the first never 0.
  float u = (float(bits >> 40) + 1.0f) * 5.9604644775390625e-8f, v = float(bits & 0xffffff) * 5.9604644775390625e-8f;
  out.store(i, from_f32<T>(args.std * sqrtf(-2.0f * logf(u)) * cospif(2.0f * v)));
}

KERNEL_FOR_FLOATS(random_normal, NormalArgs, 256, 1, normal)

}  // namespace random_cu
