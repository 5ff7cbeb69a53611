// x86-64 with AVX-512 and its VNNI instructions: a register holds the sums of a row with all outputs of a panel.
#ifdef __x86_64__
#include "model.hpp"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")
#endif

#include <immintrin.h>

#define MULTIPLY_ADD _mm256_fmadd_ps

namespace {

constexpr int ROWS = 8;            // rows that share one reading of a panel from the first-level cache
constexpr int AHEAD = 8192;        // distance, in bytes, at which weights are prefetched
constexpr int GROUPS_AT_ONCE = 2;  // groups with separate sums, to hide the latency when there are few rows

template <int COUNT>
inline void dot_rows(const uint8_t* rows_u8, int64_t stride, const int8_t* panel, int groups, int32_t* tile) {
  __m512i sums[COUNT][GROUPS_AT_ONCE];
  for (int r = 0; r < COUNT; ++r) {
    sums[r][0] = _mm512_load_si512(tile + r * wenet_fusion::PANEL);
    for (int i = 1; i < GROUPS_AT_ONCE; ++i) sums[r][i] = _mm512_setzero_si512();
  }
  for (int g = 0; g < groups; g += GROUPS_AT_ONCE) {
    for (int i = 0; i < GROUPS_AT_ONCE; ++i) {
      const int8_t* weights = panel + 64 * (g + i);
      _mm_prefetch(reinterpret_cast<const char*>(weights) + AHEAD, _MM_HINT_T0);
      const __m512i w = _mm512_load_si512(weights);
      for (int r = 0; r < COUNT; ++r) {
        int32_t four;
        __builtin_memcpy(&four, rows_u8 + r * stride + 4 * (g + i), sizeof four);
        sums[r][i] = _mm512_dpbusd_epi32(sums[r][i], _mm512_set1_epi32(four), w);
      }
    }
  }
  for (int r = 0; r < COUNT; ++r) {
    for (int i = 1; i < GROUPS_AT_ONCE; ++i) sums[r][0] = _mm512_add_epi32(sums[r][0], sums[r][i]);
    _mm512_store_si512(tile + r * wenet_fusion::PANEL, sums[r][0]);
  }
}

int64_t multiply(int64_t turns) {
  constexpr int CHAINS = 16;  // independent sums, enough to hide the latency
  __m512i sums[CHAINS] = {};
  const __m512i x = _mm512_set1_epi8(3);
  for (int64_t turn = 0; turn < turns; ++turn) {
    for (__m512i& sum : sums) {
      sum = _mm512_dpbusd_epi32(sum, x, x);
      __asm__ volatile("" : "+v"(sum));  // the compiler must not merge several turns into one
    }
  }
  return CHAINS * 64;
}

bool is_served() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx2") &&
         __builtin_cpu_supports("fma");
}

}  // namespace

#include "rows.hpp"
#include "step.hpp"

extern const wenet_fusion::Kernels avx512_vnni_kernels = {"avx512_vnni", is_served, run_step, run_products, multiply};

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
