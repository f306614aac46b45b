// One result for each element: activations, sums, casts.
#include "activation.h"
#include "rows.h"

namespace elementwise_cu {

const uint32_t THREADS = 256;

// The first element of this thread's N.
template <int N>
DEVICE uint64_t first() { return (uint64_t(blockIdx.x) * blockDim.x + threadIdx.x) * N; }

struct UnaryArgs {
  Global<void_t> x;
  // May be x.
  Global<void_t> out;
  uint32_t vectors;
};

struct Silu { static DEVICE float of(float x) { return silu(x); } };
struct GeluTanh { static DEVICE float of(float x) { return gelu_tanh(x); } };
struct Same { static DEVICE float of(float x) { return x; } };

template <class F, class From, class To, int N>
DEVICE void map_some(const UnaryArgs& args) {
  Global<To> out = args.out.as<To>();
  uint64_t i = first<N>();
  if (i >= out.len) return;
  float v[N];
  load_floats(v, args.x.as<From>(), i);
  for (int n = 0; n < N; n++) v[n] = F::of(v[n]);
  store_floats(out, i, v);
}
template <class F, class From, class To>
DEVICE void map(const UnaryArgs& args) {
  if (args.vectors) map_some<F, From, To, 8>(args);
  else map_some<F, From, To, 1>(args);
}

template <class T> DEVICE void map_silu(const UnaryArgs& args) { map<Silu, T, T>(args); }
template <class T> DEVICE void map_gelu_tanh(const UnaryArgs& args) { map<GeluTanh, T, T>(args); }
KERNEL_FOR_FLOATS(silu, UnaryArgs, THREADS, 1, map_silu)
KERNEL_FOR_FLOATS(gelu_tanh, UnaryArgs, THREADS, 1, map_gelu_tanh)

KERNEL(cast_f32_f16, UnaryArgs, THREADS, 1) { map<Same, float, f16>(args); }
KERNEL(cast_f32_bf16, UnaryArgs, THREADS, 1) { map<Same, float, bf16>(args); }
KERNEL(cast_f16_f32, UnaryArgs, THREADS, 1) { map<Same, f16, float>(args); }
KERNEL(cast_f16_bf16, UnaryArgs, THREADS, 1) { map<Same, f16, bf16>(args); }
KERNEL(cast_bf16_f32, UnaryArgs, THREADS, 1) { map<Same, bf16, float>(args); }
KERNEL(cast_bf16_f16, UnaryArgs, THREADS, 1) { map<Same, bf16, f16>(args); }

struct AddArgs {
  Global<void_t> a;
  // Repeated along a.
  Global<void_t> b;
  // May be a.
  Global<void_t> out;
  uint32_t vectors;
};

template <class A, class B, int N>
DEVICE void add_some(const AddArgs& args) {
  Global<A> out = args.out.as<A>();
  uint64_t i = first<N>();
  if (i >= out.len) return;
  float v[N], b[N];
  load_floats(v, args.a.as<A>(), i);
  load_floats(b, args.b.as<B>(), args.b.len == out.len ? i : i % args.b.len);
  for (int n = 0; n < N; n++) v[n] += b[n];
  store_floats(out, i, v);
}
template <class A, class B>
DEVICE void add(const AddArgs& args) {
  if (args.vectors) add_some<A, B, 8>(args);
  else add_some<A, B, 1>(args);
}

template <class T> DEVICE void add_same(const AddArgs& args) { add<T, T>(args); }
KERNEL_FOR_FLOATS(add, AddArgs, THREADS, 1, add_same)
KERNEL(add_f32_f16, AddArgs, THREADS, 1) { add<float, f16>(args); }
KERNEL(add_f32_bf16, AddArgs, THREADS, 1) { add<float, bf16>(args); }

}  // namespace elementwise_cu
