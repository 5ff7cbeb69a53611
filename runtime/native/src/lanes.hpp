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

inline Floats load(const float* p) {
  Floats x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

inline void store(float* p, Floats x) { std::memcpy(p, &x, sizeof x); }

// The first `count` floats, zeros after them.
inline Floats load_part(const float* p, int count) {
  if (count == LANES) return load(p);
  Floats x = {};
  std::memcpy(&x, p, sizeof(float) * count);
  return x;
}

inline void store_part(float* p, Floats x, int count) {
  if (count == LANES) return store(p, x);
  std::memcpy(p, &x, sizeof(float) * count);
}

inline Ints load_ints(const int32_t* p, int count = LANES) {
  Ints x = {};
  if (count == LANES) {
    std::memcpy(&x, p, sizeof x);
  } else {
    std::memcpy(&x, p, sizeof(int32_t) * count);
  }
  return x;
}

inline Floats all(float x) { return Floats{x, x, x, x, x, x, x, x}; }

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

inline Floats maximum(Floats a, Floats b) { return a > b ? a : b; }
inline Floats minimum(Floats a, Floats b) { return a < b ? a : b; }

inline float sum(Floats x) {
  return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

inline float largest(Floats x) {
  float found = x[0];
  for (int i = 1; i < LANES; ++i) found = x[i] > found ? x[i] : found;
  return found;
}

// The sums of eight vectors, in the order of `sum`.
inline Floats sums(const Floats x[LANES]) {
  Floats half[4], quarter[2];
  for (int i = 0; i < 4; ++i)  // lanes 0-3: x[2i], lanes 4-7: x[2i + 1]
    half[i] = __builtin_shufflevector(x[2 * i], x[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11) +
              __builtin_shufflevector(x[2 * i], x[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15);
  for (int i = 0; i < 2; ++i)  // pairs: x[4i], x[4i + 2], x[4i + 1], x[4i + 3]
    quarter[i] = __builtin_shufflevector(half[2 * i], half[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
                 __builtin_shufflevector(half[2 * i], half[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
  const Floats even = __builtin_shufflevector(quarter[0], quarter[1], 0, 4, 2, 6, 8, 12, 10, 14);
  const Floats odd = __builtin_shufflevector(quarter[0], quarter[1], 1, 5, 3, 7, 9, 13, 11, 15);
  return even + odd;
}

// Nearest integer, ties to even, of values below 2^22.
inline Floats rounded(Floats x) {
  const Floats magic = all(12582912.0f);  // 1.5 * 2^23: the unit of its last place is 1
  return (x + magic) - magic;
}

// e^x, relative error below 3e-7; 0 below -87. After Cephes' expf.
inline Floats exponential(Floats x) {
  const Floats low = all(-87.0f);
  const Ints is_zero = x < low;
  x = minimum(maximum(x, low), all(88.0f));
  const Floats n = rounded(x * all(1.44269504088896341f));
  x = x - n * all(0.693359375f);
  x = x - n * all(-2.12194440e-4f);
  Floats y = all(1.9875691500e-4f);
  constexpr float factors[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
  for (float factor : factors) y = multiply_add(y, x, all(factor));
  y = y * (x * x) + x + all(1.0f);
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  Floats scale;
  std::memcpy(&scale, &power, sizeof scale);
  return is_zero ? all(0.0f) : y * scale;
}

// Natural logarithm of normal numbers above 0. After Cephes' logf.
inline Floats logarithm(Floats x) {
  Ints bits;
  std::memcpy(&bits, &x, sizeof bits);
  Floats exponent = to_floats((bits >> 23) - 126);
  bits = (bits & 0x007fffff) | 0x3f000000;  // mantissa in [0.5, 1)
  Floats m;
  std::memcpy(&m, &bits, sizeof m);
  const Ints small = m < all(0.707106781186547524f);
  exponent = small ? exponent - all(1.0f) : exponent;
  m = (small ? m + m : m) - all(1.0f);
  Floats y = all(7.0376836292e-2f);
  constexpr float factors[] = {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                               -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
  for (float factor : factors) y = multiply_add(y, m, all(factor));
  const Floats square = m * m;
  y = y * m * square + exponent * all(-2.12194440e-4f) - all(0.5f) * square;
  return m + y + exponent * all(0.693359375f);
}

}  // namespace
