// x86-64 with AVX-512 and its VNNI instructions: a register holds 16 int32 sums, of one input row with the 16 outputs
// of a panel.
#ifdef __x86_64__
#include "model.hpp"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")
#endif

#include <immintrin.h>

#define MULTIPLY_ADD _mm256_fmadd_ps  // for multiply_add of lanes.hpp: one instruction for eight lanes
#define AVX512                        // for lanes.hpp: vectors of 16 lanes

namespace {

using wenet_fusion::GROUP;
using wenet_fusion::Start;

constexpr int PANEL = 32;                 // outputs of a panel: two registers
constexpr int ROWS = 8, CHUNK_ROWS = 16;  // see rows.hpp; 16 sums hide the latency of an addition
constexpr int REGISTERS = PANEL / 16;     // of the sums of a row
constexpr int AHEAD = 16384;              // weights are prefetched this many bytes before they are used

// Writes the sums of COUNT rows, `start` plus the products with `groups` groups of a panel, to `tile`; see rows.hpp.
template <int COUNT>
inline void dot_rows(const uint8_t* rows_u8, int64_t stride, const int8_t* panel, int groups, Start start,
                     int32_t* tile) {
  __m512i sums[COUNT][REGISTERS];
  for (int r = 0; r < COUNT; ++r)
    for (int i = 0; i < REGISTERS; ++i) sums[r][i] = _mm512_load_si512(start.first + r * start.step + 16 * i);
  for (int g = 0; g < groups; ++g) {
    __m512i weights[REGISTERS];
    for (int i = 0; i < REGISTERS; ++i) {
      const int8_t* from = panel + (g * REGISTERS + i) * 16 * GROUP;
      _mm_prefetch(reinterpret_cast<const char*>(from) + AHEAD, _MM_HINT_T0);
      weights[i] = _mm512_load_si512(from);
    }
    for (int r = 0; r < COUNT; ++r) {
      int32_t four;
      __builtin_memcpy(&four, rows_u8 + r * stride + GROUP * g, sizeof four);
      const __m512i x = _mm512_set1_epi32(four);
      for (int i = 0; i < REGISTERS; ++i) sums[r][i] = _mm512_dpbusd_epi32(sums[r][i], x, weights[i]);
    }
  }
  for (int r = 0; r < COUNT; ++r)
    for (int i = 0; i < REGISTERS; ++i) _mm512_store_si512(tile + r * PANEL + 16 * i, sums[r][i]);
}

// See Kernels::multiply.
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

// Whether this processor has the instructions of this file.
bool is_served() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

}  // namespace

#include "rows.hpp"
#include "step.hpp"

extern const wenet_fusion::Kernels avx512_vnni_kernels = {"avx512_vnni", PANEL,        is_served,
                                                          run_step,      run_products, multiply};

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
