// What the stand-in driver keeps: memory, streams and events of GPUs that are not there.
//
// One lock guards it all. Must not know which program it serves.
#pragma once
#include <cuda.h>
#include <stdint.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "../kernels/emulator/launch.h"

namespace stand_in {

// When work happens that was asked for: as late as anybody waits for it, at once, at once beside a GPU's first stream and
// late in it, or at moments drawn from a seed.
struct Order {
  enum Kind { LATE, EARLY, BESIDE, RANDOM } kind = LATE;
  uint64_t state = 1;
  uint64_t draw();
};

struct Gpu;

// A point in a stream's order of work.
struct Point {
  std::shared_ptr<struct Stream> stream;
  uint64_t number = 0;
};

// Work in its order. Nothing of it happens before `run_to`.
struct Stream {
  Gpu* gpu;
  std::deque<std::function<void()>> waiting;
  uint64_t asked = 0, done = 0;
  // The destruction has been asked for: nothing may follow.
  bool destroyed = false;
};

struct Event {
  Gpu* gpu;
  Point recorded;
  double reached_ms = -1;
};

struct Allocation {
  uint64_t bytes;
  Gpu* gpu;
  enum State { ASKED, LIVE, FREED } state = ASKED;
  bool free_asked = false;
};

struct Pinned {
  uint64_t bytes;
  // Copies from it that have not happened.
  uint64_t readers = 0;
};

struct Function {
  std::string name;
  uint32_t args_bytes;
  // Dynamic shared memory that a launch may ask for.
  uint32_t shared_bytes = 48 << 10;
};

struct Gpu {
  int ordinal;
  int retained = 0;
  // What the pool has taken of the memory, and which pieces of that are free: it never joins them.
  uint64_t reserved = 0;
  std::multiset<uint64_t> pieces;
  std::vector<std::shared_ptr<Stream>> streams;
};

// Device addresses are the host's under this mark, so that a host that follows one faults.
constexpr uint64_t MARK = 0x5a5aull << 48, MARK_MASK = 0xffffull << 48;

struct World {
  std::vector<std::unique_ptr<Gpu>> gpus;
  uint64_t total_bytes;
  int major, minor, version;
  Order order;
  // By their first address, without the mark.
  std::map<uint64_t, Allocation> allocations;
  std::map<uint64_t, Pinned> pinned;
  // The first fault ends everything that follows.
  CUresult fault = CUDA_SUCCESS;
  // A call to fail: its name, its status, how many more succeed before, and how often it fails.
  std::string failing;
  CUresult failure = CUDA_SUCCESS;
  long successes = 0, failures = 0;

  World();
  void fail(CUresult status, const char* format, ...) __attribute__((format(printf, 3, 4)));
  // The allocation that a marked address lies in.
  std::map<uint64_t, Allocation>::iterator find(uint64_t address);
  // Where `bytes` from a device address lie, at the moment that work touches them; null after a fault.
  unsigned char* touch(const Gpu* gpu, uint64_t address, uint64_t bytes, const char* what);
  Pinned* pinned_at(const void* host, uint64_t bytes);
  void run_to(Stream& stream, uint64_t number);
  // Adds work to a stream, and lets happen what the order says.
  void enqueue(const std::shared_ptr<Stream>& stream, std::function<void()> work);
  void launch(const Gpu* gpu, const Function& function, std::vector<unsigned char> args, EmulatorLaunch request);
};

World& world();
// Held by every call.
extern std::recursive_mutex lock;
// The GPU whose context is the calling thread's.
extern thread_local Gpu* current;
// At a call's begin: the failure that it was asked to have, or the fault that there was.
CUresult entered(const char* call);
double now_ms();

}  // namespace stand_in
