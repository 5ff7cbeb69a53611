// Eight lanes of floats or integers. Every function here does the same operations in the same order on every processor:
// the compiler maps the lanes onto the processor's vectors. Sums of a vector have a fixed order. A multiplication
// is fused with an addition only by `multiply_add`, never by the compiler (-ffp-contract=off).
#pragma once

#include <cstdint>
#include <cstring>

namespace {

constexpr int LANES = 8;
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));

// For work whose results do not depend on the number of lanes: 16 lanes where the family's file defines AVX512, else 8.
#ifdef AVX512
typedef float Wide __attribute__((vector_size(64)));
#else
typedef Floats Wide;
#endif

// The functions below take and return `Floats` or `Wide` (F), or the integers in the same number of lanes.
template <class F>
constexpr int lanes = sizeof(F) / sizeof(float);
template <class F>
using IntsOf = decltype(F{} < F{});

template <class F = Floats>
inline F load(const float* p) {
  F x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

template <class F>
inline void store(float* p, F x) {
  std::memcpy(p, &x, sizeof x);
}

// The first `count` floats, zeros after them.
template <class F = Floats>
inline F load_part(const float* p, int count) {
  if (count == lanes<F>) return load<F>(p);
  F x = {};
  std::memcpy(&x, p, sizeof(float) * count);
  return x;
}

template <class F>
inline void store_part(float* p, F x, int count) {
  if (count == lanes<F>) return store(p, x);
  std::memcpy(p, &x, sizeof(float) * count);
}

template <class F>
inline IntsOf<F> load_ints(const int32_t* p, int count = lanes<F>) {
  IntsOf<F> x = {};
  if (count == lanes<F>) {
    std::memcpy(&x, p, sizeof x);
  } else {
    std::memcpy(&x, p, sizeof(int32_t) * count);
  }
  return x;
}

template <class F = Floats>
inline F all(float x) {
  return x - F{};
}

template <class F>
inline IntsOf<F> to_ints(F x) {
  return __builtin_convertvector(x, IntsOf<F>);
}

inline Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }

// a * b + c, rounded once. The file of a family may define an instruction for it (see step.hpp).
#ifndef MULTIPLY_ADD
inline Floats multiply_add(Floats a, Floats b, Floats c) {
  for (int i = 0; i < LANES; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}
#else
inline Floats multiply_add(Floats a, Floats b, Floats c) { return MULTIPLY_ADD(a, b, c); }
#endif
template <class F>
inline F maximum(F a, F b) {
  return a > b ? a : b;
}

template <class F>
inline F minimum(F a, F b) {
  return a < b ? a : b;
}

#ifdef AVX512
inline Wide to_floats(IntsOf<Wide> x) { return __builtin_convertvector(x, Wide); }
inline Wide multiply_add(Wide a, Wide b, Wide c) { return _mm512_fmadd_ps(a, b, c); }
// One instruction, for which the compiler would use two; GCC 12 warns of _mm512_max_ps by mistake.
inline Wide maximum(Wide a, Wide b) { return _mm512_maskz_max_ps(0xffff, a, b); }
inline Wide minimum(Wide a, Wide b) { return _mm512_maskz_min_ps(0xffff, a, b); }
#endif

// total + x; of 16 lanes, the first eight are added first.
inline Floats add(Floats total, Wide x) {
#ifdef AVX512
  return (total + __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7)) +
         __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  return total + x;
#endif
}

inline float sum(Floats x) {
  return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

inline float largest(Wide wide) {
#ifdef AVX512
  Floats x = __builtin_shufflevector(wide, wide, 0, 1, 2, 3, 4, 5, 6, 7);
  x = maximum(x, __builtin_shufflevector(wide, wide, 8, 9, 10, 11, 12, 13, 14, 15));
#else
  Floats x = wide;
#endif
  x = maximum(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 4, 5, 6, 7));
  x = maximum(x, __builtin_shufflevector(x, x, 2, 3, 2, 3, 4, 5, 6, 7));
  return x[1] > x[0] ? x[1] : x[0];
}

// Nearest integer, ties to even, of values below 2^22.
template <class F>
inline F rounded(F x) {
  const F magic = all<F>(12582912.0f);  // 1.5 * 2^23: the unit of its last place is 1
  return (x + magic) - magic;
}

// e^x, relative error below 3e-7; 0 below -87. After Cephes' expf.
template <class F>
inline F exponential(F x) {
  const F low = all<F>(-87.0f);
  const IntsOf<F> is_zero = x < low;
  x = minimum(maximum(x, low), all<F>(88.0f));
  const F n = rounded(x * all<F>(1.44269504088896341f));
  x = x - n * all<F>(0.693359375f);
  x = x - n * all<F>(-2.12194440e-4f);
  F y = all<F>(1.9875691500e-4f);
  constexpr float factors[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
  for (float factor : factors) y = multiply_add(y, x, all<F>(factor));
  y = y * (x * x) + x + all<F>(1.0f);
  const IntsOf<F> power = (to_ints(n) + 127) << 23;
  F scale;
  std::memcpy(&scale, &power, sizeof scale);
  return is_zero ? F{} : y * scale;
}

// Natural logarithm of normal numbers above 0. After Cephes' logf.
template <class F>
inline F logarithm(F x) {
  IntsOf<F> bits;
  std::memcpy(&bits, &x, sizeof bits);
  F exponent = to_floats((bits >> 23) - 126);
  bits = (bits & 0x007fffff) | 0x3f000000;  // mantissa in [0.5, 1)
  F m;
  std::memcpy(&m, &bits, sizeof m);
  const IntsOf<F> small = m < all<F>(0.707106781186547524f);
  exponent = small ? exponent - all<F>(1.0f) : exponent;
  m = (small ? m + m : m) - all<F>(1.0f);
  F y = all<F>(7.0376836292e-2f);
  constexpr float factors[] = {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                               -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
  for (float factor : factors) y = multiply_add(y, m, all<F>(factor));
  const F square = m * m;
  y = y * m * square + exponent * all<F>(-2.12194440e-4f) - all<F>(0.5f) * square;
  return m + y + exponent * all<F>(0.693359375f);
}

}  // namespace
