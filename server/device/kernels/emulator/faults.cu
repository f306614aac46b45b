// Kernels that are wrong on purpose, each in one way: the emulator must find every one. Not part of a GPU's build.
#include "kernel.h"

namespace faults_cu {

struct FaultArgs {
  Global<float> x;
};

KERNEL(fault_reads_beyond, FaultArgs, 64, 1) { args.x.store(0, args.x.load(threadIdx.x + 1)); }

KERNEL(fault_writes_beyond, FaultArgs, 64, 1) { args.x.store(threadIdx.x + 1, 0.0f); }

KERNEL(fault_takes_unaligned, FaultArgs, 64, 1) { args.x.store_vec<4>(1, args.x.load_vec<4>(0)); }

KERNEL(fault_takes_too_much_shared_memory, FaultArgs, 64, 1) { shared_array<float>(0, 1000)[0] = 1.0f; }

KERNEL(fault_leaves_shared_array, FaultArgs, 64, 1) { shared_array<float>(0, 64)[threadIdx.x + 1] = 1.0f; }

KERNEL(fault_barrier_for_some, FaultArgs, 64, 1) {
  if (threadIdx.x < 32) sync_threads();
}

KERNEL(fault_exchange_for_some, FaultArgs, 64, 1) {
  if (threadIdx.x % 2 == 0) args.x.store(threadIdx.x, warp_sum(1.0f));
}

KERNEL(fault_leaves_copies, FaultArgs, 64, 1) {
  Shared<float> s = shared_array<float>(0, 256);
  copy_async_16(s, 4 * (threadIdx.x % 16), Global<const float>{args.x.data, args.x.len}, 0, true);
}

// Not found as such: the sums that come out differ with the order of threads, or are not numbers.
KERNEL(fault_forgets_a_barrier, FaultArgs, 64, 1) {
  Shared<float> s = shared_array<float>(0, 64);
  s[threadIdx.x] = float(threadIdx.x);
  args.x.store(threadIdx.x, s[63 - threadIdx.x]);
}

KERNEL(fault_reads_before_the_copy, FaultArgs, 64, 1) {
  Shared<float> s = shared_array<float>(0, 256);
  copy_async_16(s, 4 * (threadIdx.x % 16), Global<const float>{args.x.data, args.x.len}, 0, true);
  copy_async_commit();
  args.x.store(threadIdx.x, s[4 * (threadIdx.x % 16)]);
  copy_async_wait<0>();
}

}  // namespace faults_cu
