// What happens on GPUs that are not there, and in which order.
#include "driver.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

namespace stand_in {

std::recursive_mutex lock;
thread_local Gpu* current;

CUresult entered(const char* call) {
  World& w = world();
  if (w.failing == call && w.failures > 0 && w.successes-- <= 0) {
    w.failures--;
    // A fault stays; a lack of memory passes.
    if (w.failure == CUDA_ERROR_ILLEGAL_ADDRESS) w.fail(w.failure, "%s: a fault, as asked", call);
    return w.failure;
  }
  return w.fault;
}

double now_ms() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec * 1e-6;
}

// xorshift64 (Marsaglia, 2003).
uint64_t Order::draw() {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

static std::string setting(const char* name, const char* otherwise) {
  const char* value = getenv(name);
  return value && *value ? value : otherwise;
}

// STAND_IN_GPUS, _CAPABILITY, _MEMORY_MIB, _VERSION say what there is; _ORDER is late, early, beside or random:SEED; _FAIL is
// CALL:STATUS:N or CALL:STATUS:N:M, the call that fails once, or M times, after N that succeed.
World::World() {
  int count = atoi(setting("STAND_IN_GPUS", "1").c_str());
  for (int i = 0; i < count; i++) {
    gpus.push_back(std::make_unique<Gpu>());
    gpus.back()->ordinal = i;
  }
  total_bytes = strtoull(setting("STAND_IN_MEMORY_MIB", "24576").c_str(), nullptr, 10) << 20;
  if (sscanf(setting("STAND_IN_CAPABILITY", "9.0").c_str(), "%d.%d", &major, &minor) != 2) abort();
  version = atoi(setting("STAND_IN_VERSION", "13000").c_str());
  std::string named = setting("STAND_IN_ORDER", "late");
  unsigned long long seed = 0;
  if (named == "early") order.kind = Order::EARLY;
  else if (named == "beside") order.kind = Order::BESIDE;
  else if (sscanf(named.c_str(), "random:%llu", &seed) == 1) order = {Order::RANDOM, seed * 2 + 1};
  else if (named != "late") abort();
  std::string plan = setting("STAND_IN_FAIL", "");
  char call[64];
  int status = 0;
  if (!plan.empty()) {
    failures = 1;
    if (sscanf(plan.c_str(), "%63[^:]:%d:%ld:%ld", call, &status, &successes, &failures) < 3) abort();
    failing = call;
    failure = static_cast<CUresult>(status);
  }
}

World& world() {
  // Never destroyed: threads may still call while the process ends.
  static World* only = new World;
  return *only;
}

void World::fail(CUresult status, const char* format, ...) {
  if (fault != CUDA_SUCCESS) return;
  fault = status;
  fprintf(stderr, "stand-in driver: ");
  va_list list;
  va_start(list, format);
  vfprintf(stderr, format, list);
  va_end(list);
  fprintf(stderr, "\n");
}

std::map<uint64_t, Allocation>::iterator World::find(uint64_t address) {
  uint64_t host = address & ~MARK_MASK;
  auto after = allocations.upper_bound(host);
  if (after == allocations.begin()) return allocations.end();
  auto found = std::prev(after);
  return host - found->first < found->second.bytes ? found : allocations.end();
}

unsigned char* World::touch(const Gpu* gpu, uint64_t address, uint64_t bytes, const char* what) {
  auto found = (address & MARK_MASK) == MARK ? find(address) : allocations.end();
  uint64_t host = address & ~MARK_MASK;
  if (found == allocations.end() || host - found->first + bytes > found->second.bytes) {
    fail(CUDA_ERROR_ILLEGAL_ADDRESS, "%s: %llu bytes at %#llx are in no allocation", what, (unsigned long long)bytes,
         (unsigned long long)address);
    return nullptr;
  }
  const Allocation& allocation = found->second;
  if (allocation.state != Allocation::LIVE) {
    fail(CUDA_ERROR_ILLEGAL_ADDRESS, "%s: the memory at %#llx %s", what, (unsigned long long)address,
         allocation.state == Allocation::FREED ? "was freed before" : "is not allocated yet");
    return nullptr;
  }
  if (allocation.gpu != gpu) {
    fail(CUDA_ERROR_ILLEGAL_ADDRESS, "%s on GPU %d: the memory at %#llx is GPU %d's", what, gpu->ordinal,
         (unsigned long long)address, allocation.gpu->ordinal);
    return nullptr;
  }
  return reinterpret_cast<unsigned char*>(host);
}

Pinned* World::pinned_at(const void* host, uint64_t bytes) {
  uint64_t address = reinterpret_cast<uint64_t>(host);
  auto after = pinned.upper_bound(address);
  if (after == pinned.begin()) return nullptr;
  auto found = std::prev(after);
  return address - found->first + bytes <= found->second.bytes ? &found->second : nullptr;
}

void World::run_to(Stream& stream, uint64_t number) {
  while (stream.done < number) {
    auto work = std::move(stream.waiting.front());
    stream.waiting.pop_front();
    stream.done++;
    // After a fault nothing happens any more, as on a GPU.
    if (fault == CUDA_SUCCESS) work();
  }
}

void World::enqueue(const std::shared_ptr<Stream>& stream, std::function<void()> work) {
  stream->waiting.push_back(std::move(work));
  stream->asked++;
  bool at_once = order.kind == Order::EARLY || (order.kind == Order::BESIDE && stream != stream->gpu->streams[0]);
  if (at_once) return run_to(*stream, stream->asked);
  if (order.kind != Order::RANDOM) return;
  // Some streams go some way.
  for (auto& gpu : gpus) {
    // Work may wait for other streams; it adds none.
    for (auto& other : gpu->streams) {
      if (order.draw() % 2 == 0 || other->asked == other->done) continue;
      run_to(*other, other->done + 1 + order.draw() % (other->asked - other->done));
    }
  }
}

// Puts the host's addresses in the place of the device's, which arguments hold as `Global`: an address and a length.
void World::launch(const Gpu* gpu, const Function& function, std::vector<unsigned char> args, EmulatorLaunch request) {
  for (size_t at = 0; at + 16 <= args.size(); at += 8) {
    uint64_t global[2];
    memcpy(global, &args[at], sizeof global);
    if ((global[0] & MARK_MASK) != MARK) continue;
    unsigned char* host = touch(gpu, global[0], global[1], function.name.c_str());
    if (!host) return;
    memcpy(&args[at], &host, 8);
  }
  char message[512];
  request.name = function.name.c_str();
  request.args = args.data();
  request.args_bytes = uint32_t(args.size());
  request.reverse = order.kind == Order::RANDOM && order.draw() % 2;
  if (emulator_launch(&request, message, sizeof message)) fail(CUDA_ERROR_ILLEGAL_ADDRESS, "%s", message);
}

}  // namespace stand_in
