// A library that stands in for cuBLASLt: the calls that `cublaslt.rs` makes, over the stand-in driver's memory.
//
// It multiplies as the manual says, in columns and with the descriptors' attributes, and refuses what the manual
// excludes: attributes of another size, rows of 8-bit floats that are no whole 16 bytes, scales for rows and columns
// on another GPU than Hopper, anything behind sums of integers. Two proposals differ in the order of their sums.
#include "driver.h"

#include <cublasLt.h>
#include <math.h>
#include <string.h>

#include "numbers.h"

using namespace stand_in;

namespace {

struct MatmulDesc {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  std::map<int, std::vector<unsigned char>> attributes;

  template <class T>
  T get(cublasLtMatmulDescAttributes_t attribute, T otherwise) const {
    auto found = attributes.find(attribute);
    if (found == attributes.end()) return otherwise;
    T value;
    memcpy(&value, found->second.data(), sizeof value);
    return value;
  }
  bool has_bias() const { return epilogue() & CUBLASLT_EPILOGUE_BIAS; }
  bool has_gelu() const { return epilogue() & CUBLASLT_EPILOGUE_GELU; }
  uint32_t epilogue() const { return get<uint32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT); }
  uint64_t pointer(cublasLtMatmulDescAttributes_t attribute) const { return get<uint64_t>(attribute, 0); }
  int32_t a_mode() const { return get<int32_t>(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, 0); }
  int32_t b_mode() const { return get<int32_t>(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, 0); }
};

struct MatrixLayout {
  cudaDataType type;
  uint64_t rows, columns;
  int64_t ld;
};

struct Preference {
  uint64_t workspace_bytes = 0;
  uint32_t alignment_bytes[4] = {256, 256, 256, 256};
};

const MatmulDesc& of(cublasLtMatmulDesc_t handle) { return *reinterpret_cast<MatmulDesc*>(handle); }
const MatrixLayout& of(cublasLtMatrixLayout_t handle) { return *reinterpret_cast<MatrixLayout*>(handle); }

Type type_of(cudaDataType type) {
  switch (type) {
    case CUDA_R_16F: return Type::F16;
    case CUDA_R_16BF: return Type::BF16;
    case CUDA_R_8F_E4M3: return Type::E4M3;
    case CUDA_R_8I: return Type::I8;
    case CUDA_R_32I: return Type::I32;
    default: return Type::F32;
  }
}

uint64_t bytes_of(const MatrixLayout& layout) {
  return ((layout.columns - 1) * layout.ld + layout.rows) * bytes_of(type_of(layout.type));
}

// The sizes of a product, D (m, n) = op(A) (m, k) op(B) (k, n), in columns.
struct Sizes { uint64_t m, n, k; };

// What the manual allows of what is asked for here (cuBLAS 13, "cublasLtMatmul()").
cublasStatus_t supported(const MatmulDesc& desc, const MatrixLayout& a, const MatrixLayout& b, const MatrixLayout& c,
                         const MatrixLayout& d, Sizes* sizes) {
  bool transposed_a = desc.get<int32_t>(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_N) == CUBLAS_OP_T;
  bool transposed_b = desc.get<int32_t>(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N) == CUBLAS_OP_T;
  if (!transposed_a || transposed_b) return CUBLAS_STATUS_NOT_SUPPORTED;
  *sizes = {a.columns, b.columns, a.rows};
  auto [m, n, k] = *sizes;
  bool fits = b.rows == k && d.rows == m && d.columns == n && c.rows == m && c.columns == n && c.type == d.type;
  bool in_columns = a.ld >= int64_t(a.rows) && b.ld >= int64_t(b.rows) && d.ld >= int64_t(d.rows) && c.ld == d.ld;
  if (!fits || !in_columns || a.type != b.type) return CUBLAS_STATUS_INVALID_VALUE;
  if (a.type == CUDA_R_8I) {
    bool in_integers = desc.compute == CUBLAS_COMPUTE_32I && desc.scale == CUDA_R_32I && d.type == CUDA_R_32I;
    bool alone = desc.epilogue() == CUBLASLT_EPILOGUE_DEFAULT && !desc.a_mode() && !desc.b_mode();
    return in_integers && alone && m % 4 == 0 && k % 4 == 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (desc.compute != CUBLAS_COMPUTE_32F || desc.scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  int32_t bias_type = desc.get<int32_t>(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, d.type);
  if (a.type != CUDA_R_8F_E4M3) {
    bool scaled = desc.a_mode() || desc.b_mode() || desc.pointer(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER);
    return a.type == d.type && bias_type == d.type && !scaled ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const World& w = world();
  int capability = w.major * 10 + w.minor;
  if (capability < 89 || m % 16 || k % 16 || d.type == CUDA_R_8F_E4M3) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (desc.has_bias() && bias_type != (d.type == CUDA_R_16F ? CUDA_R_16F : CUDA_R_16BF)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (desc.a_mode() != desc.b_mode()) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (desc.a_mode() == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F && capability != 90) return CUBLAS_STATUS_NOT_SUPPORTED;
  return CUBLAS_STATUS_SUCCESS;
}

// What a product reads and writes, at the host's addresses.
struct Operands {
  const unsigned char *a, *b, *c, *bias;
  const float *a_scales, *b_scales;
  unsigned char* d;
};

// A matrix' columns behind each other.
std::vector<float> widened(const unsigned char* data, const MatrixLayout& layout) {
  std::vector<float> all;
  for (uint64_t j = 0; j < layout.columns; j++)
    for (uint64_t l = 0; l < layout.rows; l++) all.push_back(element(data, type_of(layout.type), j * layout.ld + l));
  return all;
}

void multiply(const MatmulDesc& desc, const MatrixLayout& a, const MatrixLayout& b, const MatrixLayout& d, Sizes sizes,
              const Operands& at, float alpha, float beta, bool backwards) {
  bool vectors = desc.a_mode() == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
  Type out = type_of(d.type), bias = type_of(cudaDataType(desc.get<int32_t>(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, d.type)));
  std::vector<float> rows = widened(at.a, a), columns = widened(at.b, b);
  for (uint64_t j = 0; j < sizes.n; j++) {
    for (uint64_t i = 0; i < sizes.m; i++) {
      const float *row = &rows[i * sizes.k], *column = &columns[j * sizes.k];
      if (out == Type::I32) {
        int64_t integers = 0;
        for (uint64_t l = 0; l < sizes.k; l++) integers += int64_t(row[l]) * int64_t(column[l]);
        reinterpret_cast<int32_t*>(at.d)[j * d.ld + i] = int32_t(integers);
        continue;
      }
      float sum = 0;
      for (uint64_t l = 0; l < sizes.k; l++) {
        uint64_t term = backwards ? sizes.k - 1 - l : l;
        sum += row[term] * column[term];
      }
      if (at.a_scales) sum *= at.a_scales[vectors ? i : 0];
      if (at.b_scales) sum *= at.b_scales[vectors ? j : 0];
      sum *= alpha;
      if (beta != 0) sum += beta * element(at.c, out, j * d.ld + i);
      if (at.bias) sum += element(at.bias, bias, i);
      // The approximation by tanh.
      if (desc.has_gelu()) sum = 0.5f * sum * (1 + tanhf(0.7978845608f * (sum + 0.044715f * sum * sum * sum)));
      put(at.d, out, j * d.ld + i, sum);
    }
  }
}

}  // namespace

extern "C" {

size_t cublasLtGetVersion(void) { return 130002; }
const char* cublasLtGetStatusName(cublasStatus_t) { return "a status of the stand-in"; }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (!current) return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = reinterpret_cast<cublasLtHandle_t>(current);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType_t scale) {
  *desc = reinterpret_cast<cublasLtMatmulDesc_t>(new MatmulDesc{compute, scale, {}});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete reinterpret_cast<MatmulDesc*>(desc);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  size_t expected;
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
    case CUBLASLT_MATMUL_DESC_TRANSB:
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE: expected = 4; break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER: expected = 8; break;
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM: expected = 1; break;
    default: return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (bytes != expected) return CUBLAS_STATUS_INVALID_VALUE;
  const unsigned char* first = static_cast<const unsigned char*>(value);
  reinterpret_cast<MatmulDesc*>(desc)->attributes[attribute] = {first, first + bytes};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new MatrixLayout{type, rows, columns, ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete reinterpret_cast<MatrixLayout*>(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete reinterpret_cast<Preference*>(preference);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t handle,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  Preference& preference = *reinterpret_cast<Preference*>(handle);
  void* target;
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: target = &preference.workspace_bytes; break;
    // No proposal here splits its sums.
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return bytes == 4 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: target = &preference.alignment_bytes[0]; break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: target = &preference.alignment_bytes[1]; break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: target = &preference.alignment_bytes[2]; break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: target = &preference.alignment_bytes[3]; break;
    default: return CUBLAS_STATUS_INVALID_VALUE;
  }
  size_t expected = attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? 8 : 4;
  if (bytes != expected) return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(target, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t results[], int* count) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (reinterpret_cast<Gpu*>(handle) != current) return CUBLAS_STATUS_INVALID_VALUE;
  *count = 0;
  Sizes sizes;
  cublasStatus_t status = supported(of(desc), of(a), of(b), of(c), of(d), &sizes);
  const Preference& given = *reinterpret_cast<Preference*>(preference);
  for (uint32_t bytes : given.alignment_bytes)
    if (of(a).type == CUDA_R_8F_E4M3 && bytes < 16) status = CUBLAS_STATUS_NOT_SUPPORTED;
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  for (int i = 0; i < most && i < 2; i++) {
    results[i].state = CUBLAS_STATUS_SUCCESS;
    results[i].workspaceSize = given.workspace_bytes / 2;
    results[i].wavesCount = 1;
    // The number of the way, and the alignment that it takes for granted.
    results[i].algo.data[0] = uint64_t(i);
    for (int matrix = 0; matrix < 4; matrix++) results[i].algo.data[1 + matrix] = given.alignment_bytes[matrix];
    results[i].algo.data[5] = given.workspace_bytes / 2;
    (*count)++;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc_handle, const void* alpha_at,
                              const void* a_at, cublasLtMatrixLayout_t a_handle, const void* b_at,
                              cublasLtMatrixLayout_t b_handle, const void* beta_at, const void* c_at,
                              cublasLtMatrixLayout_t c_handle, void* d_at, cublasLtMatrixLayout_t d_handle,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream_handle) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  World& w = world();
  if (CUresult status = entered("cublasLtMatmul")) return w.fault ? CUBLAS_STATUS_EXECUTION_FAILED : cublasStatus_t(status);
  std::shared_ptr<Stream> stream = *reinterpret_cast<std::shared_ptr<Stream>*>(stream_handle);
  if (reinterpret_cast<Gpu*>(handle) != current || stream->gpu != current) return CUBLAS_STATUS_INVALID_VALUE;
  // The descriptors are read now, the memory when the work happens.
  MatmulDesc desc = of(desc_handle);
  MatrixLayout a = of(a_handle), b = of(b_handle), c = of(c_handle), d = of(d_handle);
  Sizes sizes;
  cublasStatus_t status = supported(desc, a, b, c, d, &sizes);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const uint64_t addresses[4] = {uint64_t(a_at), uint64_t(b_at), uint64_t(c_at), uint64_t(d_at)};
  for (int matrix = 0; matrix < 4; matrix++)
    if (addresses[matrix] % algorithm->data[1 + matrix]) return CUBLAS_STATUS_INVALID_VALUE;
  if (workspace_bytes < algorithm->data[5] || uint64_t(workspace) % 16) return CUBLAS_STATUS_INVALID_VALUE;
  bool vectors = desc.a_mode() == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
  bool backwards = algorithm->data[0] == 1;
  // Of the descriptor's scale type.
  auto factor = [&](const void* at) {
    return desc.scale == CUDA_R_32I ? float(*static_cast<const int32_t*>(at)) : *static_cast<const float*>(at);
  };
  float alpha = factor(alpha_at), beta = factor(beta_at);
  if (desc.scale == CUDA_R_32I && (alpha != 1 || beta != 0)) return CUBLAS_STATUS_NOT_SUPPORTED;
  const Gpu* gpu = current;
  uint64_t workspace_at = uint64_t(workspace), scratch_bytes = algorithm->data[5];
  std::vector<uint64_t> at(addresses, addresses + 4);
  w.enqueue(stream, [=, &w] {
    auto touch = [&](uint64_t address, uint64_t bytes) {
      return address ? w.touch(gpu, address, bytes, "cublasLtMatmul") : nullptr;
    };
    // Whatever was in it is lost.
    if (unsigned char* scratch = touch(workspace_at, scratch_bytes)) memset(scratch, 0xff, scratch_bytes);
    uint64_t bias_bytes = sizes.m * (desc.get<int32_t>(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, d.type) == CUDA_R_32F ? 4 : 2);
    auto scales = [&](cublasLtMatmulDescAttributes_t pointer, uint64_t count) {
      return reinterpret_cast<const float*>(touch(desc.pointer(pointer), (vectors ? count : 1) * 4));
    };
    Operands operands{touch(at[0], bytes_of(a)),
                      touch(at[1], bytes_of(b)),
                      touch(at[2], bytes_of(d)),
                      desc.has_bias() ? touch(desc.pointer(CUBLASLT_MATMUL_DESC_BIAS_POINTER), bias_bytes) : nullptr,
                      scales(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, sizes.m),
                      scales(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, sizes.n),
                      touch(at[3], bytes_of(d))};
    if (desc.has_bias() && !operands.bias) w.fail(CUDA_ERROR_ILLEGAL_ADDRESS, "cublasLtMatmul: no bias where one is added");
    if (w.fault == CUDA_SUCCESS) multiply(desc, a, b, d, sizes, operands, alpha, beta, backwards);
  });
  return CUBLAS_STATUS_SUCCESS;
}
}
