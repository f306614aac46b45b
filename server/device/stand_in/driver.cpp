// A driver that stands in for NVIDIA's: `libcuda.so.1` for machines without a GPU, over the emulated kernels.
//
// It has the calls that `cuda.rs` and `cuda/streams.rs` make, and forgives nothing: no call without its context, no
// memory before its allocation or after its release in the order of work, no pinned memory that changes under a copy,
// and work happens when it is waited for, at once, or at moments drawn from a seed (`world.cpp`). A fault is printed,
// and every call after it fails, as on a GPU. For tests: it shows nothing of a GPU's speed.
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

using namespace stand_in;

namespace {

// How far a call comes before it is looked at: to the driver, to a context, to a stream of that context.

#define DRIVER_CALL(call)                              \
  std::lock_guard<std::recursive_mutex> guard(lock);   \
  World& w = world();                                  \
  (void)w;                                             \
  if (CUresult status = entered(call)) return status;

#define CONTEXT_CALL(call)                                                \
  DRIVER_CALL(call)                                                       \
  if (!current || !current->retained) {                                   \
    w.fail(CUDA_ERROR_INVALID_CONTEXT, "%s without a context", call);     \
    return w.fault;                                                       \
  }

// Streams and events are handed out as pointers to shared ones.
template <class T>
std::shared_ptr<T>& shared(void* handle) { return *static_cast<std::shared_ptr<T>*>(handle); }

#define STREAM_CALL(call, handle)                                                        \
  CONTEXT_CALL(call)                                                                     \
  if (!(handle)) return CUDA_ERROR_INVALID_HANDLE;                                       \
  std::shared_ptr<Stream> stream = shared<Stream>(handle);                               \
  if (stream->destroyed || stream->gpu != current) return CUDA_ERROR_INVALID_HANDLE;

Gpu* gpu_of(CUdevice device) {
  World& w = world();
  return device >= 0 && size_t(device) < w.gpus.size() ? w.gpus[device].get() : nullptr;
}

}  // namespace

extern "C" {

CUresult cuInit(unsigned flags) {
  DRIVER_CALL("cuInit")
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  return w.gpus.empty() ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int* version) {
  DRIVER_CALL("cuDriverGetVersion")
  *version = w.version;
  return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char** name) {
  switch (error) {
#define NAME(status) case status: *name = #status; return CUDA_SUCCESS;
    NAME(CUDA_SUCCESS) NAME(CUDA_ERROR_INVALID_VALUE) NAME(CUDA_ERROR_OUT_OF_MEMORY) NAME(CUDA_ERROR_NO_DEVICE)
    NAME(CUDA_ERROR_INVALID_DEVICE) NAME(CUDA_ERROR_INVALID_IMAGE) NAME(CUDA_ERROR_INVALID_CONTEXT)
    NAME(CUDA_ERROR_INVALID_HANDLE) NAME(CUDA_ERROR_NOT_FOUND) NAME(CUDA_ERROR_NOT_READY)
    NAME(CUDA_ERROR_ILLEGAL_ADDRESS)
#undef NAME
    default: *name = nullptr; return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuGetErrorString(CUresult error, const char** text) { return cuGetErrorName(error, text); }

CUresult cuDeviceGetCount(int* count) {
  DRIVER_CALL("cuDeviceGetCount")
  *count = int(w.gpus.size());
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  DRIVER_CALL("cuDeviceGet")
  *device = ordinal;
  return gpu_of(ordinal) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetName(char* name, int bytes, CUdevice device) {
  DRIVER_CALL("cuDeviceGetName")
  snprintf(name, size_t(bytes), "stand-in GPU %d", device);
  return gpu_of(device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  DRIVER_CALL("cuDeviceGetAttribute")
  if (!gpu_of(device)) return CUDA_ERROR_INVALID_DEVICE;
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = w.major; return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = w.minor; return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  DRIVER_CALL("cuDevicePrimaryCtxRetain")
  Gpu* gpu = gpu_of(device);
  if (!gpu) return CUDA_ERROR_INVALID_DEVICE;
  // A new context has no streams.
  if (!gpu->retained++) gpu->streams.clear();
  *context = reinterpret_cast<CUcontext>(gpu);
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
  DRIVER_CALL("cuDevicePrimaryCtxRelease")
  Gpu* gpu = gpu_of(device);
  if (!gpu || !gpu->retained) return CUDA_ERROR_INVALID_CONTEXT;
  gpu->retained--;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
  DRIVER_CALL("cuCtxSetCurrent")
  current = reinterpret_cast<Gpu*>(context);
  return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream* handle, unsigned flags) {
  CONTEXT_CALL("cuStreamCreate")
  if (flags != CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
  auto stream = std::make_shared<Stream>();
  stream->gpu = current;
  current->streams.push_back(stream);
  *handle = reinterpret_cast<CUstream>(new std::shared_ptr<Stream>(stream));
  return CUDA_SUCCESS;
}

// The work goes on; the handle is gone. It is not given to the heap again, so that a later use is told.
CUresult cuStreamDestroy(CUstream handle) {
  STREAM_CALL("cuStreamDestroy", handle)
  stream->destroyed = true;
  return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream handle) {
  STREAM_CALL("cuStreamSynchronize", handle)
  w.run_to(*stream, stream->asked);
  return w.fault;
}

CUresult cuStreamWaitEvent(CUstream handle, CUevent event_handle, unsigned flags) {
  STREAM_CALL("cuStreamWaitEvent", handle)
  if (flags || !event_handle) return CUDA_ERROR_INVALID_VALUE;
  Point point = shared<Event>(event_handle)->recorded;
  if (point.stream) w.enqueue(stream, [&w, point] { w.run_to(*point.stream, point.number); });
  return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* handle, unsigned flags) {
  CONTEXT_CALL("cuEventCreate")
  if (flags != CU_EVENT_DEFAULT) return CUDA_ERROR_INVALID_VALUE;
  auto event = std::make_shared<Event>();
  event->gpu = current;
  *handle = reinterpret_cast<CUevent>(new std::shared_ptr<Event>(event));
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent handle) {
  CONTEXT_CALL("cuEventDestroy")
  delete static_cast<std::shared_ptr<Event>*>(static_cast<void*>(handle));
  return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event_handle, CUstream handle) {
  STREAM_CALL("cuEventRecord", handle)
  std::shared_ptr<Event> event = shared<Event>(event_handle);
  if (event->gpu != stream->gpu) return CUDA_ERROR_INVALID_HANDLE;
  event->recorded = {stream, stream->asked + 1};
  event->reached_ms = -1;
  w.enqueue(stream, [event] { event->reached_ms = now_ms(); });
  return CUDA_SUCCESS;
}

CUresult cuEventSynchronize(CUevent handle) {
  CONTEXT_CALL("cuEventSynchronize")
  const Point& point = shared<Event>(handle)->recorded;
  if (point.stream) w.run_to(*point.stream, point.number);
  return w.fault;
}

CUresult cuEventElapsedTime(float* ms, CUevent start, CUevent end) {
  CONTEXT_CALL("cuEventElapsedTime")
  const Event &from = *shared<Event>(start), &to = *shared<Event>(end);
  if (!from.recorded.stream || !to.recorded.stream) return CUDA_ERROR_INVALID_HANDLE;
  if (from.reached_ms < 0 || to.reached_ms < 0) return CUDA_ERROR_NOT_READY;
  *ms = float(to.reached_ms - from.reached_ms);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice device) {
  DRIVER_CALL("cuDeviceGetMemPool")
  *pool = reinterpret_cast<CUmemoryPool>(gpu_of(device));
  return *pool ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void* value) {
  DRIVER_CALL("cuMemPoolSetAttribute")
  // What is freed stays in the pool, as with the largest threshold.
  bool keeps = attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD && *static_cast<cuuint64_t*>(value) == UINT64_MAX;
  return pool && keeps ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t kept) {
  DRIVER_CALL("cuMemPoolTrimTo")
  Gpu* gpu = reinterpret_cast<Gpu*>(pool);
  if (kept) return CUDA_ERROR_INVALID_VALUE;
  for (uint64_t piece : gpu->pieces) gpu->reserved -= piece;
  gpu->pieces.clear();
  return CUDA_SUCCESS;
}

CUresult cuMemGetInfo(size_t* free, size_t* total) {
  CONTEXT_CALL("cuMemGetInfo")
  *total = w.total_bytes;
  *free = w.total_bytes - current->reserved;
  return CUDA_SUCCESS;
}

CUresult cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream handle) {
  STREAM_CALL("cuMemAllocAsync", handle)
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  auto piece = current->pieces.lower_bound(bytes);
  bool is_new = piece == current->pieces.end();
  if (is_new && current->reserved + bytes > w.total_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  if (is_new) {
    current->reserved += bytes;
  } else {
    uint64_t rest = *piece - bytes;
    current->pieces.erase(piece);
    if (rest) current->pieces.insert(rest);
  }
  uint64_t host = reinterpret_cast<uint64_t>(memory);
  w.allocations[host] = {bytes, current};
  *address = host | MARK;
  w.enqueue(stream, [&w, host] {
    Allocation& allocation = w.allocations[host];
    allocation.state = Allocation::LIVE;
    // Not a number in every format; what is larger is not filled, or a test of large sizes would take that much memory.
    const uint64_t MOST = 64 << 20;
    memset(reinterpret_cast<void*>(host), 0xff, allocation.bytes < MOST ? allocation.bytes : MOST);
  });
  return CUDA_SUCCESS;
}

CUresult cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
  STREAM_CALL("cuMemFreeAsync", handle)
  uint64_t host = address & ~MARK_MASK;
  auto found = w.allocations.find(host);
  if (found == w.allocations.end() || found->second.free_asked) {
    w.fail(CUDA_ERROR_ILLEGAL_ADDRESS, "cuMemFreeAsync: %#llx is no allocation, or was given back",
           (unsigned long long)address);
    return w.fault;
  }
  found->second.free_asked = true;
  current->pieces.insert(found->second.bytes);
  w.enqueue(stream, [&w, host] {
    Allocation& allocation = w.allocations[host];
    allocation.state = Allocation::FREED;
    // The address stays taken, so that a later use is told.
    mmap(reinterpret_cast<void*>(host), allocation.bytes, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  });
  return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void** host, size_t bytes, unsigned flags) {
  CONTEXT_CALL("cuMemHostAlloc")
  if (!bytes || (flags & ~unsigned(CU_MEMHOSTALLOC_PORTABLE))) return CUDA_ERROR_INVALID_VALUE;
  void* memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (!memory) return CUDA_ERROR_OUT_OF_MEMORY;
  memset(memory, 0xff, bytes);
  w.pinned[reinterpret_cast<uint64_t>(memory)] = {bytes};
  *host = memory;
  return CUDA_SUCCESS;
}

CUresult cuMemFreeHost(void* host) {
  CONTEXT_CALL("cuMemFreeHost")
  auto found = w.pinned.find(reinterpret_cast<uint64_t>(host));
  if (found == w.pinned.end() || found->second.readers) {
    w.fail(CUDA_ERROR_ILLEGAL_ADDRESS, "cuMemFreeHost: %p is no pinned memory, or a copy still reads it", host);
    return w.fault;
  }
  w.pinned.erase(found);
  free(host);
  return CUDA_SUCCESS;
}

// From pageable memory the driver has copied when it returns; pinned memory is read when the work happens.
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream handle) {
  STREAM_CALL("cuMemcpyHtoDAsync", handle)
  const Gpu* gpu = current;
  if (Pinned* source = w.pinned_at(from, bytes)) {
    source->readers++;
    w.enqueue(stream, [&w, gpu, to, from, bytes, source] {
      source->readers--;
      if (unsigned char* target = w.touch(gpu, to, bytes, "cuMemcpyHtoDAsync")) memcpy(target, from, bytes);
    });
    return CUDA_SUCCESS;
  }
  const unsigned char* first = static_cast<const unsigned char*>(from);
  std::vector<unsigned char> staged(first, first + bytes);
  w.enqueue(stream, [&w, gpu, to, staged = std::move(staged)] {
    unsigned char* target = w.touch(gpu, to, staged.size(), "cuMemcpyHtoDAsync");
    if (target && !staged.empty()) memcpy(target, staged.data(), staged.size());
  });
  return CUDA_SUCCESS;
}

// To pageable memory it returns when the bytes are there.
CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream handle) {
  STREAM_CALL("cuMemcpyDtoHAsync", handle)
  const Gpu* gpu = current;
  w.enqueue(stream, [&w, gpu, to, from, bytes] {
    if (unsigned char* source = w.touch(gpu, from, bytes, "cuMemcpyDtoHAsync")) memcpy(to, source, bytes);
  });
  w.run_to(*stream, stream->asked);
  return w.fault;
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream handle) {
  STREAM_CALL("cuMemcpyDtoDAsync", handle)
  const Gpu* gpu = current;
  w.enqueue(stream, [&w, gpu, to, from, bytes] {
    unsigned char* source = w.touch(gpu, from, bytes, "cuMemcpyDtoDAsync");
    unsigned char* target = source ? w.touch(gpu, to, bytes, "cuMemcpyDtoDAsync") : nullptr;
    if (!target) return;
    if (source < target + bytes && target < source + bytes) w.fail(CUDA_ERROR_ILLEGAL_ADDRESS, "cuMemcpyDtoDAsync: ranges overlap");
    else memcpy(target, source, bytes);
  });
  return CUDA_SUCCESS;
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream handle) {
  STREAM_CALL("cuMemsetD8Async", handle)
  const Gpu* gpu = current;
  w.enqueue(stream, [&w, gpu, to, value, bytes] {
    if (unsigned char* target = w.touch(gpu, to, bytes, "cuMemsetD8Async")) memset(target, value, bytes);
  });
  return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  CONTEXT_CALL("cuModuleLoadData")
  const uint32_t FATBIN = 0xba55ed50;
  uint32_t magic;
  memcpy(&magic, image, 4);
  if (magic != FATBIN) return CUDA_ERROR_INVALID_IMAGE;
  *module = reinterpret_cast<CUmodule>(current);
  return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule module) {
  CONTEXT_CALL("cuModuleUnload")
  return module == reinterpret_cast<CUmodule>(current) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

// The images are not read: every module has every kernel.
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  CONTEXT_CALL("cuModuleGetFunction")
  if (module != reinterpret_cast<CUmodule>(current)) return CUDA_ERROR_INVALID_HANDLE;
  uint32_t args_bytes = emulator_args_bytes(name);
  if (!args_bytes) return CUDA_ERROR_NOT_FOUND;
  *function = reinterpret_cast<CUfunction>(new Function{name, args_bytes});
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
  CONTEXT_CALL("cuFuncSetAttribute")
  // Of 9.0; the program asks for what its own table allows.
  const int MOST = 227 << 10;
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > MOST) return CUDA_ERROR_INVALID_VALUE;
  reinterpret_cast<Function*>(handle)->shared_bytes = uint32_t(value);
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared_bytes, CUstream stream_handle, void** params, void** extra) {
  STREAM_CALL("cuLaunchKernel", stream_handle)
  const Function& function = *reinterpret_cast<Function*>(handle);
  bool fits = gx && gy && gz && bx && by && bz && gy <= 65535 && gz <= 65535 && uint64_t(bx) * by * bz <= 1024;
  if (!fits || extra || shared_bytes > function.shared_bytes) return CUDA_ERROR_INVALID_VALUE;
  const unsigned char* first = static_cast<const unsigned char*>(params[0]);
  std::vector<unsigned char> args(first, first + function.args_bytes);
  EmulatorLaunch request{nullptr, nullptr, 0, {gx, gy, gz}, {bx, by, bz}, shared_bytes, 0};
  const Gpu* gpu = current;
  w.enqueue(stream, [&w, gpu, &function, args = std::move(args), request] { w.launch(gpu, function, args, request); });
  return CUDA_SUCCESS;
}
}
