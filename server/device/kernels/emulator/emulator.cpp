// Runs the threads of a block on stacks of their own, one at a time, and switches at barriers.
//
// A launch ends at the first fault, with a message that names the kernel, the block and the thread. Relies on nothing
// but the two stack switches below; knows no kernel: they register themselves.
#include "emulator.h"

#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

extern "C" void emulator_switch_stack(void** save, void* load);

// Saves the registers that a call preserves on this stack, and continues on the other one.
#if defined(__x86_64__)
asm(R"(
.text
.globl emulator_switch_stack
.type emulator_switch_stack,@function
emulator_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch_stack,.-emulator_switch_stack
)");
static const size_t SAVED_WORDS = 6;
#elif defined(__aarch64__)
asm(R"(
.text
.globl emulator_switch_stack
.type emulator_switch_stack,%function
emulator_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size emulator_switch_stack,.-emulator_switch_stack
)");
#else
#error "the emulator switches stacks on x86-64 and aarch64 only"
#endif

namespace emulator {

__thread Current current;

namespace {

const size_t STACK_BYTES = 128 << 10;
const uint32_t MAX_THREADS = 1024, WARP = 32;

struct Kernel { Body body; uint32_t args_bytes, max_threads; uint64_t launches; };

std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}
std::mutex& kernels_lock() {
  static std::mutex lock;
  return lock;
}

struct Copy { unsigned char* to; const unsigned char* from; bool valid; };

enum class State { Ready, AtBarrier, AtExchange, Done };

struct Thread {
  void* stack_pointer;
  State state;
  Dim3 index;
  uint32_t parity;
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
};

struct Block {
  const Kernel* kernel;
  const char* name;
  const void* args;
  bool reverse;
  void* scheduler;
  uint32_t running;
  std::vector<Thread> threads;
  std::vector<unsigned char> slots;
  unsigned char* shared;
  uint64_t shared_bytes;
  bool failed;
  char message[512];
};

__thread Block* block;
__thread unsigned char* stacks;

void to_scheduler() { emulator_switch_stack(&block->threads[block->running].stack_pointer, block->scheduler); }

// Where a thread's stack begins.
void thread_entry() {
  block->kernel->body(block->args);
  Thread& thread = block->threads[block->running];
  if (!thread.open.empty() || !thread.groups.empty()) fail("ends with copies under way");
  thread.state = State::Done;
  to_scheduler();
  abort();
}

void prepare_stack(uint32_t index) {
  void** top = reinterpret_cast<void**>(stacks + (index + 1) * STACK_BYTES);
#if defined(__x86_64__)
  *--top = nullptr;  // keeps the alignment that a call leaves
  *--top = reinterpret_cast<void*>(thread_entry);
  for (size_t i = 0; i < SAVED_WORDS; i++) *--top = nullptr;
#else
  top -= 20;
  memset(top, 0, 160);
  top[11] = reinterpret_cast<void*>(thread_entry);
#endif
  block->threads[index].stack_pointer = top;
}

// Runs the threads from `first` to before `end` that can run.
void run_threads(uint32_t first, uint32_t end) {
  for (uint32_t i = first; i < end && !block->failed; i++) {
    uint32_t index = block->reverse ? end - 1 - (i - first) : i;
    Thread& thread = block->threads[index];
    if (thread.state != State::Ready) continue;
    block->running = index;
    current.thread = thread.index;
    emulator_switch_stack(&block->scheduler, thread.stack_pointer);
  }
}

// One warp after the other, each through all its exchanges as far as it comes without the block: a barrier that is
// missing then shows between any two warps.
void run_ready() {
  uint32_t count = uint32_t(block->threads.size()), warps = (count + WARP - 1) / WARP;
  for (uint32_t i = 0; i < warps; i++) {
    uint32_t first = (block->reverse ? warps - 1 - i : i) * WARP, end = first + WARP < count ? first + WARP : count;
    bool together = true;
    while (together && !block->failed) {
      run_threads(first, end);
      together = end - first == WARP;
      for (uint32_t t = first; t < end; t++) together = together && block->threads[t].state == State::AtExchange;
      for (uint32_t t = first; together && t < end; t++) block->threads[t].state = State::Ready;
    }
  }
}

// Lets go on whoever waits for threads that have all come; false if nobody does.
bool release() {
  uint32_t count = uint32_t(block->threads.size()), at_barrier = 0, done = 0;
  bool any = false;
  for (uint32_t first = 0; first < count; first += WARP) {
    uint32_t end = first + WARP < count ? first + WARP : count, at_exchange = 0, gone = 0;
    for (uint32_t i = first; i < end; i++) {
      at_exchange += block->threads[i].state == State::AtExchange;
      at_barrier += block->threads[i].state == State::AtBarrier;
      gone += block->threads[i].state == State::Done;
    }
    done += gone;
    if (at_exchange == 0) continue;
    if (at_exchange < WARP) {
      snprintf(block->message, sizeof block->message, "%s: only %u lanes of a warp take part in an exchange", block->name,
               at_exchange);
      block->failed = true;
      return false;
    }
    for (uint32_t i = first; i < end; i++) block->threads[i].state = State::Ready;
    any = true;
  }
  if (any || done == count) return any;
  if (at_barrier + done == count) {
    if (done > 0) {
      snprintf(block->message, sizeof block->message, "%s: %u threads wait at a barrier, %u have ended", block->name,
               at_barrier, done);
      block->failed = true;
      return false;
    }
    for (Thread& thread : block->threads) thread.state = State::Ready;
    return true;
  }
  return false;
}

void run_block() {
  uint32_t index = 0;
  for (Thread& thread : block->threads) {
    const Dim3& dim = current.block_dim;
    thread.state = State::Ready;
    thread.index = {index % dim.x, index / dim.x % dim.y, index / dim.x / dim.y};
    thread.parity = 0;
    thread.groups.clear();
    thread.open.clear();
    prepare_stack(index++);
  }
  // Not a number in every format.
  memset(block->shared, 0xff, block->shared_bytes);
  do run_ready();
  while (!block->failed && release());
  for (const Thread& thread : block->threads) {
    if (block->failed || thread.state == State::Done) continue;
    snprintf(block->message, sizeof block->message, "%s: threads of a warp wait for each other at different places", block->name);
    block->failed = true;
  }
}

}  // namespace

void fail(const char* format, ...) {
  const Dim3 &b = current.block, &t = current.thread;
  int used = snprintf(block->message, sizeof block->message, "%s: block (%u, %u, %u), thread (%u, %u, %u) ", block->name,
                      b.x, b.y, b.z, t.x, t.y, t.z);
  va_list list;
  va_start(list, format);
  vsnprintf(block->message + used, sizeof block->message - used, format, list);
  va_end(list);
  block->failed = true;
  to_scheduler();
  abort();
}

void sync_threads() {
  block->threads[block->running].state = State::AtBarrier;
  to_scheduler();
}

uint32_t lane() { return block->running % WARP; }

Exchange exchange(const void* data, uint32_t bytes) {
  Thread& thread = block->threads[block->running];
  if (bytes > SLOT_BYTES) fail("exchanges %u bytes", bytes);
  uint32_t parity = thread.parity;
  thread.parity ^= 1;
  if (bytes > 0) memcpy(&block->slots[(parity * MAX_THREADS + block->running) * SLOT_BYTES], data, bytes);
  thread.state = State::AtExchange;
  to_scheduler();
  return {&block->slots[(parity * MAX_THREADS + block->running / WARP * WARP) * SLOT_BYTES]};
}

unsigned char* shared_memory(uint32_t offset_bytes, uint64_t bytes) {
  if (offset_bytes + bytes > block->shared_bytes)
    fail("takes shared memory up to byte %llu of %llu", (unsigned long long)(offset_bytes + bytes),
         (unsigned long long)block->shared_bytes);
  return block->shared + offset_bytes;
}

void copy_later(unsigned char* to, const unsigned char* from, bool valid) {
  block->threads[block->running].open.push_back({to, from, valid});
}
void commit_copies() {
  Thread& thread = block->threads[block->running];
  thread.groups.push_back(thread.open);
  thread.open.clear();
}
void wait_copies(uint32_t groups) {
  Thread& thread = block->threads[block->running];
  size_t ready = thread.groups.size() > groups ? thread.groups.size() - groups : 0;
  for (size_t i = 0; i < ready; i++) {
    for (const Copy& copy : thread.groups[i]) {
      if (copy.valid) memcpy(copy.to, copy.from, 16);
      else memset(copy.to, 0, 16);
    }
  }
  thread.groups.erase(thread.groups.begin(), thread.groups.begin() + ready);
}

void check_aligned(const void* address, uint64_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes) fail("takes %llu bytes at once that are not aligned", (unsigned long long)bytes);
}

Registration::Registration(const char* name, Body body, uint32_t args_bytes, uint32_t max_threads) {
  kernels()[name] = {body, args_bytes, max_threads, 0};
}

}  // namespace emulator

using namespace emulator;

extern "C" {

int emulator_launch(const EmulatorLaunch* launch, char* message, uint32_t message_bytes) {
  Kernel kernel;
  {
    std::lock_guard<std::mutex> guard(kernels_lock());
    auto found = kernels().find(launch->name);
    if (found == kernels().end()) {
      snprintf(message, message_bytes, "%s: no such kernel", launch->name);
      return 1;
    }
    found->second.launches++;
    kernel = found->second;
  }
  uint64_t count = uint64_t(launch->block.x) * launch->block.y * launch->block.z;
  if (kernel.args_bytes != launch->args_bytes) {
    snprintf(message, message_bytes, "%s: expected %u bytes of arguments, found %u", launch->name, kernel.args_bytes,
             launch->args_bytes);
    return 1;
  }
  if (count == 0 || count > kernel.max_threads || count > MAX_THREADS || launch->grid.y > 65535 || launch->grid.z > 65535) {
    snprintf(message, message_bytes, "%s: cannot be launched with %llu threads, grid (%u, %u, %u)", launch->name,
             (unsigned long long)count, launch->grid.x, launch->grid.y, launch->grid.z);
    return 1;
  }
  if (!stacks) {
    void* memory = mmap(nullptr, STACK_BYTES * MAX_THREADS, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      snprintf(message, message_bytes, "no memory for stacks");
      return 1;
    }
    stacks = static_cast<unsigned char*>(memory);
  }
  Block state{};
  state.kernel = &kernel;
  state.name = launch->name;
  state.args = launch->args;
  state.reverse = launch->reverse;
  state.threads.resize(count);
  state.slots.resize(2 * MAX_THREADS * SLOT_BYTES);
  state.shared_bytes = launch->shared_bytes;
  state.shared = static_cast<unsigned char*>(aligned_alloc(1024, (launch->shared_bytes + 1024) / 1024 * 1024));
  block = &state;
  current.block_dim = launch->block;
  current.grid_dim = launch->grid;
  uint64_t blocks = uint64_t(launch->grid.x) * launch->grid.y * launch->grid.z;
  for (uint64_t i = 0; i < blocks && !state.failed; i++) {
    uint64_t index = launch->reverse ? blocks - 1 - i : i;
    current.block = {uint32_t(index % launch->grid.x), uint32_t(index / launch->grid.x % launch->grid.y),
                     uint32_t(index / launch->grid.x / launch->grid.y)};
    run_block();
  }
  block = nullptr;
  free(state.shared);
  if (state.failed) snprintf(message, message_bytes, "%s", state.message);
  return state.failed;
}

uint32_t emulator_args_bytes(const char* name) {
  std::lock_guard<std::mutex> guard(kernels_lock());
  auto found = kernels().find(name);
  return found == kernels().end() ? 0 : found->second.args_bytes;
}

const char* emulator_kernel(uint32_t index, uint64_t* launches) {
  std::lock_guard<std::mutex> guard(kernels_lock());
  for (const auto& kernel : kernels()) {
    if (index-- == 0) {
      *launches = kernel.second.launches;
      return kernel.first.c_str();
    }
  }
  return nullptr;
}
}
