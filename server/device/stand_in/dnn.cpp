// A library that stands in for cuDNN 9: its backend API, for attention as one operation and for convolutions with a bias.
//
// It computes from what the descriptors say and nothing else, element by element through their strides. A descriptor is
// of no use before it is final or after it is destroyed, and none of its attributes may be left out or be of another type.
#include "driver.h"

#include <cudnn_graph.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "numbers.h"

using namespace stand_in;

namespace {

struct Attribute {
  cudnnBackendAttributeType_t type;
  int64_t count;
  std::vector<unsigned char> bytes;
};

struct Descriptor {
  cudnnBackendDescriptorType_t kind;
  bool is_final = false, destroyed = false;
  std::map<int, Attribute> attributes;
  // Of an engine and its configuration.
  Descriptor* graph = nullptr;
  int64_t number = 0;

  template <class T>
  std::vector<T> all(cudnnBackendAttributeName_t name) const {
    std::vector<T> values;
    auto found = attributes.find(name);
    if (found == attributes.end()) return values;
    values.resize(size_t(found->second.count));
    memcpy(values.data(), found->second.bytes.data(), values.size() * sizeof(T));
    return values;
  }
  template <class T>
  T one(cudnnBackendAttributeName_t name, T otherwise = T()) const {
    std::vector<T> values = all<T>(name);
    return values.empty() ? otherwise : values[0];
  }
  Descriptor* part(cudnnBackendAttributeName_t name) const { return one<Descriptor*>(name); }
};

struct DnnHandle {
  Gpu* gpu;
  std::shared_ptr<Stream> stream;
};

thread_local char last_error[256];

cudnnStatus_t refused(cudnnStatus_t status, const char* why) {
  snprintf(last_error, sizeof last_error, "%s", why);
  return status;
}

size_t size_of(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR: return 8;
    case CUDNN_TYPE_BOOLEAN:
    case CUDNN_TYPE_CHAR: return 1;
    default: return 4;
  }
}

// What a descriptor cannot do without.
std::vector<cudnnBackendAttributeName_t> required(cudnnBackendDescriptorType_t kind) {
  switch (kind) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
      return {CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT,
              CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_ATTR_TENSOR_STRIDES};
    case CUDNN_BACKEND_POINTWISE_DESCRIPTOR: return {CUDNN_ATTR_POINTWISE_MODE, CUDNN_ATTR_POINTWISE_MATH_PREC};
    case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR:
      return {CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_ATTR_CONVOLUTION_DILATIONS,
              CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS,
              CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS};
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y};
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
              CUDNN_ATTR_OPERATION_POINTWISE_YDESC};
    case CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC,
              CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC};
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR: return {CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_ATTR_OPERATIONGRAPH_OPS};
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR: return {CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH};
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
      return {CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG};
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
      return {CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_ATTR_VARIANT_PACK_WORKSPACE};
    default: return {};
  }
}

Type type_of(const Descriptor* tensor) {
  switch (tensor->one<int32_t>(CUDNN_ATTR_TENSOR_DATA_TYPE)) {
    case CUDNN_DATA_HALF: return Type::F16;
    case CUDNN_DATA_BFLOAT16: return Type::BF16;
    default: return Type::F32;
  }
}

// A tensor of a graph: what its descriptor says, and where its elements are.
struct View {
  Type type;
  std::vector<int64_t> dims, strides;
  unsigned char* data = nullptr;

  explicit View(const Descriptor* tensor)
      : type(type_of(tensor)),
        dims(tensor->all<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS)),
        strides(tensor->all<int64_t>(CUDNN_ATTR_TENSOR_STRIDES)) {}
  uint64_t bytes() const {
    int64_t last = 0;
    for (size_t i = 0; i < dims.size(); i++) last += (dims[i] - 1) * strides[i];
    return uint64_t(last + 1) * bytes_of(type);
  }
  // Of an index; a dimension of size 1 stands for every index.
  int64_t at(std::initializer_list<int64_t> index) const {
    int64_t offset = 0;
    size_t i = 0;
    for (int64_t value : index) {
      if (dims[i] > 1) offset += value * strides[i];
      i++;
    }
    return offset;
  }
  float get(std::initializer_list<int64_t> index) const { return element(data, type, at(index)); }
  void set(std::initializer_list<int64_t> index, float value) const { put(data, type, at(index), value); }
};

// What an execution was given: device addresses by id, and numbers that were read at the call.
struct Given {
  std::map<int64_t, uint64_t> addresses;
  std::map<int64_t, float> values;
};

int64_t id_of(const Descriptor* tensor) { return tensor->one<int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID); }

View bound(const Descriptor* tensor, const Given& given, const Gpu* gpu) {
  View view(tensor);
  auto found = given.addresses.find(id_of(tensor));
  uint64_t address = found == given.addresses.end() ? 0 : found->second;
  if (address % uint64_t(tensor->one<int64_t>(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT)))
    world().fail(CUDA_ERROR_ILLEGAL_ADDRESS, "cudnnBackendExecute: %#llx is not aligned", (unsigned long long)address);
  else view.data = world().touch(gpu, address, view.bytes(), "cudnnBackendExecute");
  return view;
}

void attend(const Descriptor& operation, const Given& given, const Gpu* gpu) {
  View q = bound(operation.part(CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC), given, gpu);
  View k = bound(operation.part(CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC), given, gpu);
  View v = bound(operation.part(CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC), given, gpu);
  View o = bound(operation.part(CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC), given, gpu);
  if (world().fault) return;
  float scale = given.values.at(id_of(operation.part(CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC)));
  int64_t keys = k.dims[2], size = q.dims[3];
  std::vector<float> weights(keys);
  for (int64_t b = 0; b < q.dims[0]; b++)
    for (int64_t h = 0; h < q.dims[1]; h++)
      for (int64_t i = 0; i < q.dims[2]; i++) {
        float most = -INFINITY, sum = 0;
        for (int64_t j = 0; j < keys; j++) {
          float score = 0;
          for (int64_t e = 0; e < size; e++) score += q.get({b, h, i, e}) * k.get({b, h, j, e});
          weights[j] = score * scale;
          most = fmaxf(most, weights[j]);
        }
        for (float& weight : weights) {
          weight = expf(weight - most);
          sum += weight;
          weight = rounded_to(v.type, weight);
        }
        for (int64_t e = 0; e < v.dims[3]; e++) {
          float result = 0;
          for (int64_t j = 0; j < keys; j++) result += weights[j] * v.get({b, h, j, e});
          o.set({b, h, i, e}, result / sum);
        }
      }
}

// With the bias that a second operation adds, if there is one.
void convolve(const Descriptor& operation, const Descriptor* addition, const Given& given, const Gpu* gpu) {
  const Descriptor& how = *operation.part(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
  auto pads = how.all<int64_t>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS), post = how.all<int64_t>(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS);
  auto steps = how.all<int64_t>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES), dilations = how.all<int64_t>(CUDNN_ATTR_CONVOLUTION_DILATIONS);
  View x = bound(operation.part(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X), given, gpu);
  View w = bound(operation.part(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W), given, gpu);
  const Descriptor* last = addition ? addition->part(CUDNN_ATTR_OPERATION_POINTWISE_YDESC)
                                    : operation.part(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y);
  View y = bound(last, given, gpu);
  View bias = addition ? bound(addition->part(CUDNN_ATTR_OPERATION_POINTWISE_BDESC), given, gpu) : x;
  float alpha = operation.one<float>(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA);
  for (int i = 0; i < 3; i++) {
    int64_t reach = dilations[i] * (w.dims[i + 2] - 1) + 1;
    if ((pads[i] + x.dims[i + 2] + post[i] - reach) / steps[i] + 1 != y.dims[i + 2])
      world().fail(CUDA_ERROR_ILLEGAL_ADDRESS, "cudnnBackendExecute: the result has %lld in dimension %d", (long long)y.dims[i + 2], i);
  }
  if (world().fault) return;
  auto sum_at = [&](int64_t n, int64_t k, int64_t d, int64_t h, int64_t v) {
    float sum = 0;
    for (int64_t a = 0; a < w.dims[2]; a++)
      for (int64_t b = 0; b < w.dims[3]; b++)
        for (int64_t e = 0; e < w.dims[4]; e++) {
          int64_t i = d * steps[0] + a * dilations[0] - pads[0], j = h * steps[1] + b * dilations[1] - pads[1],
                  l = v * steps[2] + e * dilations[2] - pads[2];
          if (i < 0 || i >= x.dims[2] || j < 0 || j >= x.dims[3] || l < 0 || l >= x.dims[4]) continue;
          for (int64_t c = 0; c < x.dims[1]; c++) sum += x.get({n, c, i, j, l}) * w.get({k, c, a, b, e});
        }
    return sum;
  };
  for (int64_t n = 0; n < y.dims[0]; n++)
    for (int64_t k = 0; k < y.dims[1]; k++)
      for (int64_t d = 0; d < y.dims[2]; d++)
        for (int64_t h = 0; h < y.dims[3]; h++)
          for (int64_t v = 0; v < y.dims[4]; v++)
            y.set({n, k, d, h, v}, alpha * sum_at(n, k, d, h, v) + (addition ? bias.get({n, k, d, h, v}) : 0));
}

bool is(const Descriptor* operation, cudnnBackendDescriptorType_t kind) { return operation->kind == kind; }

// Whether a graph is one that is computed here.
bool supported(const Descriptor& graph) {
  auto operations = graph.all<Descriptor*>(CUDNN_ATTR_OPERATIONGRAPH_OPS);
  if (operations.size() == 1 && is(operations[0], CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR)) return true;
  bool convolves = !operations.empty() && is(operations[0], CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR) &&
                   operations[0]->one<float>(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA) == 0;
  if (!convolves || operations.size() > 2) return false;
  if (operations.size() == 1) return true;
  const Descriptor& addition = *operations[1];
  return is(&addition, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR) &&
         addition.part(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR)->one<int32_t>(CUDNN_ATTR_POINTWISE_MODE) == CUDNN_POINTWISE_ADD &&
         addition.part(CUDNN_ATTR_OPERATION_POINTWISE_XDESC) == operations[0]->part(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y) &&
         addition.part(CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
}

const int64_t WORKSPACE_BYTES = 4096;

Descriptor& of(cudnnBackendDescriptor_t descriptor) { return *static_cast<Descriptor*>(descriptor); }

// Fills in descriptors that the caller made: engines' configurations, or a configuration's engine.
cudnnStatus_t fill(const Descriptor& from, int64_t numbers, int64_t room, int64_t* count, void* values) {
  *count = numbers;
  for (int64_t i = 0; i < room && i < numbers; i++) {
    Descriptor& filled = *static_cast<Descriptor**>(values)[i];
    filled.graph = from.graph ? from.graph : from.part(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
    filled.number = from.graph ? from.number : i;
    filled.is_final = true;
  }
  if (room && *count > room) *count = room;
  return CUDNN_STATUS_SUCCESS;
}

}  // namespace

extern "C" {

size_t cudnnGetVersion(void) { return CUDNN_VERSION; }
void cudnnGetLastErrorString(char* message, size_t bytes) { snprintf(message, bytes, "%s", last_error); }

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (!current) return refused(CUDNN_STATUS_NOT_INITIALIZED, "no context");
  *handle = reinterpret_cast<cudnnHandle_t>(new DnnHandle{current, nullptr});
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
  delete reinterpret_cast<DnnHandle*>(handle);
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  reinterpret_cast<DnnHandle*>(handle)->stream = *reinterpret_cast<std::shared_ptr<Stream>*>(stream);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t kind, cudnnBackendDescriptor_t* descriptor) {
  auto* made = new Descriptor;
  made->kind = kind;
  *descriptor = made;
  return CUDNN_STATUS_SUCCESS;
}
// Not given to the heap again, so that a later use is told.
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  of(descriptor).destroyed = true;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void* values) {
  if (of(descriptor).is_final) return refused(CUDNN_STATUS_BAD_PARAM, "the descriptor is final");
  if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
    for (int64_t i = 0; i < count; i++)
      if (!static_cast<Descriptor* const*>(values)[i]->is_final) return refused(CUDNN_STATUS_BAD_PARAM, "a part is not final");
  const auto* first = static_cast<const unsigned char*>(values);
  of(descriptor).attributes[name] = {type, count, {first, first + size_t(count) * size_of(type)}};
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t handle) {
  Descriptor& descriptor = of(handle);
  for (auto name : required(descriptor.kind))
    if (!descriptor.attributes.count(name)) return refused(CUDNN_STATUS_BAD_PARAM, "an attribute is missing");
  if (descriptor.kind == CUDNN_BACKEND_TENSOR_DESCRIPTOR &&
      descriptor.attributes[CUDNN_ATTR_TENSOR_DIMENSIONS].count != descriptor.attributes[CUDNN_ATTR_TENSOR_STRIDES].count)
    return refused(CUDNN_STATUS_BAD_PARAM, "as many strides as dimensions");
  descriptor.is_final = true;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const handle, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t room, int64_t* count, void* values) {
  const Descriptor& descriptor = of(handle);
  if (!descriptor.is_final) return refused(CUDNN_STATUS_BAD_PARAM, "the descriptor is not final");
  switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS: {
      bool proposes = descriptor.one<int32_t>(CUDNN_ATTR_ENGINEHEUR_MODE) == CUDNN_HEUR_MODE_A;
      return fill(descriptor, proposes && supported(*descriptor.part(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH)) ? 2 : 0, room, count, values);
    }
    case CUDNN_ATTR_ENGINECFG_ENGINE: return fill(descriptor, 1, room, count, values);
    case CUDNN_ATTR_ENGINE_GLOBAL_INDEX: *static_cast<int64_t*>(values) = descriptor.number; *count = 1; return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
    case CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE: *count = 0; return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
      if (type != CUDNN_TYPE_INT64 || room < 1) return refused(CUDNN_STATUS_BAD_PARAM, "the workspace is an int64");
      *static_cast<int64_t*>(values) = WORKSPACE_BYTES;
      *count = 1;
      return CUDNN_STATUS_SUCCESS;
    default: return refused(CUDNN_STATUS_NOT_SUPPORTED, "this attribute is not told");
  }
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  World& w = world();
  if (CUresult status = entered("cudnnBackendExecute")) return w.fault ? CUDNN_STATUS_EXECUTION_FAILED : cudnnStatus_t(status);
  const DnnHandle& given_handle = *reinterpret_cast<DnnHandle*>(handle);
  const Descriptor *config = of(plan).part(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG), *graph = config->graph;
  if (config->destroyed || graph->destroyed || given_handle.gpu != current) return refused(CUDNN_STATUS_BAD_PARAM, "something is gone");
  auto operations = graph->all<Descriptor*>(CUDNN_ATTR_OPERATIONGRAPH_OPS);
  for (const Descriptor* operation : operations)
    if (operation->destroyed) return refused(CUDNN_STATUS_BAD_PARAM, "an operation is gone");
  auto ids = of(pack).all<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
  auto pointers = of(pack).all<uint64_t>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
  if (ids.size() != pointers.size()) return refused(CUDNN_STATUS_BAD_PARAM, "as many ids as pointers");
  Given given;
  for (size_t i = 0; i < ids.size(); i++) {
    if ((pointers[i] & MARK_MASK) == MARK) given.addresses[ids[i]] = pointers[i];
    // A number on the host, which is read now.
    else memcpy(&given.values[ids[i]], reinterpret_cast<const void*>(pointers[i]), sizeof(float));
  }
  uint64_t workspace = of(pack).one<uint64_t>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
  const Gpu* gpu = current;
  w.enqueue(given_handle.stream, [&w, gpu, given, workspace, operations] {
    // Whatever was in it is lost.
    if (unsigned char* scratch = w.touch(gpu, workspace, WORKSPACE_BYTES, "cudnnBackendExecute")) memset(scratch, 0xff, WORKSPACE_BYTES);
    if (w.fault) return;
    if (is(operations[0], CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR)) attend(*operations[0], given, gpu);
    else convolve(*operations[0], operations.size() > 1 ? operations[1] : nullptr, given, gpu);
  });
  return CUDNN_STATUS_SUCCESS;
}
}
